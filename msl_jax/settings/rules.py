"""What is refused, and in which words. Everything a config can get wrong is found here, before the first step."""

from collections.abc import Sequence
import math
import re

from ml_collections import ConfigDict

from msl_jax.errors import InputError
from msl_jax.models.dual_branch import NETWORKS

DTYPES = ("float32", "bfloat16")
CHECKPOINTS = ("last", "best")


def check_config(config: ConfigDict) -> None:
    """Refuses settings that cannot work, whatever the data.

    Raises:
      InputError: names the setting, what is wrong with it and what it may be.
    """
    data, model, train = config.data, config.model, config.train
    for key, value in (
        ("data.size", data.size),
        ("data.batches_ahead", data.batches_ahead),
        ("data.weak_every", data.weak_every),
        ("model.width", model.width),
        ("model.depth", model.depth),
        ("train.steps", train.steps),
        ("train.strong_batch", train.strong_batch),
        ("train.weak_batch", train.weak_batch),
        ("train.accumulate", train.accumulate),
        ("train.report_every", train.report_every),
        ("train.checkpoint_every", train.checkpoint_every),
        ("train.validate_every", train.validate_every),
        ("train.keep", train.keep),
        ("eval.batch", config.eval.batch),
    ):
        _require(value >= 1, key, value, "give a whole number from 1 up")
    _require(data.weak_radius >= 0, "data.weak_radius", data.weak_radius, "give a whole number of pixels from 0 up")
    for key, value in (("seed", config.seed), ("data.split_seed", data.split_seed)):
        _require(0 <= value < 2**32, key, value, f"give a whole number from 0 to {2**32 - 1}")
    for key in ("source", "cache"):
        _require(data[key] != "", f"data.{key}", "empty", "give a folder, or leave it out")
    _require(model.name in NETWORKS, "model.name", model.name, f"give one of {', '.join(NETWORKS)}")
    cure = NETWORKS[model.name].wrong_size(data.size, model.depth)
    _require(not cure, "data.size", data.size, cure)
    for key in ("percentiles", "window"):
        _require(_are_two_that_rise(data[key]), f"data.{key}", data[key], "give two numbers that rise")
    low, high = data.percentiles
    for row in data.split_sizes:
        _require(
            isinstance(row, list | tuple)
            and len(row) == 3
            and (row[0] is None or (isinstance(row[0], int) and row[0] >= 1))
            and all(isinstance(n, int) and n >= 0 for n in row[1:])
            and (row[2] >= 1 or config.data.fold),
            "data.split_sizes",
            row,
            "give rows of three whole numbers, train (None for whoever is left), validation and test; test may be 0 "
            "with data.fold alone",
        )
    _require(0 <= low and high <= 100, "data.percentiles", (low, high), "give them from 0 to 100")
    _require(
        all(round(10 * p, 6).is_integer() for p in (low, high)),
        "data.percentiles",
        (low, high),
        "give them in steps of 0.1",
    )
    for key in ("rotation", "zoom", "gamma", "contrast"):
        _require(
            0 <= data.augment[key] < math.inf, f"data.augment.{key}", data.augment[key], "give 0 for none, or more"
        )
    _require(0 <= data.unlabeled <= 255, "data.unlabeled", data.unlabeled, "give a label value from 0 to 255")
    try:
        re.compile(data.patient)
    except re.error as error:
        raise InputError(
            f"config.data.patient: '{data.patient}' is no regular expression ({error}); correct it."
        ) from error
    strong_is_list = isinstance(data.strong, list | tuple) and all(isinstance(p, str) for p in data.strong)
    strong_is_number = isinstance(data.strong, int) and not isinstance(data.strong, bool)
    _require(
        strong_is_list or strong_is_number or data.strong == "all",
        "data.strong",
        data.strong,
        "give a whole number, a list of patients, or all",
    )
    _require(model.dtype in DTYPES, "model.dtype", model.dtype, f"give one of {', '.join(DTYPES)}")
    _require(
        model.dropout is None or 0 <= model.dropout < 1, "model.dropout", model.dropout, "give a rate from 0 to below 1"
    )
    _require(
        0 < config.optimizer.learning_rate < math.inf,
        "optimizer.learning_rate",
        config.optimizer.learning_rate,
        "give one above 0",
    )
    _require(
        0 <= config.optimizer.warmup_steps < train.steps,
        "optimizer.warmup_steps",
        config.optimizer.warmup_steps,
        f"give fewer than the {train.steps} of train.steps",
    )
    _require(
        train.validate_every % train.checkpoint_every == 0,
        "train.validate_every",
        train.validate_every,
        f"give a multiple of train.checkpoint_every={train.checkpoint_every}, so that the best step has a checkpoint",
    )
    _require(
        config.eval.checkpoint in CHECKPOINTS, "eval.checkpoint", config.eval.checkpoint, f"give one of {CHECKPOINTS}"
    )


def parse_labels(text: str, setting: str) -> dict[str, int]:
    """Structures and their values, from 1 to 255, as `setting` has them in its text.

    >>> parse_labels("LV=3,MYO=2", "--labels")
    {'LV': 3, 'MYO': 2}

    Raises:
      InputError: it does not read like that, names a structure twice, or a value.
    """
    pairs = [[part.strip() for part in pair.partition("=")] for pair in text.split(",")]
    if not all(name and value.isdecimal() and 0 < int(value) <= 255 for name, _, value in pairs):
        raise InputError(
            f"{setting}: is '{text}'; give NAME=VALUE,NAME=VALUE with values from 1 to 255, like LV=3,MYO=2."
        )
    if len({name for name, _, _ in pairs}) < len(pairs):
        raise InputError(f"{setting}: {text} names a structure twice; name each once.")
    if len({int(value) for _, _, value in pairs}) < len(pairs):
        raise InputError(f"{setting}: {text} gives two structures one value; give each its own.")
    return {name: int(value) for name, _, value in pairs}


def _require(holds: bool, key: str, value: object, cure: str) -> None:
    if not holds:
        raise InputError(f"config.{key}: is {value}; {cure}.")


def _are_two_that_rise(values: Sequence[object]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return len(values) == len(numbers) == 2 and numbers[0] < numbers[1]
