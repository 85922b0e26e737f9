"""The terms of the loss as data: which branch, over which images, against which labels."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import jax
import jax.numpy as jnp

from msl_jax.methods import losses

SETS = {"strong": ("strong",), "weak": ("weak",), "both": ("strong", "weak")}
"""What a setting like `kd_on` names -> the sets of images it stands for."""
Arrays = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Term:
    """One part of the loss.

    Attributes:
      branches: whose logits it trains.
      images: a key of SETS, or the setting of a method that holds one.
      loss: (branch -> logits, labels, mean, class_weights) -> float32 scalar; logits and labels over `images`. `labels`
        holds "label" (strong images alone), "weak_label" and what a guide makes (weak images alone).
      watches: branches whose logits it reads and does not train.
      labels: the label map that says over what it is a mean; None where it is one over all pixels.
      divisor: (that label map, mean, class_weights) -> float32 scalar, what the sum is divided by that makes the mean.
      mean: over what of the labelled: a key of MEANS, or the setting of a method that holds one.
      made: what it needs a guide to make.
    """

    branches: tuple[str, ...]
    images: str
    loss: Callable[[Arrays, Arrays, str, Sequence[float]], jax.Array]
    watches: tuple[str, ...] = ()
    labels: str | None = None
    divisor: Callable[[jax.Array, str, Sequence[float]], jax.Array] | None = None
    mean: str = "labelled"
    made: tuple[str, ...] = ()


def _cross_entropy(branch: str, images: str, labels: str, mean: str = "labelled", made: tuple[str, ...] = ()) -> Term:
    """With labels that people or a guide gave: where class weights apply."""

    def loss(logits, maps, mean, class_weights):
        return losses.cross_entropy(logits[branch], maps[labels], mean, class_weights)

    def divisor(labels, mean, class_weights):
        return losses.weigh(labels, mean, class_weights)[1]

    return Term((branch,), images, loss, labels=labels, divisor=divisor, mean=mean, made=made)


def _entropy(branch: str) -> Term:
    return Term((branch,), "weak", lambda logits, *_: losses.entropy(logits[branch]))


def _pseudo_label(branch: str, images: str, of: str) -> Term:
    return Term(
        (branch,),
        images,
        lambda logits, *_: losses.pseudo_label(logits[branch], logits[of]),
        watches=() if of == branch else (of,),
    )


TERMS: Mapping[str, Term] = {
    "s": _cross_entropy("teacher", "strong", "label"),
    "w": _cross_entropy("student", "w_on", "weak_label", mean="w_mean"),
    "kd": Term(
        ("student",),
        "kd_on",
        lambda logits, *_: losses.kl_divergence(logits["teacher"], logits["student"]),
        watches=("teacher",),
    ),
    "ent": _entropy("student"),
    "pseudo": _pseudo_label("student", "weak", of="student"),
    "student_s": _cross_entropy("student", "strong", "label"),
    "teacher_w": _cross_entropy("teacher", "weak", "weak_label"),
    "teacher_ent": _entropy("teacher"),
    "teacher_cross": _pseudo_label("teacher", "both", of="student"),
    "student_cross": _pseudo_label("student", "both", of="teacher"),
    "consistency": Term(
        ("teacher",),
        "weak",
        lambda logits, maps, *_: losses.consistency(logits["teacher"], maps["target"], maps["certain"]),
        labels="certain",
        divisor=lambda certain, *_: losses.weigh(certain)[1],
        made=("target", "certain"),
    ),
    "proposal": _cross_entropy("teacher", "weak", "proposal", made=("proposal",)),
    "dice": Term(
        ("teacher",),
        "strong",
        lambda logits, maps, *_: losses.dice(logits["teacher"], maps["label"]),
        labels="label",
        divisor=lambda labels, *_: losses.holds_structure(labels).sum().astype(jnp.float32),
    ),
}
