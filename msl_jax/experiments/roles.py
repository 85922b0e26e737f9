"""Assignment of patients to the splits and to the strong set."""

from ml_collections import ConfigDict

from msl_jax.data import builder, splits
from msl_jax.data.patient_table import TRAIN, Table
from msl_jax.errors import InputError
from msl_jax.methods.table import Method


def roles(config: ConfigDict, method: Method, data: builder.Dataset, table: Table) -> tuple[splits.Split, list[str]]:
    """Split and strong patients, from the config's lists, the table or the data set, else at random.

    Random draws use only patients with full masks; patients assigned by name may have partial masks.
    """
    groups = {**data.groups(), **{patient: row["group"] for patient, row in table.items() if "group" in row}}
    full = data.masked(full=True)
    lists, table_roles = config.data.split, {patient: row["role"] for patient, row in table.items() if "role" in row}
    listed = any(lists[role] for role in splits.ROLES)
    if listed and table_roles:
        raise InputError(f"config.data.split: lists patients, and so does {config.data.table}; leave one of them out.")
    assigned = {} if listed else table_roles or data.roles()
    if listed:
        split = splits.listed_split(groups, lists)
    elif assigned:
        parts = {"train": (TRAIN, "strong", "weak"), "validation": ("validation",), "test": ("test",)}
        lists = {
            role: [patient for patient in groups if assigned.get(patient) in names] for role, names in parts.items()
        }
        split = splits.listed_split(groups, lists)
    else:
        split = splits.split_patients(groups, full, config.data.split_sizes, config.data.split_seed)
    train = {patient: groups[patient] for patient in split["train"]}
    requested = [patient for patient in train if assigned.get(patient) == "strong"] or config.data.strong
    strong = "all" if method.all_strong else requested
    masked = data.masked(full=isinstance(strong, int | str))
    strong = splits.draw_strong(train, [patient for patient in train if patient in masked], strong, config.seed)
    if config.data.fold:
        split = splits.fold(split, strong, groups, config.data.fold, config.data.split_seed)
        strong = [patient for patient in strong if patient in split["train"]]
    return split, strong
