"""From config.method to a Method: the table's row with the config's values in place."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from msl_jax.errors import InputError
from msl_jax.methods.losses import MEANS
from msl_jax.methods.table import METHODS, Method
from msl_jax.methods.terms import SETS, TERMS

CHOICES = {"kd_on": SETS, "w_on": SETS, "w_mean": MEANS, "batch_norm": ("together", "apart")}
LIMITS = {"ema_decay": (0, 1), "noise": (0, 10), "passes": (1, 100)}


def resolve(settings: Mapping[str, Any], dropout: float | None, steps: int) -> Method:
    """The method a config names, with what the config gives in place of the table's values.

    Args:
      settings: config.method as a dictionary: "name", a key of METHODS; "weak_weight", that of the cross-entropy with
        weak labels, of whichever branch the method trains with them; "terms", term -> weight, 0 leaving it out;
        "rampup", term -> steps; "kd_on", "w_on", "w_mean", "batch_norm", "ema_decay", "noise", "passes". None is
        the table's own.
      dropout: config.model.dropout; None for the method's own.
      steps: of a stage; a ramp-up is no longer.

    Raises:
      InputError: a name is unknown, a number impossible, a setting contradicts the terms, or no term teaches.
    """
    name = settings["name"]
    if name not in METHODS:
        raise InputError(f"config.method.name: there is no '{name}'; there are {', '.join(METHODS)}.")
    row = METHODS[name]
    given = {key: value for key, value in settings.items() if value is not None}
    weights = _merged(dict(row.terms) | _weak_weights(row.terms, settings["weak_weight"]), settings["terms"], "terms")
    terms = {term: weight for term, weight in weights.items() if weight}
    rampup = {
        term: min(int(length), steps) for term, length in _merged(row.rampup, settings["rampup"], "rampup").items()
    }
    if "s" not in terms:
        raise InputError("config.method.terms.s: is 0; without it nobody teaches, give it a weight above 0.")
    for term, length in rampup.items():
        if length and term not in weights:
            raise InputError(f"config.method.rampup.{term}: the term has no weight; there are {', '.join(terms)}.")
    for term in terms:
        if not set(TERMS[term].made) <= set(row.guide.makes if row.guide else ()):
            able = ", ".join(key for key, other in METHODS.items() if other.guide and term in other.terms)
            raise InputError(f"config.method.terms.{term}: '{name}' has nobody who makes its targets; {able} have.")
    for key in LIMITS:
        if key in given and getattr(row, key) is None:
            able = ", ".join(other for other in METHODS if getattr(METHODS[other], key) is not None)
            raise InputError(f"config.method.{key}: '{name}' does not use it; {able} do.")
        least, most = LIMITS[key]
        if not least <= given.get(key, least) < most:
            raise InputError(f"config.method.{key}: is {given[key]}; give a number from {least} to below {most}.")
    changes: dict[str, Any] = {
        "terms": terms,
        "rampup": {term: length for term, length in rampup.items() if length and term in terms},
        "dropout": row.dropout if dropout is None else dropout,
        **{key: given[key] for key in (*CHOICES, *LIMITS) if key in given},
    }
    method = dataclasses.replace(row, **changes)
    for key, choices in CHOICES.items():
        if key in given and given[key] not in choices:
            raise InputError(f"config.method.{key}: there is no '{given[key]}'; there are {', '.join(choices)}.")
        if key in given and not method.reads(key):
            raise InputError(f"config.method.{key}: no term of '{name}' uses it; its terms are {', '.join(terms)}.")
    for term in terms:
        for branch in set(TERMS[term].watches) - set(method.branches()):
            raise InputError(
                f"config.method.terms.{term}: follows the {branch}, whom no term of '{name}' trains; give 0, or one "
                "that does a weight."
            )
    if not method.guided():
        unused: dict[str, Any] = {"guide": None, "after": None, **dict.fromkeys(LIMITS)}
        return dataclasses.replace(method, **unused)
    return method


def _weak_weights(terms: Mapping[str, float], weight: float | None) -> dict[str, float]:
    if weight is not None and not 0 < weight < float("inf"):
        raise InputError(f"config.method.weak_weight: is {weight}; give a number above 0.")
    return {} if weight is None else {term: weight for term in terms if TERMS[term].labels == "weak_label"}


def _merged(row: Mapping[str, float], given: Mapping[str, float | None], key: str) -> dict[str, float]:
    merged = dict(row) | {term: value for term, value in given.items() if value is not None}
    for term, value in merged.items():
        if term not in TERMS:
            raise InputError(f"config.method.{key}: there is no '{term}'; there are {', '.join(TERMS)}.")
        if not 0 <= value < float("inf"):
            raise InputError(f"config.method.{key}.{term}: is {value}; give a number from 0 up.")
    return merged


def class_weights(given: Any, structures: Sequence[str]) -> dict[str, float]:
    """The weight of every class in a cross-entropy with labels that people or a guide gave.

    Args:
      given: config.method.class_weights, name of a structure, or "background" -> weight; 1 where none is given.
      structures: the names there are, in the order of the classes.

    Returns:
      Name -> weight, background first; empty where all are 1.

    Raises:
      InputError: a name is unknown, a weight impossible, or all of them 0.
    """
    weights = dict.fromkeys(("background", *structures), 1.0)
    if not isinstance(given, Mapping):
        raise InputError(
            f"config.method.class_weights: is {given!r}; give names and weights like {{'{structures[0]}': 2}}."
        )
    for name, weight in given.items():
        if name not in weights:
            raise InputError(f"config.method.class_weights: there is no '{name}'; there are {', '.join(weights)}.")
        if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise InputError(f"config.method.class_weights: {name} has {weight!r}; give a number from 0 up.")
        weights[name] = float(weight)
    if not any(weights.values()):
        raise InputError("config.method.class_weights: all are 0; give one of them a weight above 0.")
    return weights if set(weights.values()) != {1.0} else {}
