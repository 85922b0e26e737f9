"""A CSV with settings for each patient: columns patient, and any of role, group, weak, classes."""

from collections.abc import Collection
import csv
import pathlib

from msl_jax.data.case import ROLES
from msl_jax.data.weak_labels import DRAWN, RECIPES
from msl_jax.errors import InputError
from msl_jax.system.paths import expanded

TRAIN = "train"
"""The role of a training patient, strong or weak."""
COLUMNS = {"patient": (), "role": ((TRAIN, *ROLES),), "group": (), "weak": (RECIPES, (DRAWN,)), "classes": ()}
"""Column -> collections of its values; none if any value is valid. A value may also be empty."""
Table = dict[str, dict[str, str]]
"""Patient -> column -> value."""


def read_table(path: str, patients: Collection[str]) -> Table:
    """Reads the CSV of config.data.table.

    Raises:
      InputError: the file cannot be read, a column, a patient or a value is unknown, or a patient is listed twice.
    """
    try:
        text = pathlib.Path(expanded(path)).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{path}: cannot be read, {reason}; give a CSV file as config.data.table.") from error
    try:
        rows = list(csv.DictReader(text.splitlines(), restkey="(more values than columns)", restval=""))
    except csv.Error as error:
        raise InputError(f"{path}: is not a readable CSV file ({error}); write it again.") from error
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if "patient" not in columns or not set(columns) <= set(COLUMNS):
        others = ", ".join(list(COLUMNS)[1:])
        raise InputError(f"{path}: its columns are {', '.join(columns)}; give patient and any of {others}.")
    table: Table = {}
    for number, row in enumerate(rows, start=2):
        row = {column: value.strip() for column, value in row.items()}
        patient = row.pop("patient")
        if patient not in patients:
            raise InputError(f"{path}: line {number}: the data set has no patient '{patient}'; correct the name.")
        if patient in table:
            raise InputError(f"{path}: line {number}: patient '{patient}' is listed twice; keep one line.")
        for column, value in row.items():
            valid = [name for names in COLUMNS[column] for name in names]
            if valid and value not in ("", *valid):
                raise InputError(f"{path}: line {number}: {column} is '{value}'; give one of {', '.join(valid)}.")
        table[patient] = row
    return table
