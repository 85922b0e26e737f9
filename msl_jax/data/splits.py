"""Who is train, validation, test, and whose masks are used in full: by patient, within groups, from a seed."""

from collections.abc import Mapping, Sequence

import numpy as np

from msl_jax.checks import Refused

Split = dict[str, list[str]]
"""The names "train", "validation" and "test" -> patients, sorted."""
ROLES = ("train", "validation", "test")


def stratified_order(groups: Mapping[str, str], seed: int) -> list[str]:
    """Patients in a random order whose every beginning holds the groups in proportion, as nearly as can be.

    Args:
      groups: patient -> group.
      seed: the order depends on it and on `groups` alone.
    """
    rng = np.random.default_rng(seed)
    places = []
    for group in rng.permutation(sorted(set(groups.values()))):
        members = rng.permutation(sorted(p for p, g in groups.items() if g == group))
        places += [((i + 0.5) / len(members), len(places) + i, str(p)) for i, p in enumerate(members)]
    return [patient for _, _, patient in sorted(places)]


def split_patients(groups: Mapping[str, str], sizes: Sequence[Sequence[int]], seed: int) -> Split:
    """Draws the split whose sizes (train, validation, test) add up to the number of patients.

    Raises:
      Refused: no row of `sizes` adds up to it.
    """
    row = next((row for row in sizes if sum(row) == len(groups)), None)
    if row is None:
        known = ", ".join("+".join(map(str, row)) for row in sizes)
        raise Refused(
            f"config.data.split_sizes: no row adds up to the {len(groups)} patients of the data set ({known}); "
            "give numbers for train, validation and test, --config.data.split_sizes='((TRAIN, VALIDATION, TEST),)'."
        )
    order = stratified_order(groups, seed)
    _, validation, test = row
    parts = {"test": order[:test], "validation": order[test : test + validation], "train": order[test + validation :]}
    return {role: sorted(parts[role]) for role in ROLES}


def listed_split(groups: Mapping[str, str], lists: Mapping[str, Sequence[str]]) -> Split:
    """Takes the split from lists of patients; patients on no list are left out.

    Raises:
      Refused: a patient is unknown or on two lists, or a list is empty.
    """
    seen: dict[str, str] = {}
    for role in ROLES:
        if not lists[role]:
            raise Refused(
                f"config.data.split.{role}: is empty; list the patients of all of {', '.join(ROLES)}, or of none."
            )
        for patient in lists[role]:
            if patient not in groups:
                raise Refused(f"config.data.split.{role}: the data set has no patient '{patient}'.")
            if patient in seen:
                raise Refused(f"config.data.split.{role}: patient '{patient}' is already in {seen[patient]}.")
            seen[patient] = role
    return {role: sorted(lists[role]) for role in ROLES}


def draw_strong(train: Mapping[str, str], strong: int | Sequence[str], seed: int) -> list[str]:
    """The training patients whose full masks are used.

    Args:
      train: training patient -> group.
      strong: how many to draw across groups, or which ones. Fewer are a subset of more, for one seed.
      seed: seed of the draw.

    Raises:
      Refused: there are fewer training patients than that, or one listed is not among them.
    """
    if isinstance(strong, int):
        if not 1 <= strong <= len(train):
            raise Refused(f"config.data.strong: is {strong}; there are {len(train)} training patients to draw from.")
        return sorted(stratified_order(train, seed)[:strong])
    unknown = sorted(set(strong) - set(train))
    if unknown or not strong or len(set(strong)) < len(strong):
        fault = f"{unknown} are no training patients" if unknown else "the list is empty or names a patient twice"
        raise Refused(f"config.data.strong: {fault}; name patients of the training part, each once.")
    return sorted(strong)
