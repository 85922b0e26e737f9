"""Defaults for settings missing from older runs."""

import copy
import functools

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


def completed(config: dict) -> dict:
    """A run's config.json with the settings that came after it was written."""
    config = copy.deepcopy(config)
    for key, value in LATER.items():
        *groups, name = key.split(".")
        functools.reduce(lambda tree, group: tree.setdefault(group, {}), groups, config).setdefault(name, value)
    return config
