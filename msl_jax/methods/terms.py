"""The terms of the loss as data: the branch, the images and the labels of each."""

from collections.abc import Callable, Mapping
import dataclasses

import jax
import jax.numpy as jnp

from msl_jax.methods import losses
from msl_jax.methods.losses import Classes

Arrays = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Term:
    """One part of the loss.

    Attributes:
      branches: the branches it trains.
      images: a key of IMAGES, or the name of the method's setting with such a key.
      loss: (branch -> logits, labels, mean, classes, key) -> float32 scalar; logits and labels over `images`.
        `labels` has "label" (strong images only), "weak_label", and a guide's targets (weak images only), all of them
        wherever a mix has moved them. The PRNG key is that of the step, the same for all terms.
      watches: branches whose logits are targets and are not trained.
      label_map: name of the label map that determines the divisor; None for a mean over all pixels.
      divisor: (that label map, mean, classes) -> float32 scalar, the divisor of the mean.
      mean: what a cross-entropy averages over: a key of MEANS, or the name of the method's setting with such a key; for
        a Dice loss the setting "dice_sums".
      guide_targets: names of the guide's targets that it needs.
    """

    branches: tuple[str, ...]
    images: str
    loss: Callable[[Arrays, Arrays, str, Classes, jax.Array], jax.Array]
    watches: tuple[str, ...] = ()
    label_map: str | None = None
    divisor: Callable[[jax.Array, str, Classes], jax.Array] | None = None
    mean: str = "labelled"
    guide_targets: tuple[str, ...] = ()


def _cross_entropy(
    branch: str, images: str, label_map: str, mean: str = "labelled", guide_targets: tuple[str, ...] = ()
) -> Term:
    """Cross-entropy with annotations or a guide's proposals; class weights apply only here."""

    def loss(logits, maps, mean, classes, key):
        del key
        return losses.cross_entropy(logits[branch], maps[label_map], mean, classes)

    def divisor(labels, mean, classes):
        return losses.weigh(labels, mean, classes)[1]

    return Term((branch,), images, loss, label_map=label_map, divisor=divisor, mean=mean, guide_targets=guide_targets)


def _dice(branch: str, images: str, label_map: str, guide_targets: tuple[str, ...] = ()) -> Term:
    """Soft Dice loss with the same labels as a cross-entropy."""
    return Term(
        (branch,),
        images,
        lambda logits, maps, sums, classes, _: losses.dice(logits[branch], maps[label_map], sums, classes),
        label_map=label_map,
        divisor=lambda labels, sums, classes: losses.has_structure(labels, sums, classes).sum().astype(jnp.float32),
        mean="dice_sums",
        guide_targets=guide_targets,
    )


def _mixture(loss: Callable[[jax.Array, jax.Array], jax.Array]) -> Term:
    """Both branches learn a random mixture of their probabilities on all images: the mean of their losses."""

    def both(logits, maps, mean, classes, key):
        del maps, mean, classes
        share = jax.random.uniform(key)
        target = losses.mixture(logits["teacher"], logits["student"], share)
        return (loss(logits["teacher"], target) + loss(logits["student"], target)) / 2

    return Term(("teacher", "student"), "both", both)


def _entropy(branch: str) -> Term:
    return Term((branch,), "weak", lambda logits, *_: losses.entropy(logits[branch]))


def _pseudo_label(branch: str, images: str, target: str) -> Term:
    return Term(
        (branch,),
        images,
        lambda logits, *_: losses.pseudo_label(logits[branch], logits[target]),
        watches=() if target == branch else (target,),
    )


TERMS: Mapping[str, Term] = {
    # The papers' L_s and L_w: full cross-entropy of the teacher, partial cross-entropy of the student. "w_on", "w_mean"
    # and "kd_on" are settings of the method.
    "s": _cross_entropy("teacher", "strong", "label"),
    "w": _cross_entropy("student", "w_on", "weak_label", mean="w_mean"),
    # Their L_kd: the student follows the teacher, which this term does not train.
    "kd": Term(
        ("student",),
        "kd_on",
        lambda logits, *_: losses.kl_divergence(logits["teacher"], logits["student"]),
        watches=("teacher",),
    ),
    # Their L_ent, and the pseudo-labels that may replace it.
    "ent": _entropy("student"),
    "pseudo": _pseudo_label("student", "weak", target="student"),
    # Terms of the baselines and rivals.
    "student_s": _cross_entropy("student", "strong", "label"),
    "teacher_w": _cross_entropy("teacher", "weak", "weak_label"),
    "teacher_ent": _entropy("teacher"),
    "teacher_cross": _pseudo_label("teacher", "both", target="student"),
    "student_cross": _pseudo_label("student", "both", target="teacher"),
    "mixture_hard": _mixture(lambda logits, target: losses.dice(logits, target.argmax(-1).astype(jnp.int32))),
    # With two softmaxes, as in the published code of DMSPS, whose weight goes with them.
    "mixture_soft": _mixture(lambda logits, target: losses.soft_cross_entropy(jax.nn.softmax(logits), target)),
    "consistency": Term(
        ("teacher",),
        "weak",
        lambda logits, maps, *_: losses.consistency(logits["teacher"], maps["target"], maps["certain"]),
        label_map="certain",
        divisor=lambda certain, *_: losses.weigh(certain)[1],
        guide_targets=("target", "certain"),
    ),
    "proposal": _cross_entropy("teacher", "weak", "proposal", guide_targets=("proposal",)),
    "student_proposal": _cross_entropy("student", "weak", "proposal", guide_targets=("proposal",)),
    "dice": _dice("teacher", "strong", "label"),
    "w_dice": _dice("student", "w_on", "weak_label"),
    "student_s_dice": _dice("student", "strong", "label"),
    "teacher_w_dice": _dice("teacher", "weak", "weak_label"),
    "proposal_dice": _dice("teacher", "weak", "proposal", guide_targets=("proposal",)),
    "student_proposal_dice": _dice("student", "weak", "proposal", guide_targets=("proposal",)),
    "perturbed_dice": _dice("teacher", "perturbed", "proposal", guide_targets=("proposal",)),
}
DICE_OF: Mapping[str, str] = {
    "s": "dice",
    "w": "w_dice",
    "student_s": "student_s_dice",
    "teacher_w": "teacher_w_dice",
    "proposal": "proposal_dice",
    "student_proposal": "student_proposal_dice",
}
"""Cross-entropy term -> the Dice term with the same labels, which config.method.dice adds."""
