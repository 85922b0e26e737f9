"""Defaults for settings and terms missing from the config.json of older runs."""

from collections.abc import Mapping
import copy
import functools
from typing import Any

from msl_jax.methods.terms import DICE_OF, TERMS

MISSING_DEFAULTS: Mapping[str, Any] = {
    "init_from": None,
    "data.labels": "",
    "data.unlabeled": 255,
    "data.patient": "",
    "data.axis": 2,
    "data.table": "",
    "data.fold": "",
    "data.weak_radius": 3,
    "data.weak_every": 4,
    "data.spacing": "stretch",
    "data.foreground": 0.0,
    "data.augment.elastic": 0.0,
    "data.augment.noise": 0.0,
    "data.augment.blur": 0.0,
    "data.augment.low_resolution": 0.0,
    "data.augment.brightness": 0.0,
    "data.normalization": "percentiles",
    "data.window": (-160.0, 240.0),
    "data.channels": 1,
    "data.directions": None,
    "data.units": None,
    "method.class_weights": {},
    "method.weak_weight": None,
    "method.dice": None,
    "method.mix": "none",
    "method.confidence": None,
    "model.name": "unet",
    "model.norm": "batch",
    "model.deep_supervision": False,
    "optimizer.schedule": "cosine",
    "optimizer.weight_decay": 0.0,
    "optimizer.clip_norm": 0.0,
    "train.average": 0.0,
    "eval.protocol": "native",
    "eval.postprocess": "none",
    "eval.mirror": False,
}
"""Setting missing from older runs -> the value they were trained with."""


def completed(config: dict) -> dict:
    """A run's config.json with all later settings and terms added; removed terms with weight 0 are dropped."""
    config = copy.deepcopy(config)
    for key, value in MISSING_DEFAULTS.items():
        *groups, name = key.split(".")
        tree = functools.reduce(lambda tree, group: tree.setdefault(group, {}), groups, config)
        tree.setdefault(name, copy.copy(value))
    method = config["method"]
    for group, zero in (("terms", 0.0), ("rampup", 0)):
        values = method.get(group) or {}
        unknown = {term: value for term, value in values.items() if term not in TERMS and value}
        method[group] = {term: values.get(term, zero) for term in TERMS} | unknown
    if "dice_sums" not in method:
        has_dice = method["dice"] or any(method["terms"][term] for term in DICE_OF.values())
        method["dice_sums"] = "images" if has_dice else None
    return config


def unknown_terms(config: dict) -> list[str]:
    """The terms with a weight in a run's config.json that are not in TERMS."""
    terms = config["method"].get("terms") or {}
    return [term for term, weight in terms.items() if weight and term not in TERMS]
