"""Assignment of patients to the split and to the strong set."""

from collections.abc import Collection, Mapping

from ml_collections import ConfigDict

from msl_jax.data import builder, splits
from msl_jax.data.case import in_case
from msl_jax.data.patient_table import TRAIN, Table
from msl_jax.errors import InputError, raise_all
from msl_jax.methods.table import Method
from msl_jax.settings.objects import preparation_of

ROLES_OF_PART = {"train": (TRAIN, "strong", "weak"), "validation": ("validation",), "test": ("test",)}
"""Part of the split -> the roles, in a table or a data set, of its patients."""


def assign_roles(
    config: ConfigDict,
    method: Method,
    data: builder.Dataset,
    table: Table,
    unannotated: Collection[str] = (),
) -> tuple[splits.Split, list[str]]:
    """Split and strong patients, from the config's lists, the table or the data set, else at random.

    Random draws use only patients with full masks of all structures; patients assigned by name may have partial masks.
    Patients with unannotated structures are never drawn for validation or test, nor are they held out by a fold.

    Raises:
      InputError: patients are assigned twice, are unknown, or are too few.
    """
    groups = {**data.groups(), **{patient: row["group"] for patient, row in table.items() if "group" in row}}
    given_roles = _given_roles(config, data, table)
    split = _split(config, data, groups, given_roles, unannotated)
    train = {patient: groups[patient] for patient in split["train"]}
    strong = _strong(config, method, data, train, given_roles, unannotated)
    if config.data.fold:
        whole = [patient for patient in strong if patient not in unannotated]
        split = splits.fold(split, whole, groups, config.data.fold, config.data.split_seed)
        strong = [patient for patient in strong if patient in split["train"]]
    return split, strong


def unannotated_classes(config: ConfigDict, data: builder.Dataset, table: Table) -> dict[str, tuple[int, ...]]:
    """Patient -> trained classes that its row of the table does not list in the column classes, if it lists any.

    Args:
      config: the filled-in config.
      data: the data set.
      table: of config.data.table.

    Raises:
      InputError: a name is unknown, or a mask has a structure that its row leaves out.
    """
    path, found, problems = config.data.table, {}, []
    value_of_class = preparation_of(config).values
    for patient, row in table.items():
        listed = {name.strip() for name in row.get("classes", "").split("+") if name.strip()}
        unknown = sorted(listed - set(data.labels))
        if unknown:
            problems.append(
                f"{path}: classes of patient '{patient}' have '{unknown[0]}'; give names of {', '.join(data.labels)}, "
                "joined by +."
            )
        missing = {c: name for c, name in enumerate(config.data.classes, start=1) if listed and name not in listed}
        present = {value for entry in data.of_patients([patient]) for value in entry.values}
        drawn = [name for c, name in missing.items() if in_case(value_of_class[c]) in present]
        if drawn:
            problems.append(
                f"{path}: classes of patient '{patient}' leave out {', '.join(drawn)}, which its mask has; add them "
                "or remove them from the mask."
            )
        if missing:
            found[patient] = tuple(missing)
    raise_all(problems)
    return found


def _given_roles(config: ConfigDict, data: builder.Dataset, table: Table) -> Mapping[str, str]:
    """Patient -> role of the table, else of the data set; empty if the config lists the split."""
    in_table = {patient: row["role"] for patient, row in table.items() if "role" in row}
    if not any(config.data.split.to_dict().values()):
        return in_table or data.roles()
    if in_table:
        raise InputError(f"config.data.split: lists patients, and so does {config.data.table}; leave one of them out.")
    return {}


def _split(
    config: ConfigDict,
    data: builder.Dataset,
    groups: Mapping[str, str],
    given_roles: Mapping[str, str],
    unannotated: Collection[str],
) -> splits.Split:
    lists = config.data.split.to_dict()
    if given_roles:
        lists = {
            part: [patient for patient in groups if given_roles.get(patient) in roles]
            for part, roles in ROLES_OF_PART.items()
        }
    if any(lists.values()):
        return splits.listed_split(groups, lists)
    full = [patient for patient in data.masked(full=True) if patient not in unannotated]
    return splits.split_patients(groups, full, config.data.split_sizes, config.data.split_seed)


def _strong(
    config: ConfigDict,
    method: Method,
    data: builder.Dataset,
    train: Mapping[str, str],
    given_roles: Mapping[str, str],
    unannotated: Collection[str],
) -> list[str]:
    """The strong patients of `train`, a map from patient to group."""
    listed = [patient for patient in train if given_roles.get(patient) == "strong"]
    requested = "all" if method.all_strong else listed or config.data.strong
    masked = data.masked(full=isinstance(requested, int | str))  # patients listed by name may have partial masks
    drawn_from = [p for p in train if p in masked and not (isinstance(requested, int) and p in unannotated)]
    return splits.draw_strong(train, drawn_from, requested, config.seed)
