"""From config.method to a Method: the row of the table, with the config's values in place of its own."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from msl_jax.errors import InputError
from msl_jax.methods.losses import DICE_SUMS, MEANS
from msl_jax.methods.mixing import MIXES
from msl_jax.methods.table import METHODS, Method
from msl_jax.methods.terms import DICE_OF, TERMS
from msl_jax.methods.views import SETS

CHOICES = {
    "kd_on": SETS,
    "w_on": SETS,
    "w_mean": MEANS,
    "dice_sums": DICE_SUMS,
    "mix": MIXES,
    "batch_norm": ("together", "apart"),
}
LIMITS = {"ema_decay": (0, 1), "noise": (0, 10), "passes": (1, 100), "confidence": (0, 1)}


def resolve(settings: Mapping[str, Any], dropout: float | None, steps: float) -> Method:
    """The config's method, with its settings in place of the table's values.

    Args:
      settings: config.method as a dictionary: "name", a key of METHODS; "weak_weight", the weight of the cross-entropy
        with weak labels, in either branch; "dice", the weight of the Dice loss beside each cross-entropy with labels,
        relative to its weight; "terms", term -> weight, 0 to remove it; "rampup", term -> steps; the keys of
        CHOICES and LIMITS. None keeps the table's value.
      dropout: config.model.dropout; None keeps the method's value.
      steps: number of steps of a stage, an upper limit of each ramp-up.

    Raises:
      InputError: a name is unknown, a number is out of range, a setting does not apply to the terms, or the term "s"
        is missing.
    """
    name = settings["name"]
    if name not in METHODS:
        raise InputError(f"config.method.name: '{name}' is unknown; give one of {', '.join(METHODS)}.")
    row = METHODS[name]
    weights = _merged(dict(row.terms) | _weak_weights(row.terms, settings["weak_weight"]), settings["terms"], "terms")
    weights = _with_dice(weights, settings["dice"])
    rampup = _merged(row.rampup, settings["rampup"], "rampup")
    terms = {term: weight for term, weight in weights.items() if weight}
    for term, length in rampup.items():
        if length and term not in weights:
            raise InputError(f"config.method.rampup.{term}: the term has no weight; terms are {', '.join(terms)}.")
    overrides = {key: settings[key] for key in (*CHOICES, *LIMITS) if settings.get(key) is not None}
    _check_limits(name, overrides)
    changes: dict[str, Any] = {
        "terms": terms,
        "rampup": {term: min(int(length), steps) for term, length in rampup.items() if length and term in terms},
        "dropout": row.dropout if dropout is None else dropout,
        "previous": row.previous and _stage_before(row.previous, settings, dropout),
        **overrides,
    }
    method = dataclasses.replace(row, **changes)
    _check_choices(name, method, overrides)
    _check_terms(name, method)
    if not method.guided_terms():
        unused: dict[str, Any] = {"guide": None, **dict.fromkeys(LIMITS)}
        return dataclasses.replace(method, **unused, previous=method.previous if method.continues else None)
    return method


def _stage_before(row: Method, settings: Mapping[str, Any], dropout: float | None) -> Method:
    """The stage before, with the settings that are not about single terms: of weak labels, Dice and batch norm."""
    weights = _with_dice(dict(row.terms) | _weak_weights(row.terms, settings["weak_weight"]), settings["dice"])
    return dataclasses.replace(
        row,
        terms=weights,
        dice_sums=settings.get("dice_sums") or row.dice_sums,
        batch_norm=settings.get("batch_norm") or row.batch_norm,
        dropout=row.dropout if dropout is None else dropout,
    )


def _check_limits(name: str, overrides: Mapping[str, Any]) -> None:
    """Raises InputError if a number is out of range, or does not apply to the method of this name."""
    for key, (least, most) in LIMITS.items():
        if key in overrides and getattr(METHODS[name], key) is None:
            others = ", ".join(other for other in METHODS if getattr(METHODS[other], key) is not None)
            raise InputError(f"config.method.{key}: does not apply to '{name}', only to {others}; leave it out.")
        if not least <= overrides.get(key, least) < most:
            raise InputError(f"config.method.{key}: is {overrides[key]}; give a number from {least} to below {most}.")


def _check_terms(name: str, method: Method) -> None:
    """Raises InputError if the term "s" is missing, or a term needs a guide or a branch that the method lacks."""
    if "s" not in method.terms:
        raise InputError("config.method.terms.s: is 0, but every method needs this term; give a weight above 0.")
    for term in method.terms:
        if not set(TERMS[term].guide_targets) <= set(method.guide.target_names if method.guide else ()):
            guided = [key for key, other in METHODS.items() if other.guide and term in other.terms]
            advice = f"use one of {', '.join(guided)}, or give 0" if guided else "give 0"
            raise InputError(f"config.method.terms.{term}: '{name}' has no guide for its targets; {advice}.")
        for branch in set(TERMS[term].watches) - set(method.branches()):
            raise InputError(
                f"config.method.terms.{term}: follows the {branch}, which no term of '{name}' trains; give 0, or give "
                f"a weight to a term that trains the {branch}."
            )


def _check_choices(name: str, method: Method, overrides: Mapping[str, Any]) -> None:
    """Raises InputError if a choice is unknown, or no term of the method uses it."""
    for key, choices in CHOICES.items():
        if key in overrides and overrides[key] not in choices:
            raise InputError(f"config.method.{key}: '{overrides[key]}' is unknown; give one of {', '.join(choices)}.")
    for key in CHOICES:
        if key in overrides and not method.reads(key):
            terms = ", ".join(method.terms)
            raise InputError(f"config.method.{key}: no term of '{name}' uses it (its terms are {terms}); leave it out.")


def _weak_weights(terms: Mapping[str, float], weight: float | None) -> dict[str, float]:
    if weight is not None and not 0 < weight < float("inf"):
        raise InputError(f"config.method.weak_weight: is {weight}; give a number above 0.")
    return {} if weight is None else {term: weight for term in terms if TERMS[term].label_map == "weak_label"}


def _with_dice(weights: Mapping[str, float], dice: float | None) -> dict[str, float]:
    """Adds the Dice term beside each cross-entropy, unless the weights have it."""
    if dice is not None and not 0 <= dice < float("inf"):
        raise InputError(f"config.method.dice: is {dice}; give a number, at least 0.")
    added = {DICE_OF[term]: dice * weights[term] for term in DICE_OF if dice and weights.get(term)}
    return {**weights, **{term: weight for term, weight in added.items() if term not in weights}}


def _merged(row: Mapping[str, float], overrides: Mapping[str, float | None], key: str) -> dict[str, float]:
    merged = dict(row) | {term: value for term, value in overrides.items() if value is not None}
    for term, value in merged.items():
        if term not in TERMS:
            raise InputError(f"config.method.{key}: '{term}' is unknown; give one of {', '.join(TERMS)}.")
        if not 0 <= value < float("inf"):
            raise InputError(f"config.method.{key}.{term}: is {value}; give a number, at least 0.")
    return merged


def class_weights(setting: Any, structures: Sequence[str]) -> dict[str, float]:
    """The weight of every class in the cross-entropy terms.

    Args:
      setting: config.method.class_weights: structure or "background" -> weight; the default is 1.
      structures: the structures' names, in the order of the classes.

    Returns:
      Name -> weight, background first; empty if all are 1.

    Raises:
      InputError: a name is unknown, a weight is not a finite number of at least 0, or all are 0.
    """
    weights = dict.fromkeys(("background", *structures), 1.0)
    if not isinstance(setting, Mapping):
        raise InputError(
            f"config.method.class_weights: is {setting!r}; give names and weights like {{'{structures[0]}': 2}}."
        )
    for name, weight in setting.items():
        if name not in weights:
            raise InputError(f"config.method.class_weights: '{name}' is unknown; give one of {', '.join(weights)}.")
        if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise InputError(f"config.method.class_weights: {name} is {weight!r}; give a number, at least 0.")
        weights[name] = float(weight)
    if not any(weights.values()):
        raise InputError("config.method.class_weights: all are 0; give at least one weight above 0.")
    return weights if set(weights.values()) != {1.0} else {}
