"""Every method as data: which terms, with which weights, over which images, and which other network it listens to.

One train step serves them all. A new term is a row of TERMS, a new method a row of METHODS.
"""

from collections.abc import Callable, Mapping
import dataclasses

import jax
import jax.numpy as jnp

from msl_jax.methods.guides import AVERAGE, CERTAIN_AVERAGE, PROPOSALS, Guide
from msl_jax.methods.losses import MEANS
from msl_jax.methods.terms import SETS, TERMS, Term
from msl_jax.models.dual_branch import BRANCHES


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


def ramp(step: jax.Array, steps: int) -> jax.Array:
    """exp(-5 (1 - t)^2) with t = step / steps up to 1, float32; 1 where `steps` is 0 (Laine and Aila, ICLR 2017)."""
    rest = 1.0 - jnp.clip(step.astype(jnp.float32) / max(steps, 1), 0.0, 1.0)
    return jnp.exp(-5.0 * jnp.square(rest)) if steps else jnp.ones((), jnp.float32)
