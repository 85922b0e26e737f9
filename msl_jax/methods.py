"""Every method as data: which terms, with which weights, over which images, and which other network it listens to.

One train step serves them all. A new term is a row of TERMS, a new method a row of METHODS.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from msl_jax import losses
from msl_jax.checks import Refused
from msl_jax.guides import AVERAGE, CERTAIN_AVERAGE, PROPOSALS, Guide
from msl_jax.losses import MEANS
from msl_jax.models.dual_branch import BRANCHES

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


@dataclasses.dataclass(frozen=True)
class Method:
    """A choice of terms and weights, and of who else is listened to.

    Attributes:
      terms: term -> weight; a term that is not named is not computed.
      rampup: term -> steps over which its weight rises to that, as exp(-5 (1 - t)^2); 0 for the full weight at once.
      kd_on: over which images the student follows the teacher, a key of SETS.
      w_on: from which images' weak labels the student learns, a key of SETS.
      w_mean: over what that is averaged, a key of MEANS.
      batch_norm: whether batch norm takes strong and weak images "together" or "apart", each set by its own statistics.
        Together, a network learns to tell the sets apart, and what it has learned of the strong images carries over to
        others less, or not at all where no full label and no teacher holds the weak ones.
      all_strong: every training patient's full mask is used, whatever config.data.strong says.
      dropout: rate at the coarsest level.
      guide: the network that makes further targets, if any.
      after: the method whose training goes before, as a stage of its own; its network is the guide.
      ema_decay: share of itself that a guide keeps at each step, the rest being the trained network; None for one that
        does not move.
      noise: standard deviation of what is added to the images that a guide sees.
      passes: how often a guide is asked for its uncertainty.
    """

    terms: Mapping[str, float]
    rampup: Mapping[str, int] = dataclasses.field(default_factory=dict)
    kd_on: str = "both"
    w_on: str = "both"
    w_mean: str = "labelled"
    batch_norm: str = "apart"
    all_strong: bool = False
    dropout: float = 0.0
    guide: Guide | None = None
    after: str | None = None
    ema_decay: float | None = None
    noise: float | None = None
    passes: int | None = None

    def stages(self) -> tuple["Method", ...]:
        """The methods to train one after the other, this one last."""
        return (*METHODS[self.after].stages(), self) if self.after else (self,)

    def images(self, term: str) -> tuple[str, ...]:
        """The sets of images a term is a mean over."""
        images = TERMS[term].images
        return SETS[images if images in SETS else getattr(self, images)]

    def mean(self, term: str) -> str:
        """What a term averages over, a key of MEANS."""
        mean = TERMS[term].mean
        return mean if mean in MEANS else getattr(self, mean)

    def forward_passes(self) -> tuple[tuple[str, ...], ...]:
        """The sets of images that each forward pass of a step takes."""
        return (self.sets(),) if self.batch_norm == "together" else tuple((name,) for name in self.sets())

    def reads(self, setting: str) -> bool:
        """Whether some term asks for this setting ("kd_on", "w_on", "w_mean"), or two sets for "batch_norm"."""
        if setting == "batch_norm":
            return len(self.sets()) > 1
        return any(setting in (TERMS[term].images, TERMS[term].mean) for term in self.terms)

    def guided(self) -> tuple[str, ...]:
        """The terms that need what the guide makes."""
        return tuple(term for term in self.terms if TERMS[term].made)

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
        read = self._sets_by_branch(lambda term: term.watches)
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
    # Two stages: the lower bound's masks of the weak images, taken for full ones (a baseline of arXiv 2109.10902).
    "proposals": Method({"s": 1.0, "proposal": 1.0}, guide=PROPOSALS, after="lower_bound"),
    # Two branches that share the encoder alone, the student's labels being weak (Luo and Yang, ECCV 2020).
    "decoupled": Method({"s": 1.0, "w": 0.05}),
    # Confidence without a teacher: everything may become one class, as arXiv 2012.08051 warns.
    "ent": Method({"s": 1.0, "w": 0.05, "ent": 1.0}),
    # Distillation without confidence (arXiv 2012.08051, "KL").
    "kl": Method({"s": 1.0, "w": 0.05, "kd": 1.0}),
    # The papers' method (arXiv 2012.08051, "KL + Ent").
    "kl_ent": Method({"s": 1.0, "w": 0.05, "kd": 1.0, "ent": 1.0}),
    # The student's own likeliest class in place of its entropy (arXiv 2109.10902, pseudo-labels).
    "kl_pseudo": Method({"s": 1.0, "w": 0.05, "kd": 1.0, "pseudo": 1.0}),
    # Semi-supervision, the weak images' labels unused. One branch, confidence on them (ADVENT: Vu et al., CVPR 2019).
    "entropy_min": Method({"s": 1.0, "teacher_ent": 0.001}),
    # Consistency with a moving average of the network (Tarvainen and Valpola, NeurIPS 2017: 40,000 steps, decay 0.99
    # at first; weight and noise as in UA-MT's published code, whose standardised intensities have 4 times the spread).
    "mean_teacher": Method(
        {"s": 1.0, "consistency": 0.1},
        {"consistency": 40_000},
        guide=AVERAGE,
        ema_decay=0.99,
        noise=0.02,
    ),
    # The same where that average is certain (Yu et al., MICCAI 2019: ramp-up over the whole run, 8 passes).
    "ua_mt": Method(
        {"s": 1.0, "consistency": 0.1},
        {"consistency": 6_000},
        dropout=0.5,
        guide=CERTAIN_AVERAGE,
        ema_decay=0.99,
        noise=0.02,
        passes=8,
    ),
    # Each branch learns the other's likeliest class (Chen et al., CVPR 2021), here with one encoder for both.
    "cps": Method({"s": 1.0, "student_s": 1.0, "teacher_cross": 1.5, "student_cross": 1.5}),
    # Full cross-entropy with every training patient's mask.
    "upper_bound": Method({"s": 1.0}, all_strong=True),
}


CHOICES = {"kd_on": SETS, "w_on": SETS, "w_mean": MEANS, "batch_norm": ("together", "apart")}
LIMITS = {"ema_decay": (0, 1), "noise": (0, 10), "passes": (1, 100)}


def ramp(step: jax.Array, steps: int) -> jax.Array:
    """exp(-5 (1 - t)^2) with t = step / steps up to 1, float32; 1 where `steps` is 0 (Laine and Aila, ICLR 2017)."""
    rest = 1.0 - jnp.clip(step.astype(jnp.float32) / max(steps, 1), 0.0, 1.0)
    return jnp.exp(-5.0 * jnp.square(rest)) if steps else jnp.ones((), jnp.float32)


def resolve(settings: Mapping[str, Any], dropout: float | None, steps: int) -> Method:
    """The method a config names, with what the config gives in place of the table's values.

    Args:
      settings: config.method as a dictionary: "name", a key of METHODS; "weak_weight", that of the cross-entropy with
        weak labels, of whichever branch the method trains with them; "terms", term -> weight, 0 leaving it out;
        "rampup", term -> steps; "kd_on", "w_on", "w_mean", "batch_norm", "ema_decay", "noise", "passes". None is
        the table's own.
      dropout: config.model.dropout; None for the method's own.
      steps: of a stage; a ramp-up is no longer.

    Raises:
      Refused: a name is unknown, a number impossible, a setting contradicts the terms, or no term teaches.
    """
    name = settings["name"]
    if name not in METHODS:
        raise Refused(f"config.method.name: there is no '{name}'; there are {', '.join(METHODS)}.")
    row = METHODS[name]
    given = {key: value for key, value in settings.items() if value is not None}
    weights = _merged(row.terms | _weak_weights(row.terms, settings["weak_weight"]), settings["terms"], "terms")
    terms = {term: weight for term, weight in weights.items() if weight}
    rampup = {term: min(length, steps) for term, length in _merged(row.rampup, settings["rampup"], "rampup").items()}
    if "s" not in terms:
        raise Refused("config.method.terms.s: is 0; without it nobody teaches, give it a weight above 0.")
    for term, length in rampup.items():
        if length and term not in weights:
            raise Refused(f"config.method.rampup.{term}: the term has no weight; there are {', '.join(terms)}.")
    for term in terms:
        if not set(TERMS[term].made) <= set(row.guide.makes if row.guide else ()):
            able = ", ".join(key for key, other in METHODS.items() if other.guide and term in other.terms)
            raise Refused(f"config.method.terms.{term}: '{name}' has nobody who makes its targets; {able} have.")
    for key in LIMITS:
        if key in given and getattr(row, key) is None:
            able = ", ".join(other for other in METHODS if getattr(METHODS[other], key) is not None)
            raise Refused(f"config.method.{key}: '{name}' does not use it; {able} do.")
        least, most = LIMITS[key]
        if not least <= given.get(key, least) < most:
            raise Refused(f"config.method.{key}: is {given[key]}; give a number from {least} to below {most}.")
    method = dataclasses.replace(
        row,
        terms=terms,
        rampup={term: length for term, length in rampup.items() if length and term in terms},
        dropout=row.dropout if dropout is None else dropout,
        **{key: given[key] for key in (*CHOICES, *LIMITS) if key in given},
    )
    for key, choices in CHOICES.items():
        if key in given and given[key] not in choices:
            raise Refused(f"config.method.{key}: there is no '{given[key]}'; there are {', '.join(choices)}.")
        if key in given and not method.reads(key):
            raise Refused(f"config.method.{key}: no term of '{name}' uses it; its terms are {', '.join(terms)}.")
    for term in terms:
        for branch in set(TERMS[term].watches) - set(method.branches()):
            raise Refused(
                f"config.method.terms.{term}: follows the {branch}, whom no term of '{name}' trains; give 0, or one "
                "that does a weight."
            )
    if not method.guided():
        return dataclasses.replace(method, guide=None, after=None, **dict.fromkeys(LIMITS))
    return method


def _weak_weights(terms: Mapping[str, float], weight: float | None) -> dict[str, float]:
    if weight is not None and not 0 < weight < float("inf"):
        raise Refused(f"config.method.weak_weight: is {weight}; give a number above 0.")
    return {} if weight is None else {term: weight for term in terms if TERMS[term].labels == "weak_label"}


def _merged(row: Mapping[str, float], given: Mapping[str, float | None], key: str) -> dict[str, float]:
    merged = dict(row) | {term: value for term, value in given.items() if value is not None}
    for term, value in merged.items():
        if term not in TERMS:
            raise Refused(f"config.method.{key}: there is no '{term}'; there are {', '.join(TERMS)}.")
        if not 0 <= value < float("inf"):
            raise Refused(f"config.method.{key}.{term}: is {value}; give a number from 0 up.")
    return merged


def class_weights(given: Any, structures: Sequence[str]) -> dict[str, float]:
    """The weight of every class in a cross-entropy with labels that people or a guide gave.

    Args:
      given: config.method.class_weights, name of a structure, or "background" -> weight; 1 where none is given.
      structures: the names there are, in the order of the classes.

    Returns:
      Name -> weight, background first; empty where all are 1.

    Raises:
      Refused: a name is unknown, a weight impossible, or all of them 0.
    """
    weights = dict.fromkeys(("background", *structures), 1.0)
    if not isinstance(given, Mapping):
        raise Refused(
            f"config.method.class_weights: is {given!r}; give names and weights like {{'{structures[0]}': 2}}."
        )
    for name, weight in given.items():
        if name not in weights:
            raise Refused(f"config.method.class_weights: there is no '{name}'; there are {', '.join(weights)}.")
        if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise Refused(f"config.method.class_weights: {name} has {weight!r}; give a number from 0 up.")
        weights[name] = float(weight)
    if not any(weights.values()):
        raise Refused("config.method.class_weights: all are 0; give one of them a weight above 0.")
    return weights if set(weights.values()) != {1.0} else {}
