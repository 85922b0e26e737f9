"""Splits into train, validation and test, and the strong patients: by patient, stratified by group, from a seed."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from msl_jax.errors import InputError

Split = dict[str, list[str]]
"""The names "train", "validation" and "test" -> patients, sorted."""
PARTS = ("train", "validation", "test")


def stratified_order(groups: Mapping[str, str], seed: int) -> list[str]:
    """Patients in a random, stratified order: the first n hold the groups in proportion, as nearly as possible.

    Args:
      groups: patient -> group.
      seed: the order depends on it and on `groups` alone.
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
    """Draws the split whose sizes (train, validation, test) add up to the number of patients.

    Args:
      groups: patient -> group.
      masked: patients with full masks, among whom validation and test are drawn.
      sizes: rows of three numbers; None for train takes whoever is left, and so adds up to any number.
      seed: of the draw.

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
            f"config.data.split_sizes: takes {validation + test} patients for validation and test, and {len(masked)} "
            "have masks; leave some to learn from."
        )
    order = stratified_order({patient: groups[patient] for patient in masked}, seed)
    parts = {"test": order[:test], "validation": order[test : test + validation]}
    parts["train"] = list(set(groups) - set(order[: test + validation]))
    return {part: sorted(parts[part]) for part in PARTS}


def listed_split(groups: Mapping[str, str], lists: Mapping[str, Sequence[str]]) -> Split:
    """Takes the split from lists of patients; patients on no list are left out.

    Raises:
      InputError: a patient is unknown or on two lists, or a list is empty.
    """
    seen: dict[str, str] = {}
    for part in PARTS:
        if not lists[part] and part != "validation":
            raise InputError(
                f"config.data.split.{part}: is empty; list patients to train and to test on, or none at all."
            )
        for patient in lists[part]:
            if patient not in groups:
                raise InputError(f"config.data.split.{part}: the data set has no patient '{patient}'; name others.")
            if patient in seen:
                raise InputError(
                    f"config.data.split.{part}: patient '{patient}' is already in {seen[patient]}; name each once."
                )
            seen[patient] = part
    return {part: sorted(lists[part]) for part in PARTS}


def fold(split: Split, strong: Sequence[str], groups: Mapping[str, str], part: str, seed: int) -> Split:
    """The split of one part of a cross-validation: the strong patients are dealt out, one part of them is the test set.

    Args:
      split: whose validation and test patients stay out of it.
      strong: training patients with full masks.
      groups: patient -> group.
      part: "I/N": part I, counted from 0, of N.
      seed: of the deal.

    Returns:
      The split: no validation, part I as test, all other training patients as train.

    Raises:
      InputError: `part` does not read like that, or there are fewer strong patients than parts.
    """
    index, _, parts = part.partition("/")
    if not (index.isdecimal() and parts.isdecimal() and int(index) < int(parts) and int(parts) >= 2):
        raise InputError(f"config.data.fold: is '{part}'; give I/N, part I of N counted from 0, like 0/4.")
    if int(parts) > len(strong):
        raise InputError(f"config.data.fold: is {part}, and {len(strong)} patients have masks; give fewer parts.")
    held_out = stratified_order({patient: groups[patient] for patient in strong}, seed)[int(index) :: int(parts)]
    return {
        "train": [patient for patient in split["train"] if patient not in held_out],
        "validation": [],
        "test": sorted(held_out),
    }


def draw_strong(
    train: Mapping[str, str], masked: Collection[str], strong: int | str | Sequence[str], seed: int
) -> list[str]:
    """The training patients whose full masks are used.

    Args:
      train: training patient -> group.
      masked: those of them who have full masks.
      strong: how many to draw across groups, which ones, or "all". Fewer are a subset of more, for one seed.
      seed: seed of the draw.

    Raises:
      InputError: there are fewer training patients with masks than that, or one listed is not among them.
    """
    if strong == "all" and masked:
        return sorted(masked)
    if isinstance(strong, int | str):
        if isinstance(strong, str) or not 1 <= strong <= len(masked):
            raise InputError(
                f"config.data.strong: is {strong}; {len(masked)} training patients have full masks, give at most that."
            )
        return sorted(stratified_order({patient: train[patient] for patient in masked}, seed)[:strong])
    unknown = sorted(set(strong) - set(masked))
    if unknown or not strong or len(set(strong)) < len(strong):
        fault = f"{unknown} are no training patients with masks" if unknown else "the list is empty or names one twice"
        raise InputError(f"config.data.strong: {fault}; name patients of the training part, each once.")
    return sorted(strong)
