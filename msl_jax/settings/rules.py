"""Validation of a config before the first step, and its error messages.

A rule for one setting is a row of RULES, a rule for several settings a row of CROSS_RULES.
"""

from collections.abc import Callable, Collection
import itertools
import math
import operator
import re
from typing import Any

from ml_collections import ConfigDict

from msl_jax.data.intensity import NORMALIZATIONS
from msl_jax.data.preparation import AUTO, SPACINGS
from msl_jax.data.protocols import PROTOCOLS
from msl_jax.data.weak_labels import DRAWN, RECIPES
from msl_jax.errors import InputError
from msl_jax.models.dual_branch import NETWORKS
from msl_jax.settings.optimizer import SCHEDULES

DTYPES = ("float32", "bfloat16")
CHECKPOINTS = ("last", "best")
POSTPROCESSINGS = ("auto", "none", "largest")
Check = Callable[[Any], str]
"""A value -> the problem and the fix; "" if the value is valid."""


def check_config(config: ConfigDict) -> None:
    """Checks the settings that can be checked without the data; those that are "auto" are valid.

    Raises:
      InputError: a setting is invalid; the message names it, its value and valid values.
    """
    for key, check in RULES:
        _raise_if(check(operator.attrgetter(key)(config)), key)
    for key, check in CROSS_RULES:
        _raise_if(check(config), key)


def _raise_if(problem: str, key: str) -> None:
    if problem:
        raise InputError(f"config.{key}: {problem}.")


def such_that(is_valid: Callable[[Any], bool], cure: str) -> Check:
    """Values for which `is_valid` is true; `cure` tells the user what to do."""
    return lambda value: "" if is_valid(value) else f"is {value}; {cure}"


def at_least(least: int, what: str = "a whole number") -> Check:
    """Numbers of at least `least`.

    >>> at_least(1)(0)
    'is 0; give a whole number, at least 1'
    """
    return such_that(lambda value: value >= least, f"give {what}, at least {least}")


def or_auto(least: int) -> Check:
    """AUTO, or whole numbers of at least `least`, of a setting that takes any type.

    >>> or_auto(1)("auto"), or_auto(1)(2.5)
    ('', 'is 2.5; give auto, or a whole number, at least 1')
    """
    return such_that(
        lambda value: value == AUTO or (type(value) is int and value >= least),
        f"give {AUTO}, or a whole number, at least {least}",
    )


def between(least: int, most: int, what: str = "a whole number") -> Check:
    """Numbers from `least` to `most`, both included.

    >>> between(0, 255)(256)
    'is 256; give a whole number from 0 to 255'
    """
    return such_that(lambda value: least <= value <= most, f"give {what} from {least} to {most}")


def one_of(*known: Collection[Any]) -> Check:
    """The members of these collections at the time of the check (plugins may add some).

    >>> one_of((0, 1), (2,))(3)
    'is 3; give one of 0, 1, 2'
    """

    def check(value: Any) -> str:
        choices = list(itertools.chain(*known))
        return "" if value in choices else f"is {value}; give one of {', '.join(map(str, choices))}"

    return check


def filled(what: str) -> Check:
    """Any text except "".

    >>> filled("a folder")("")
    'is empty; give a folder, or leave it out'
    """
    return lambda value: f"is empty; give {what}, or leave it out" if value == "" else ""


def pattern(value: str) -> str:
    """A regular expression."""
    try:
        re.compile(value)
    except re.error as error:
        return f"'{value}' is not a valid regular expression ({error}); correct it"
    return ""


def _is_increasing_pair(values: Any) -> bool:
    numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return len(values) == len(numbers) == 2 and numbers[0] < numbers[1]


def _is_choice_of_strong(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(patient, str) for patient in value)
    return value == "all" or (isinstance(value, int) and not isinstance(value, bool))


def _is_one_or_pair(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value is valid, or a pair (y, x) of valid values."""

    def check(value: Any) -> bool:
        values = value if isinstance(value, list | tuple) else (value, value)
        return len(values) == 2 and all(isinstance(v, int | float) and is_valid(v) for v in values)

    return check


_is_size = _is_one_or_pair(lambda side: isinstance(side, int) and side >= 1)
_is_spacing = _is_one_or_pair(lambda size: 0 < size < math.inf)
INCREASING_PAIR = such_that(_is_increasing_pair, "give two numbers, the smaller one first")
STRENGTH = such_that(lambda value: 0 <= value < math.inf, "give a finite number, at least 0 (0 turns it off)")
BELOW_ONE = such_that(lambda value: 0 <= value < 1, "give a number from 0 to below 1 (0 turns it off)")
SEED = between(0, 2**32 - 1)
RULES: tuple[tuple[str, Check], ...] = (
    ("seed", SEED),
    ("data.split_seed", SEED),
    ("data.source", filled("a folder")),
    ("data.cache", filled("a folder")),
    ("data.unlabeled", between(0, 255, "a label value")),
    ("data.patient", pattern),
    ("data.axis", one_of((0, 1, 2, AUTO))),
    ("data.strong", such_that(_is_choice_of_strong, "give a whole number, a list of patients, or all")),
    ("data.weak", one_of(RECIPES, (DRAWN,))),
    ("data.weak_radius", at_least(0, "a whole number of pixels")),
    ("data.weak_every", at_least(1)),
    (
        "data.spacing",
        such_that(
            lambda value: value in SPACINGS or _is_spacing(value),
            f"give one of {', '.join(SPACINGS)}, a pixel size, or a pair (y, x)",
        ),
    ),
    (
        "data.size",
        such_that(
            lambda value: value == AUTO or _is_size(value),
            f"give {AUTO}, a whole number of pixels, at least 1, or a pair (y, x)",
        ),
    ),
    ("data.foreground", such_that(lambda share: 0 <= share <= 1, "give a share from 0 to 1")),
    ("data.normalization", one_of(NORMALIZATIONS, (AUTO,))),
    ("data.percentiles", INCREASING_PAIR),
    ("data.percentiles", such_that(lambda p: 0 <= p[0] and p[1] <= 100, "give numbers from 0 to 100")),
    (
        "data.percentiles",
        such_that(lambda pair: all(round(10 * p, 6).is_integer() for p in pair), "give multiples of 0.1"),
    ),
    ("data.window", INCREASING_PAIR),
    ("data.batches_ahead", at_least(1)),
    *((f"data.augment.{name}", STRENGTH) for name in ("rotation", "zoom", "elastic", "noise", "blur", "gamma")),
    *((f"data.augment.{name}", BELOW_ONE) for name in ("low_resolution", "brightness", "contrast")),
    ("model.name", one_of(NETWORKS)),
    ("model.width", or_auto(1)),
    ("model.depth", or_auto(1)),
    ("model.dropout", such_that(lambda rate: rate is None or 0 <= rate < 1, "give a rate from 0 to below 1")),
    ("model.dtype", one_of(DTYPES)),
    ("optimizer.learning_rate", such_that(lambda rate: 0 < rate < math.inf, "give a finite number above 0")),
    ("optimizer.schedule", one_of(SCHEDULES)),
    ("optimizer.weight_decay", STRENGTH),
    ("optimizer.clip_norm", STRENGTH),
    ("train.steps", or_auto(1)),
    ("train.strong_batch", or_auto(1)),
    ("train.weak_batch", or_auto(1)),
    ("train.accumulate", at_least(1)),
    ("train.average", such_that(lambda decay: 0 <= decay < 1, "give a decay from 0 (no average) to below 1")),
    ("train.report_every", at_least(1)),
    ("train.checkpoint_every", at_least(1)),
    ("train.validate_every", at_least(1)),
    ("train.keep", at_least(1)),
    ("eval.checkpoint", such_that(lambda which: which in CHECKPOINTS, f"give one of {CHECKPOINTS}")),
    ("eval.postprocess", one_of(POSTPROCESSINGS)),
    ("eval.batch", at_least(1)),
    ("eval.protocol", one_of(PROTOCOLS)),
)
"""Pairs of setting and rule; a setting may have several."""


def _size_fits(config: ConfigDict) -> str:
    size = config.data.size
    if AUTO in (size, config.model.depth):  # checked again when they are settled
        return ""
    sides = size if isinstance(size, list | tuple) else (size,)
    cures = (NETWORKS[config.model.name].wrong_size(side, config.model.depth) for side in sides)
    return next((f"is {size}; {cure}" for cure in cures if cure), "")


def _norm_fits(config: ConfigDict) -> str:
    name, norm = config.model.name, config.model.norm
    norms = NETWORKS[name].norms or ("batch",)
    return "" if norm in norms else f"is {norm}; with model.name={name} give {' or '.join(norms)}"


def _batch_norm_is_used(config: ConfigDict) -> str:
    unused = config.method.batch_norm is not None and config.model.norm != "batch"
    return f"does not apply to model.norm={config.model.norm}; leave it out" if unused else ""


def _has_coarser_logits(config: ConfigDict) -> str:
    name, depth = config.model.name, config.model.depth
    if not config.model.deep_supervision or depth == AUTO:
        return ""
    if not NETWORKS[name].deep_supervision:
        return f"is True; model.name={name} has logits of one level, leave it out"
    return "" if depth >= 4 else f"is True; with model.depth={depth} only one level has logits, give 4 or more"


def _split_sizes(config: ConfigDict) -> str:
    def is_valid(row: Any) -> bool:
        return (
            isinstance(row, list | tuple)
            and len(row) == 3
            and (row[0] is None or (isinstance(row[0], int) and row[0] >= 1))
            and all(isinstance(n, int) and n >= 0 for n in row[1:])
            and (row[2] >= 1 or bool(config.data.fold))
        )

    cure = (
        "give rows of three whole numbers: train (None for the rest), validation and test; test may be 0 only with "
        "data.fold"
    )
    return next((f"is {row}; {cure}" for row in config.data.split_sizes if not is_valid(row)), "")


def _warmup_ends(config: ConfigDict) -> str:
    steps = config.train.steps
    if steps == AUTO:  # checked again when they are settled
        return ""
    return such_that(lambda warmup: 0 <= warmup < steps, f"give a number from 0 to below train.steps={steps}")(
        config.optimizer.warmup_steps
    )


def _validated_steps_have_checkpoints(config: ConfigDict) -> str:
    every = config.train.checkpoint_every
    cure = f"give a multiple of train.checkpoint_every={every}, so that the best step has a checkpoint"
    return such_that(lambda validate_every: validate_every % every == 0, cure)(config.train.validate_every)


CROSS_RULES: tuple[tuple[str, Callable[[ConfigDict], str]], ...] = (
    ("data.size", _size_fits),
    ("data.split_sizes", _split_sizes),
    ("model.norm", _norm_fits),
    ("model.deep_supervision", _has_coarser_logits),
    ("method.batch_norm", _batch_norm_is_used),
    ("optimizer.warmup_steps", _warmup_ends),
    ("train.validate_every", _validated_steps_have_checkpoints),
)
"""Pairs of setting and rule: config -> the problem and the fix, or "". They run after RULES."""


def parse_labels(text: str, setting: str) -> dict[str, int]:
    """Parses structures and their values, 1 to 255; `setting` is named in messages.

    >>> parse_labels("LV=3,MYO=2", "--labels")
    {'LV': 3, 'MYO': 2}

    Raises:
      InputError: the text has another format, or a structure or value occurs twice.
    """
    pairs = [[part.strip() for part in pair.partition("=")] for pair in text.split(",")]
    if not all(name and value.isdecimal() and 0 < int(value) <= 255 for name, _, value in pairs):
        raise InputError(
            f"{setting}: is '{text}'; give NAME=VALUE,NAME=VALUE with values from 1 to 255, like LV=3,MYO=2."
        )
    if len({name for name, _, _ in pairs}) < len(pairs):
        raise InputError(f"{setting}: {text} names a structure twice; name each once.")
    if len({int(value) for _, _, value in pairs}) < len(pairs):
        raise InputError(f"{setting}: {text} gives two structures the same value; give each its own.")
    return {name: int(value) for name, _, value in pairs}
