"""Every method as data: its terms and weights, the images of each term, and its guide.

One train step serves all methods. A new term is a row of TERMS, a new method a row of METHODS.
"""

from collections.abc import Callable, Mapping
import dataclasses

import jax
import jax.numpy as jnp

from msl_jax.methods.guides import (
    AVERAGE,
    CERTAIN_AVERAGE,
    CLEANED,
    CONFIDENT,
    ENSEMBLE,
    PROPOSALS,
    RELIABLE,
    Guide,
)
from msl_jax.methods.losses import MEANS
from msl_jax.methods.mixing import MIXES
from msl_jax.methods.terms import TERMS, Term
from msl_jax.methods.views import IMAGES, ORDER, VIEWS, View
from msl_jax.models.dual_branch import BRANCHES


@dataclasses.dataclass(frozen=True)
class Method:
    """Terms with weights, and a guide if the method has one.

    >>> method = METHODS["kl_ent"]
    >>> method.sets(), method.branches()
    (('strong', 'weak'), {'teacher': ('strong',), 'student': ('strong', 'weak')})
    >>> method.watched(), method.forward_passes()
    ({'teacher': ('weak',)}, (('strong',), ('weak',)))

    Attributes:
      terms: term -> weight; terms not listed are not computed.
      rampup: term -> steps over which its weight rises, as exp(-5 (1 - t)^2); 0 for the full weight from the start.
      kd_on: images on which the student follows the teacher, a key of SETS.
      w_on: images whose weak labels train the student, a key of SETS.
      w_mean: what the cross-entropy with these labels averages over, a key of MEANS.
      dice_sums: what the sums of a Dice loss run over, a key of DICE_SUMS.
      mix: how images are mixed, a key of MIXES.
      batch_norm: whether batch norm computes the statistics of strong and weak images "together" or "apart". Together,
        the network learns to tell the sets apart, and transfers less from strong images to others, or nothing if
        neither full labels nor a teacher constrain the weak images. None for a network without batch norm.
      all_strong: use every training patient's full mask and ignore config.data.strong.
      dropout: rate at the coarsest level.
      feature_dropout: branch -> rate at which the features are dropped that its decoder gets in training.
      guide: how a second network makes further targets; None for no guide.
      previous: the stage before this one; None for a single stage.
      continues: whether training starts with the weights of the stage before.
      ema_decay: decay per step of the moving average of the trained network, which is the guide. None for a guide that
        is the network of the stage before, or the trained network itself if there is only one stage.
      averages: number of these moving averages, 1 or 2; two are updated in turn.
      noise: standard deviation of the noise added to the guide's images.
      passes: number of the guide's forward passes for its uncertainty.
      confidence: least probability of the guide's guesses.
    """

    terms: Mapping[str, float]
    rampup: Mapping[str, int] = dataclasses.field(default_factory=dict)
    kd_on: str = "both"
    w_on: str = "both"
    w_mean: str = "labelled"
    dice_sums: str = "batch"
    mix: str = "none"
    batch_norm: str | None = "apart"
    all_strong: bool = False
    dropout: float = 0.0
    feature_dropout: Mapping[str, float] = dataclasses.field(default_factory=dict)
    guide: Guide | None = None
    previous: "Method | None" = None
    continues: bool = False
    ema_decay: float | None = None
    averages: int = 1
    noise: float | None = None
    passes: int | None = None
    confidence: float | None = None

    def stages(self) -> tuple["Method", ...]:
        """The methods to train one after another, this one last."""
        return (*self.previous.stages(), self) if self.previous else (self,)

    def sets_of(self, term: str) -> tuple[str, ...]:
        """The sets of images that a term averages over; labels that a mix moves to other sets are used there, too."""
        images = TERMS[term].images
        sets = IMAGES[images if images in IMAGES else getattr(self, images)]
        mixed = MIXES[self.mix].sets
        if not TERMS[term].label_map or not set(sets) & set(mixed):
            return sets
        return tuple(name for name in ORDER if name in (*sets, *mixed))

    def mean_of(self, term: str) -> str:
        """What a term's cross-entropy averages over, a key of MEANS, or its Dice sums over, a key of DICE_SUMS."""
        mean = TERMS[term].mean
        return mean if mean in MEANS else getattr(self, mean)

    def forward_passes(self) -> tuple[tuple[str, ...], ...]:
        """The sets of images in each forward pass of a step."""
        return tuple((name,) for name in self.sets()) if self.batch_norm == "apart" else (self.sets(),)

    def reads(self, setting: str) -> bool:
        """Whether a setting has an effect.

        A term uses it, like "kd_on" or "w_mean"; "batch_norm" needs two sets; "mix" is none, or needs its sets' images.
        """
        if setting == "batch_norm":
            return self.batch_norm is not None and len(self.sets()) > 1
        if setting == "mix":
            return set(MIXES[self.mix].sets) <= set(self.sets())
        return any(setting in (TERMS[term].images, TERMS[term].mean) for term in self.terms)

    def guided_terms(self) -> tuple[str, ...]:
        """The terms that need a guide's targets."""
        return tuple(term for term in self.terms if TERMS[term].guide_targets)

    def sets(self) -> tuple[str, ...]:
        """The sets of images that the method trains on, strong first, views last."""
        used = {name for term in self.terms for name in self.sets_of(term)}
        return tuple(name for name in ORDER if name in used)

    def views(self) -> dict[str, View]:
        """The sets that are views of others."""
        return {name: VIEWS[name] for name in self.sets() if name in VIEWS}

    def loaded_sets(self) -> tuple[str, ...]:
        """The sets whose images are read: "strong", "weak"."""
        used = {self.views()[name].of if name in VIEWS else name for name in self.sets()}
        return tuple(name for name in ORDER if name in used)

    def versions(self) -> dict[str, tuple[str, ...]]:
        """Set that is read -> the versions of its images that views and the guide use, besides "image"."""
        used = {(view.of, view.version) for view in self.views().values()}
        if self.guide:
            used |= {(name, self.guide.version) for name in self.guide.sets}
        return {name: tuple(sorted(v for of, v in used if of == name and v != "image")) for name in self.loaded_sets()}

    def branches(self) -> dict[str, tuple[str, ...]]:
        """Branch -> the sets of images on which a term trains it, the teacher first."""
        return self._sets_by_branch(lambda term: term.branches)

    def watched(self) -> dict[str, tuple[str, ...]]:
        """Branch -> the sets of images on which it is a target but not trained."""
        trained = self.branches()
        targets = self._sets_by_branch(lambda term: term.watches)
        rest = {branch: tuple(s for s in sets if s not in trained[branch]) for branch, sets in targets.items()}
        return {branch: sets for branch, sets in rest.items() if sets}

    def _sets_by_branch(self, branches_of: Callable[[Term], tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        used = {
            (branch, name) for term in self.terms for branch in branches_of(TERMS[term]) for name in self.sets_of(term)
        }
        sets = {branch: tuple(s for s in ORDER if (branch, s) in used) for branch in BRANCHES}
        return {branch: names for branch, names in sets.items() if names}


DUAL = {"s": 1.0, "student_s": 1.0, "teacher_w": 1.0, "w": 1.0}
"""Both branches learn from all labels."""
LOWER_BOUND = Method({"s": 1.0})
DMSPS_FIRST = Method(DUAL | {"mixture_soft": 16.0}, w_on="weak", feature_dropout={"student": 0.5})
COPY_PASTE = Method({"s": 1.0, "dice": 1.0}, mix="strong")
METHODS: Mapping[str, Method] = {
    # Full cross-entropy on the strong images only.
    "lower_bound": LOWER_BOUND,
    # One branch: full cross-entropy on strong images, partial on weak ones (a baseline of arXiv 2012.08051).
    "single": Method({"s": 1.0, "teacher_w": 0.05}),
    # Two stages: the lower bound's predictions on the weak images, used as full masks (a baseline of arXiv 2109.10902).
    "proposals": Method({"s": 1.0, "proposal": 1.0}, guide=PROPOSALS, previous=LOWER_BOUND),
    # Two branches that share only the encoder; the student learns from weak labels (Luo and Yang, ECCV 2020).
    "decoupled": Method({"s": 1.0, "w": 0.05}),
    # Entropy without distillation: may collapse to one class, as arXiv 2012.08051 warns.
    "ent": Method({"s": 1.0, "w": 0.05, "ent": 1.0}),
    # Distillation without entropy (arXiv 2012.08051, "KL").
    "kl": Method({"s": 1.0, "w": 0.05, "kd": 1.0}),
    # The papers' method (arXiv 2012.08051, "KL + Ent").
    "kl_ent": Method({"s": 1.0, "w": 0.05, "kd": 1.0, "ent": 1.0}),
    # Pseudo-labels of the student instead of its entropy (arXiv 2109.10902).
    "kl_pseudo": Method({"s": 1.0, "w": 0.05, "kd": 1.0, "pseudo": 1.0}),
    # Scribbles as the only other labels: partial cross-entropy with every label, in one branch.
    "partial_ce": Method({"s": 1.0, "teacher_w": 1.0}),
    # Two branches learn a random mixture of both: its arg-max (DMPLS: Luo et al., MICCAI 2022), or its probabilities
    # (DMSPS: Han et al., MedIA 2024). Weights are twice the published ones, so that those of labels are 1. The second
    # stage of DMSPS goes on from the first one and learns from its certain guesses, too.
    "dmpls": Method(DUAL | {"mixture_hard": 1.0}, w_on="weak", feature_dropout={"student": 0.5}),
    "dmsps_first": DMSPS_FIRST,
    "dmsps": Method(
        {"s": 1.0, "student_s": 1.0, "proposal": 1.0, "student_proposal": 1.0, "mixture_soft": 16.0},
        feature_dropout={"student": 0.5},
        guide=RELIABLE,
        previous=DMSPS_FIRST,
        continues=True,
    ),
    # From here on semi-supervised: weak labels are not used. Entropy on weak images (ADVENT: Vu et al., CVPR 2019).
    "entropy_min": Method({"s": 1.0, "teacher_ent": 0.001}),
    # Consistency with a moving average of the network (Tarvainen and Valpola, NeurIPS 2017: 40,000 steps, initial decay
    # 0.99). Weight and noise as in UA-MT's published code, whose standardised intensities have 4 times the spread.
    "mean_teacher": Method(
        {"s": 1.0, "consistency": 0.1},
        {"consistency": 40_000},
        guide=AVERAGE,
        ema_decay=0.99,
        noise=0.02,
    ),
    # Mean Teacher on pixels where the average is certain (Yu et al., MICCAI 2019: ramp-up over all steps, 8 passes).
    "ua_mt": Method(
        {"s": 1.0, "consistency": 0.1},
        {"consistency": 6_000},
        dropout=0.5,
        guide=CERTAIN_AVERAGE,
        ema_decay=0.99,
        noise=0.02,
        passes=8,
    ),
    # Copy-paste of boxes among strong images, and BCP (Bai et al., CVPR 2023), which starts from it: boxes move between
    # strong and weak images, whose labels are guesses of the average. Annotations override guesses.
    "copy_paste": COPY_PASTE,
    "bcp": Method(
        {"s": 1.0, "dice": 1.0, "proposal": 0.5, "proposal_dice": 0.5},
        mix="exchange",
        guide=CLEANED,
        previous=COPY_PASTE,
        continues=True,
        ema_decay=0.99,
    ),
    # UniMatch (Yang et al., CVPR 2023): guesses of the trained network on plain images teach it two strongly augmented
    # and mixed views, and perturbed features, where they are confident. Annotations override guesses.
    "unimatch": Method(
        {"s": 1.0, "dice": 1.0, "proposal_dice": 1.0, "perturbed_dice": 1.0},
        mix="views",
        guide=CONFIDENT,
        confidence=0.95,
    ),
    # AD-MT (Zhao et al., ECCV 2024): two averages, updated in turn, guess together on plain images; the trained network
    # is heard where they conflict. Weights are twice those of the published code, whose 30,000 steps start with a
    # ramp-up of 7,500.
    "ad_mt": Method(
        {"s": 1.0, "dice": 1.0, "proposal_dice": 4.0},
        {"proposal_dice": 7_500},
        mix="weak",
        guide=ENSEMBLE,
        ema_decay=0.99,
        averages=2,
        confidence=0.95,
    ),
    # Cross pseudo supervision: each branch learns the other's arg-max (Chen et al., CVPR 2021); the encoder is shared.
    "cps": Method({"s": 1.0, "student_s": 1.0, "teacher_cross": 1.5, "student_cross": 1.5}),
    # Full cross-entropy with every training patient's mask.
    "upper_bound": Method({"s": 1.0}, all_strong=True),
}


def ramp(step: jax.Array, steps: int) -> jax.Array:
    """exp(-5 (1 - t)^2) with t = min(step / steps, 1), float32; 1 if `steps` is 0 (Laine and Aila, ICLR 2017)."""
    rest = 1.0 - jnp.clip(step.astype(jnp.float32) / max(steps, 1), 0.0, 1.0)
    return jnp.exp(-5.0 * jnp.square(rest)) if steps else jnp.ones((), jnp.float32)
