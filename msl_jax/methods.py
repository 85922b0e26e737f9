"""Every method as data: which terms, with which weights, over which images.

One train step serves them all. A new term is a row of TERMS, a new method a row of METHODS.
"""

from collections.abc import Callable, Mapping
import dataclasses

import jax

from msl_jax import losses
from msl_jax.checks import Refused
from msl_jax.models.dual_branch import BRANCHES

SETS = {"strong": ("strong",), "weak": ("weak",), "both": ("strong", "weak")}
"""What a setting like `kd_on` names -> the sets of images it stands for."""


@dataclasses.dataclass(frozen=True)
class Term:
    """One part of the loss.

    Attributes:
      branches: whose logits it trains.
      images: a key of SETS, or None for the method's `kd_on`.
      loss: (branch -> logits, labels) -> float32 scalar; both over `images`. `labels` holds "label" (strong images
        alone) and "weak_label".
      targets: branches whose logits it reads and does not train.
      labels: the label map over whose labelled pixels it is a mean; None where it is one over all pixels.
    """

    branches: tuple[str, ...]
    images: str | None
    loss: Callable[[Mapping[str, jax.Array], Mapping[str, jax.Array]], jax.Array]
    targets: tuple[str, ...] = ()
    labels: str | None = None


TERMS: Mapping[str, Term] = {
    "s": Term(
        ("teacher",),
        "strong",
        lambda logits, labels: losses.cross_entropy(logits["teacher"], labels["label"]),
        labels="label",
    ),
    "w": Term(
        ("student",),
        "both",
        lambda logits, labels: losses.cross_entropy(logits["student"], labels["weak_label"]),
        labels="weak_label",
    ),
    "kd": Term(
        ("student",),
        None,
        lambda logits, _: losses.kl_divergence(logits["teacher"], logits["student"]),
        targets=("teacher",),
    ),
    "ent": Term(("student",), "weak", lambda logits, _: losses.entropy(logits["student"])),
    "pseudo": Term(("student",), "weak", lambda logits, _: losses.pseudo_label(logits["student"], logits["student"])),
    "teacher_w": Term(
        ("teacher",),
        "weak",
        lambda logits, labels: losses.cross_entropy(logits["teacher"], labels["weak_label"]),
        labels="weak_label",
    ),
    "teacher_ent": Term(("teacher",), "weak", lambda logits, _: losses.entropy(logits["teacher"])),
}


@dataclasses.dataclass(frozen=True)
class Method:
    """A choice of terms and weights.

    Attributes:
      terms: term -> weight; a term that is not named is not computed.
      kd_on: over which images the student follows the teacher, a key of SETS.
      all_strong: every training patient's full mask is used, whatever config.data.strong says.
    """

    terms: Mapping[str, float]
    kd_on: str = "both"
    all_strong: bool = False

    def images(self, term: str) -> tuple[str, ...]:
        """The sets of images a term is a mean over."""
        return SETS[TERMS[term].images or self.kd_on]

    def sets(self) -> tuple[str, ...]:
        """The sets of images the method uses at all, strong first."""
        used = {name for term in self.terms for name in self.images(term)}
        return tuple(name for name in SETS["both"] if name in used)

    def branches(self) -> dict[str, tuple[str, ...]]:
        """Branch -> the sets of images on which some term trains it, the teacher first."""
        return self._sets_by_branch(lambda term: term.branches)

    def watched(self) -> dict[str, tuple[str, ...]]:
        """Branch -> the sets of images on which it is read as a target and not trained."""
        trained = self.branches()
        read = self._sets_by_branch(lambda term: term.targets)
        rest = {branch: tuple(s for s in sets if s not in trained[branch]) for branch, sets in read.items()}
        return {branch: sets for branch, sets in rest.items() if sets}

    def _sets_by_branch(self, of: Callable[[Term], tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        used = [(branch, name) for term in self.terms for branch in of(TERMS[term]) for name in self.images(term)]
        sets = {branch: tuple(s for s in SETS["both"] if (branch, s) in used) for branch in BRANCHES}
        return {branch: names for branch, names in sets.items() if names}


METHODS: Mapping[str, Method] = {
    # Full cross-entropy on the few strong images and nothing else.
    "lower_bound": Method({"s": 1.0}),
    # One branch: full cross-entropy on strong images, partial on weak ones (a baseline of arXiv 2012.08051).
    "single": Method({"s": 1.0, "teacher_w": 0.05}),
    # Two branches that share the encoder alone, the student's labels being weak (Luo and Yang, ECCV 2020).
    "decoupled": Method({"s": 1.0, "w": 0.05}),
    # One branch, full masks and confidence on unlabelled images (ADVENT: Vu et al., CVPR 2019).
    "entropy_min": Method({"s": 1.0, "teacher_ent": 0.001}),
    # Confidence without a teacher: everything may become one class, as arXiv 2012.08051 warns.
    "ent": Method({"s": 1.0, "w": 0.05, "ent": 0.3}),
    # Distillation without confidence (arXiv 2012.08051, "KL").
    "kl": Method({"s": 1.0, "w": 0.05, "kd": 1.0}),
    # The papers' method (arXiv 2012.08051, "KL + Ent").
    "kl_ent": Method({"s": 1.0, "w": 0.05, "kd": 1.0, "ent": 0.3}),
    # The student's own likeliest class in place of its entropy (arXiv 2109.10902, pseudo-labels).
    "kl_pseudo": Method({"s": 1.0, "w": 0.05, "kd": 1.0, "pseudo": 0.3}),
    # Full cross-entropy with every training patient's mask.
    "upper_bound": Method({"s": 1.0}, all_strong=True),
}


def resolve(name: str, terms: Mapping[str, float | None], kd_on: str | None) -> Method:
    """The method of that name with the weights and `kd_on` that a config gives in place of the table's.

    Args:
      name: a key of METHODS.
      terms: term -> weight, None for the table's own; 0 leaves the term out.
      kd_on: a key of SETS, None for the table's own.

    Raises:
      Refused: a name is unknown, a weight negative, or no term is left.
    """
    if name not in METHODS:
        raise Refused(f"config.method.name: there is no '{name}'; there are {', '.join(METHODS)}.")
    method = METHODS[name]
    weights = dict(method.terms) | {term: weight for term, weight in terms.items() if weight is not None}
    for term, weight in weights.items():
        if term not in TERMS:
            raise Refused(f"config.method.terms: there is no '{term}'; there are {', '.join(TERMS)}.")
        if not 0 <= weight < float("inf"):
            raise Refused(f"config.method.terms.{term}: is {weight}; a weight is a number from 0 up.")
    weights = {term: weight for term, weight in weights.items() if weight}
    if "s" not in weights:
        raise Refused("config.method.terms.s: is 0; without it nobody teaches, give it a weight above 0.")
    if kd_on is not None and kd_on not in SETS:
        raise Refused(f"config.method.kd_on: there is no '{kd_on}'; there are {', '.join(SETS)}.")
    return dataclasses.replace(method, terms=weights, kd_on=kd_on or method.kd_on)
