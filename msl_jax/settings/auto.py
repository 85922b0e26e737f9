"""The settings that may be "auto", and the values of a run in its place."""

from collections.abc import Mapping
import copy
import functools
from typing import Any

from ml_collections import ConfigDict

from msl_jax.data.preparation import AUTO

WITH: Mapping[str, tuple[str, ...]] = {
    "data.spacing": (),
    "data.size": (),
    "data.normalization": ("data.window",),
    "model.depth": (),
    "model.width": (),
    "train.strong_batch": (),
    "train.weak_batch": (),
    "train.steps": (),
}
"""Setting that may be "auto" -> the settings that are settled with it. data.axis may be, too; the build settles it."""
OF_THE_MACHINE = (
    "data.size",
    "model.depth",
    "model.width",
    "train.strong_batch",
    "train.weak_batch",
    "train.steps",
)
"""Settings that follow from the machine, too."""


def value_of(tree: Any, key: str) -> Any:
    """The value of a dotted key in a config or in nested dictionaries; None if it is missing."""
    return functools.reduce(lambda part, name: part.get(name) if part is not None else None, key.split("."), tree)


def unsettled(config: ConfigDict) -> list[str]:
    """The settings that are "auto", besides data.axis."""
    return [key for key in WITH if value_of(config, key) == AUTO]


def numbers_for(config: ConfigDict, settled: Any) -> dict[str, Any]:
    """Setting -> value in a settled config, for those that are "auto" in this one, and those settled with them."""
    keys = [name for key in unsettled(config) for name in (key, *WITH[key])]
    values = {key: value_of(settled, key) for key in keys}
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if v is not None}


def with_values(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """A copy of the config with these values: dotted key -> value."""
    config = copy.deepcopy(config)
    config.update_from_flattened_dict(values)
    return config
