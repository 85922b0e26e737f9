"""From a checked config to the objects it describes: source, method, preparation, network."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from msl_jax.data.case import Source
from msl_jax.data.preparation import Preparation
from msl_jax.errors import InputError
from msl_jax.methods.resolve import CHOICES, LIMITS, class_weights, resolve
from msl_jax.methods.table import Method
from msl_jax.methods.terms import TERMS
from msl_jax.models.dual_branch import NETWORKS, DualBranchUNet
from msl_jax.settings.rules import parse_labels


def source_of(config: ConfigDict) -> Source:
    """Where a config's data set lies and how it is read."""
    data = config.data
    labels = parse_labels(data.labels, "config.data.labels") if data.labels else {}
    return Source(data.layout, data.source, labels, data.unlabeled, data.patient, data.axis)


def method_of(config: ConfigDict) -> Method:
    """The method a config names, with the settings it gives."""
    method = resolve(config.method.to_dict(), config.model.dropout, config.train.steps)
    if config.model.dropout is None and not method.dropout:
        method = dataclasses.replace(method, dropout=NETWORKS[config.model.name].dropout)
    return method


def preparation_of(config: ConfigDict) -> Preparation:
    """How images are made ready, of a filled-in config."""
    return Preparation(
        size=(config.data.size, config.data.size),
        normalization=config.data.normalization,
        percentiles=tuple(config.data.percentiles),
        window=tuple(config.data.window),
        values=(0, *config.data.classes.values()),
    )


def directions_of(config: ConfigDict) -> np.ndarray | None:
    """Which way the slices lie that a filled-in config's network takes, as orientation.py has it; None if unknown."""
    return None if config.data.directions is None else np.asarray(config.data.directions)


def model_of(config: ConfigDict) -> DualBranchUNet:
    """The network of a filled-in config."""
    return DualBranchUNet(
        network=config.model.name,
        width=config.model.width,
        depth=config.model.depth,
        classes=1 + len(config.data.classes),
        dropout=config.model.dropout,
        remat=config.model.remat,
        dtype=jnp.dtype(config.model.dtype),
    )


def filled_in(
    config: ConfigDict,
    method: Method,
    labels: Mapping[str, int],
    channels: int,
    contents: str,
    directions: np.ndarray | None,
) -> ConfigDict:
    """A config with every default in its place.

    Args:
      config: as given.
      method: what `method_of` makes of it.
      labels: name -> value of every structure of the data set.
      channels: of its images.
      contents: a text that changes whenever the data do.
      directions: which way its slices lie, as orientation.py has it; None where that is not known.

    Raises:
      InputError: a structure or a class weight is of no structure there is.
    """
    asked = config.data.classes
    names = tuple(labels) if asked == "all" else (asked,) if asked in labels else asked.split("+")
    for name in names:
        if name not in labels:
            raise InputError(f"config.data.classes: there is no '{name}'; there are {', '.join(labels)} and all.")
    filled = json.loads(config.to_json())
    filled["data"]["classes"] = {name: value for name, value in labels.items() if name in names}
    filled["data"] |= {"channels": channels, "contents": contents}
    filled["data"]["directions"] = None if directions is None else directions.tolist()
    filled["method"] |= {
        "weak_weight": None,  # it has gone into the terms
        "terms": {term: method.terms.get(term, 0.0) for term in TERMS},
        "rampup": {term: method.rampup.get(term, 0) for term in TERMS},
        **{key: getattr(method, key) if method.reads(key) else None for key in CHOICES},
        **{key: getattr(method, key) for key in LIMITS},
        "class_weights": class_weights(filled["method"]["class_weights"], list(filled["data"]["classes"])),
    }
    filled["model"]["dropout"] = method.dropout
    return in_order(filled)


def in_order(tree: Mapping[str, Any]) -> ConfigDict:
    """A ConfigDict that keeps the order of its keys at every level: that of the classes is that of the channels."""
    return ConfigDict({k: in_order(v) if isinstance(v, dict) else v for k, v in tree.items()}, sort_keys=False)
