"""What an older run was trained with of which its config.json says nothing: the settings, and the terms, were fewer."""

import copy
import functools

from msl_jax.methods.terms import TERMS

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
}
"""Settings that came later -> what a run was trained with whose config.json does not hold them."""


def completed(config: dict) -> dict:
    """A run's config.json with the settings and terms that came after it was written.

    A term that is not in TERMS any more is left out where its weight was 0.
    """
    config = copy.deepcopy(config)
    for key, value in LATER.items():
        *groups, name = key.split(".")
        functools.reduce(lambda tree, group: tree.setdefault(group, {}), groups, config).setdefault(name, value)
    method = config["method"]
    for group, nothing in (("terms", 0.0), ("rampup", 0)):
        given = method.get(group) or {}
        unknown = {term: value for term, value in given.items() if term not in TERMS and value}
        method[group] = {term: given.get(term, nothing) for term in TERMS} | unknown
    return config


def unknown_terms(config: dict) -> list[str]:
    """The terms of the loss that a run's config.json gives a weight, and that are not in TERMS."""
    terms = config["method"].get("terms") or {}
    return [term for term, weight in terms.items() if weight and term not in TERMS]
