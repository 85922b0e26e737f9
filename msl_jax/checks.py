"""What is refused, and in which words. Everything a config can get wrong is found here, before the first step."""

from collections.abc import Iterable, Mapping, Sequence
import copy
import functools
import json
import math
import os
import pathlib
import re
from typing import Any
import warnings

from ml_collections import ConfigDict

from msl_jax.models.dual_branch import NETWORKS


class Refused(Exception):
    """Bad input, said in one sentence: which file or setting, what is wrong, what to do. Of several, a line each.

    The commands print it and exit with a code other than 0, without a traceback.
    """


class OddInput(UserWarning):
    """Input that works and may be a mistake, said in one sentence; the commands print it on standard error."""


def warn_all(remarks: Iterable[str]) -> None:
    """Warns of each, once."""
    for remark in remarks:
        warnings.warn(remark, OddInput, stacklevel=1)  # of one line, so that Python says each sentence once


def refuse_all(problems: Sequence[str]) -> None:
    """Raises Refused with these sentences, a line each, unless there are none."""
    if problems:
        raise Refused("\n".join(problems))


DEFLATE_RATIO = 1032
"""The most bytes that DEFLATE makes of one: of gzip, zlib, PNG; a file that promises more is damaged."""
DTYPES = ("float32", "bfloat16")
CHECKPOINTS = ("last", "best")
MAY_DIFFER_ON_RESUME = (
    *("data.source", "data.cache", "data.batches_ahead", "eval"),
    *("train.keep", "train.report_every", "train.checkpoint_every", "train.validate_every"),
)
"""Settings that a run which goes on may have changed: they alter no step. Data may move, but data.contents must not."""
DERIVED = ("data.directions",)
"""Settings that follow from data.contents and data.axis, and that older runs lack."""
LATER = {
    "init_from": None,
    "data.labels": "",
    "data.unlabeled": 255,
    "data.patient": "",
    "data.axis": 2,
    "data.table": "",
    "data.fold": "",
    "data.weak_radius": 3,
    "data.weak_every": 4,
    "data.normalization": "percentiles",
    "data.window": (-160.0, 240.0),
    "data.channels": 1,
    "data.directions": None,
    "method.weak_weight": None,
    "model.name": "unet",
    "eval.protocol": "native",
    "method.terms.dice": 0.0,
    "method.rampup.dice": 0,
}
"""Settings that came later -> what a run was trained with whose config.json does not hold them."""


def check_config(config: ConfigDict) -> None:
    """Refuses settings that cannot work, whatever the data.

    Raises:
      Refused: names the setting, what is wrong with it and what it may be.
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
        raise Refused(
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


def check_output(folder: pathlib.Path) -> None:
    """Refuses a folder that could not be written into, before work is done for what goes there."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise Refused(f"{there}: is a file; give a folder as --output.")
    if not os.access(there, os.W_OK):
        raise Refused(f"{there}: may not be written into; give another folder as --output.")


def parse_labels(text: str, setting: str) -> dict[str, int]:
    """Structures and their values, from 1 to 255, as `setting` has them in its text.

    >>> parse_labels("LV=3,MYO=2", "--labels")
    {'LV': 3, 'MYO': 2}

    Raises:
      Refused: it does not read like that, names a structure twice, or a value.
    """
    pairs = [[part.strip() for part in pair.partition("=")] for pair in text.split(",")]
    if not all(name and value.isdecimal() and 0 < int(value) <= 255 for name, _, value in pairs):
        raise Refused(f"{setting}: is '{text}'; give NAME=VALUE,NAME=VALUE with values from 1 to 255, like LV=3,MYO=2.")
    if len({name for name, _, _ in pairs}) < len(pairs):
        raise Refused(f"{setting}: {text} names a structure twice; name each once.")
    if len({int(value) for _, _, value in pairs}) < len(pairs):
        raise Refused(f"{setting}: {text} gives two structures one value; give each its own.")
    return {name: int(value) for name, _, value in pairs}


def completed(config: dict) -> dict:
    """A run's config.json with the settings that came after it was written."""
    config = copy.deepcopy(config)
    for key, value in LATER.items():
        *groups, name = key.split(".")
        functools.reduce(lambda tree, group: tree.setdefault(group, {}), groups, config).setdefault(name, value)
    return config


def check_resumable(before: dict, now: dict, workdir: os.PathLike, *, longer: bool = False) -> None:
    """Refuses to go on with a run under other settings than it began with, but for those that may differ.

    Args:
      before: the run's config.json.
      now: what the command asks for, in the same form.
      workdir: the run's folder, for the message.
      longer: whether there may be more train.steps.

    Raises:
      Refused: lists every setting that differs and may not, old value and new.
    """
    old, new = flat(completed(before)), flat(completed(now))
    changed = [
        f"{key} was {old.get(key)} and is {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith((*MAY_DIFFER_ON_RESUME, *DERIVED))
        if not (longer and key == "train.steps" and int(new[key]) > int(old[key]))
    ]
    if changed:
        raise Refused(
            f"{workdir}: holds a run with other settings ({'; '.join(changed)}); give another --workdir (what may "
            f"differ: {', '.join(MAY_DIFFER_ON_RESUME)}, and more train.steps in a run of one stage)."
        )


def _require(holds: bool, key: str, value: object, cure: str) -> None:
    if not holds:
        raise Refused(f"config.{key}: is {value}; {cure}.")


def _are_two_that_rise(values: Sequence[object]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return len(values) == len(numbers) == 2 and numbers[0] < numbers[1]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A config's dictionary as key, like "data.source" -> value as JSON."""
    leaves = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = json.dumps(value)
    return leaves
