"""Splits into train, validation and test, and the strong patients: per patient, stratified by group, seeded."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from msl_jax.errors import InputError

Split = dict[str, list[str]]
"""Part ("train", "validation" or "test") -> its patients, sorted."""
PARTS = ("train", "validation", "test")


def stratified_order(groups: Mapping[str, str], seed: int) -> list[str]:
    """Patients in a random, stratified order: for every n, the first n contain the groups in nearly equal proportion.

    Args:
      groups: patient -> group.
      seed: the order depends only on it and on `groups`.
    """
    rng = np.random.default_rng(seed)
    places: list[tuple[float, int, str]] = []
    for group in rng.permutation(sorted(set(groups.values()))):
        members = rng.permutation(sorted(p for p, g in groups.items() if g == group))
        places += [((i + 0.5) / len(members), len(places) + i, str(p)) for i, p in enumerate(members)]
    return [patient for _, _, patient in sorted(places)]


def split_patients(
    groups: Mapping[str, str], masked: Collection[str], sizes: Sequence[tuple[int | None, int, int]], seed: int
) -> Split:
    """Draws a random split with the sizes (train, validation, test) that add up to the number of patients.

    Args:
      groups: patient -> group.
      masked: patients with full masks; validation and test patients are drawn from them.
      sizes: rows of three numbers; None for train means all remaining patients.
      seed: seed of the draw.

    Raises:
      InputError: no row of `sizes` adds up to the number of patients, or too few of them have masks.
    """
    row = next((row for row in sizes if row[0] is None or row[0] + row[1] + row[2] == len(groups)), None)
    if row is None:
        known = ", ".join("+".join(map(str, row)) for row in sizes)
        raise InputError(
            f"config.data.split_sizes: no row adds up to the {len(groups)} patients of the data set ({known}); "
            "give numbers for train, validation and test, --config.data.split_sizes='((TRAIN, VALIDATION, TEST),)'."
        )
    _, validation, test = row
    if validation + test >= len(masked):
        raise InputError(
            f"config.data.split_sizes: uses {validation + test} patients for validation and test, but only "
            f"{len(masked)} have masks; leave some for training."
        )
    order = stratified_order({patient: groups[patient] for patient in masked}, seed)
    parts = {"test": order[:test], "validation": order[test : test + validation]}
    parts["train"] = list(set(groups) - set(order[: test + validation]))
    return {part: sorted(parts[part]) for part in PARTS}


def listed_split(groups: Mapping[str, str], lists: Mapping[str, Sequence[str]]) -> Split:
    """The split from lists of patients; patients on no list are not used.

    Raises:
      InputError: a patient is unknown or on two lists, or a list is empty.
    """
    part_of: dict[str, str] = {}
    for part in PARTS:
        if not lists[part] and part != "validation":
            raise InputError(
                f"config.data.split.{part}: is empty; list training and test patients, or leave all lists empty."
            )
        for patient in lists[part]:
            if patient not in groups:
                raise InputError(f"config.data.split.{part}: the data set has no patient '{patient}'; correct it.")
            if patient in part_of:
                raise InputError(
                    f"config.data.split.{part}: patient '{patient}' is already in {part_of[patient]}; list each once."
                )
            part_of[patient] = part
    return {part: sorted(lists[part]) for part in PARTS}


def fold(split: Split, strong: Sequence[str], groups: Mapping[str, str], part: str, seed: int) -> Split:
    """The split of one fold of a cross-validation over the strong patients.

    Args:
      split: its validation and test patients are not used.
      strong: training patients with full masks; they are divided into the folds.
      groups: patient -> group.
      part: "I/N": fold I, counted from 0, of N.
      seed: seed of the division.

    Returns:
      The split: fold I as test, all other training patients as train, no validation.

    Raises:
      InputError: `part` is invalid, or there are fewer strong patients than folds.
    """
    index, _, folds = part.partition("/")
    if not (index.isdecimal() and folds.isdecimal() and int(index) < int(folds) and int(folds) >= 2):
        raise InputError(f"config.data.fold: is '{part}'; give I/N, fold I of N counted from 0, like 0/4.")
    if int(folds) > len(strong):
        raise InputError(f"config.data.fold: is {part}, but only {len(strong)} patients are strong; give fewer folds.")
    held_out = stratified_order({patient: groups[patient] for patient in strong}, seed)[int(index) :: int(folds)]
    return {
        "train": [patient for patient in split["train"] if patient not in held_out],
        "validation": [],
        "test": sorted(held_out),
    }


def draw_strong(
    train: Mapping[str, str], masked: Collection[str], strong: int | str | Sequence[str], seed: int
) -> list[str]:
    """The strong patients: training patients whose full masks are used.

    Args:
      train: training patient -> group.
      masked: training patients with full masks.
      strong: a number to draw across groups, a list of patients, or "all". With one seed, smaller draws are subsets of
        larger ones.
      seed: seed of the draw.

    Raises:
      InputError: `strong` exceeds the number of training patients with masks, or lists another patient.
    """
    if strong == "all" and masked:
        return sorted(masked)
    if isinstance(strong, int | str):
        if isinstance(strong, str) or not 1 <= strong <= len(masked):
            raise InputError(
                f"config.data.strong: is {strong}; {len(masked)} training patients have full masks; give at most that."
            )
        return sorted(stratified_order({patient: train[patient] for patient in masked}, seed)[:strong])
    unknown = sorted(set(strong) - set(masked))
    if unknown or not strong or len(set(strong)) < len(strong):
        fault = f"{unknown} are not training patients with masks" if unknown else "is empty or lists a patient twice"
        raise InputError(f"config.data.strong: {fault}; list training patients, each once.")
    return sorted(strong)
