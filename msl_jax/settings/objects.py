"""From a checked config to the objects it describes: source, method, preparation, network."""

from collections.abc import Mapping
import dataclasses
import json
import math
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from msl_jax.data.case import Source
from msl_jax.data.preparation import AUTO, Preparation
from msl_jax.errors import InputError
from msl_jax.methods.resolve import CHOICES, LIMITS, class_weights, resolve
from msl_jax.methods.table import Method
from msl_jax.methods.terms import TERMS
from msl_jax.models.dual_branch import NETWORKS, DualBranchUNet
from msl_jax.settings.rules import parse_labels


def source_of(config: ConfigDict) -> Source:
    """The config's data set: its place and how to read it."""
    data = config.data
    labels = parse_labels(data.labels, "config.data.labels") if data.labels else {}
    axis = None if data.axis == AUTO else data.axis
    return Source(data.layout, data.source, labels, data.unlabeled, data.patient, axis)


def method_of(config: ConfigDict) -> Method:
    """The config's method, with its settings applied."""
    steps = math.inf if config.train.steps == AUTO else config.train.steps
    method = resolve(config.method.to_dict(), config.model.dropout, steps)
    if config.model.dropout is None and not method.dropout:
        method = dataclasses.replace(method, dropout=NETWORKS[config.model.name].dropout)
    if config.model.norm != "batch":
        method = dataclasses.replace(method, batch_norm=None)
    return method


def pair(setting: Any) -> tuple[Any, Any]:
    """(y, x) of a setting that is one number for both or a pair."""
    y, x = setting if isinstance(setting, list | tuple) else (setting, setting)
    return y, x


def preparation_of(filled: ConfigDict) -> Preparation:
    """The preprocessing of a filled-in config."""
    spacing = filled.data.spacing
    return Preparation(
        size=pair(filled.data.size),
        spacing=spacing if isinstance(spacing, str) else pair(spacing),
        normalization=filled.data.normalization,
        percentiles=tuple(filled.data.percentiles),
        window=tuple(filled.data.window),
        values=(0, *filled.data.classes.values()),
    )


def directions_of(filled: ConfigDict) -> np.ndarray | None:
    """The slice directions that a filled-in config's network expects, as in orientation.py; None if unknown."""
    return None if filled.data.directions is None else np.asarray(filled.data.directions)


def model_of(filled: ConfigDict) -> DualBranchUNet:
    """The network of a filled-in config."""
    return DualBranchUNet(
        network=filled.model.name,
        norm=filled.model.norm,
        levels=filled.model.depth - 2 if filled.model.deep_supervision else 1,
        width=filled.model.width,
        depth=filled.model.depth,
        classes=1 + len(filled.data.classes),
        dropout=filled.model.dropout,
        remat=filled.model.remat,
        dtype=jnp.dtype(filled.model.dtype),
    )


def filled_in(
    config: ConfigDict,
    method: Method,
    labels: Mapping[str, int],
    channels: int,
    contents: str,
    directions: np.ndarray | None,
    units: str | None,
) -> ConfigDict:
    """A config with all defaults filled in: names of classes become name -> value, and the method's row its settings.

    Args:
      config: the user's config.
      method: `method_of(config)`.
      labels: name -> value of every structure of the data set.
      channels: number of channels of its images.
      contents: a text that changes whenever the data change.
      directions: its slice directions, as in orientation.py; None if unknown.
      units: of its voxel sizes, "mm" or "voxel"; None if slices are not resampled.

    Raises:
      InputError: a class or a class weight names an unknown structure.
    """
    classes = config.data.classes
    names = tuple(labels) if classes == "all" else (classes,) if classes in labels else classes.split("+")
    for name in names:
        if name not in labels:
            raise InputError(f"config.data.classes: '{name}' is unknown; give some of {', '.join(labels)}, or all.")
    filled = json.loads(config.to_json())
    filled["data"]["classes"] = {name: value for name, value in labels.items() if name in names}
    filled["data"] |= {"channels": channels, "contents": contents, "units": units}
    filled["data"]["directions"] = None if directions is None else directions.tolist()
    filled["method"] |= {
        "weak_weight": _weak_weight_before(config, method),  # part of the terms' weights otherwise, as is "dice"
        "dice": None,
        "terms": {term: method.terms.get(term, 0.0) for term in TERMS},
        "rampup": {term: method.rampup.get(term, 0) for term in TERMS},
        **{key: getattr(method, key) if method.reads(key) else None for key in CHOICES},
        **{key: getattr(method, key) for key in LIMITS},
        "class_weights": class_weights(filled["method"]["class_weights"], list(filled["data"]["classes"])),
    }
    filled["model"]["dropout"] = method.dropout
    return in_order(filled)


def _weak_weight_before(config: ConfigDict, method: Method) -> float | None:
    """config.method.weak_weight if a stage before the last one has weak labels, which `terms` does not show."""
    before = (term for stage in method.stages()[:-1] for term in stage.terms)
    return config.method.weak_weight if any(TERMS[term].label_map == "weak_label" for term in before) else None


def in_order(tree: Mapping[str, Any]) -> ConfigDict:
    """A ConfigDict that keeps the order of keys at every level: the order of classes is that of output channels."""
    return ConfigDict({k: in_order(v) if isinstance(v, dict) else v for k, v in tree.items()}, sort_keys=False)
