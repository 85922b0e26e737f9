"""Opens an experiment: validates the config, builds the data set, assigns roles to patients."""

from collections.abc import Mapping, Sequence

import jax
from ml_collections import ConfigDict

from msl_jax.data import builder, splits
from msl_jax.data.case import shared_unit
from msl_jax.data.patient_table import read_table
from msl_jax.data.weak_labels import DRAWN
from msl_jax.errors import InputError, raise_all
from msl_jax.experiments.assignment import assign_roles, unannotated_classes
from msl_jax.experiments.cache import cache_of, writing
from msl_jax.experiments.experiment import Experiment, structures_of
from msl_jax.experiments.planning import planned, units_of
from msl_jax.labels import UNLABELED
from msl_jax.settings.objects import filled_in, method_of, source_of
from msl_jax.settings.rules import check_config
from msl_jax.system.machine import Machine, this_machine
from msl_jax.system.text import few


def open_experiment(config: ConfigDict, machine: Machine | None = None) -> Experiment:
    """Validates a config, builds or opens its data set and assigns roles to patients.

    Args:
      config: as returned by `settings.load`.
      machine: that which trains, for settings that are "auto"; None for this one.

    Raises:
      InputError: a setting or a file is invalid.
    """
    check_config(config)
    method_of(config)  # an invalid method is found before the data set is built
    cache = cache_of(config)
    with writing(cache):
        data = builder.build(source_of(config), cache)
    table = read_table(config.data.table, data.groups()) if config.data.table else {}
    config, settled = planned(config, data, machine or this_machine())
    check_config(config)
    method = method_of(config)
    filled = filled_in(
        config, method, data.labels, data.channels, data.contents, data.directions, units_of(config, data)
    )
    _check_structures(filled, {"": data.entries} if data.masked(full=False) else {})
    unannotated = unannotated_classes(filled, data, table)
    split, strong = assign_roles(config, method, data, table, unannotated)
    _check_unannotated(filled, split, unannotated)
    unannotated = {patient: classes for patient, classes in unannotated.items() if patient in split["train"]}
    recipes = {patient: row["weak"] for patient, row in table.items() if row.get("weak")}
    experiment = Experiment(filled, data, split, strong, recipes, method, settled, unannotated)
    _check_masks(experiment)
    _check_test_and_validation(experiment)
    _check_sets(experiment)
    return experiment


def _check_masks(experiment: Experiment) -> None:
    """Raises InputError if a patient lacks a mask that its role or recipe needs."""
    masked, annotator = set(experiment.data.masked(full=False)), experiment.annotator()
    recipes = {patient: annotator.recipe_of(patient) for patient in experiment.split["train"]}
    raise_all(
        [
            f"{patient}: is a {role} patient, but has no mask with labels; add a mask, or remove the patient."
            for role in ("validation", "test")
            for patient in experiment.split[role]
            if patient not in masked
        ]
        + [
            f"{patient}: has no mask, which config.data.weak={recipe} needs; give config.data.weak={DRAWN} for drawn "
            "annotations."
            for patient, recipe in recipes.items()
            if recipe not in (DRAWN, "none") and patient not in masked
        ]
    )


def _check_unannotated(config: ConfigDict, split: splits.Split, unannotated: Mapping[str, tuple[int, ...]]) -> None:
    """Raises InputError if cases with unannotated structures would be scored, or no label values are left for them."""
    names = list(config.data.classes)
    raise_all(
        [
            f"{patient}: is a {role} patient, but {config.data.table} says that nobody annotated "
            f"{', '.join(names[c - 1] for c in unannotated[patient])} in it; give it the role train."
            for role in ("validation", "test")
            for patient in split[role]
            if patient in unannotated
        ]
    )
    sets = len({unannotated[patient] for patient in split["train"] if patient in unannotated})
    if 1 + len(names) + sets > UNLABELED:
        raise InputError(
            f"{config.data.table}: has {sets} different lists of classes, but with {len(names)} structures there may "
            f"be {UNLABELED - 1 - len(names)}; make some lists equal."
        )


def _check_test_and_validation(experiment: Experiment) -> None:
    """Raises InputError if strong, test or validation cases cannot be trained on or scored as the config asks."""
    config, split = experiment.config, experiment.split
    test = experiment.entries(split["test"])
    _check_structures(config, {"strong ": experiment.entries(experiment.strong), "test ": test})
    shared_unit(test)
    if not experiment.structures(split["validation"]) and config.eval.checkpoint == "best":
        raise InputError("config.eval.checkpoint: is best, but no validation case has a trained structure; give last.")


def _check_sets(experiment: Experiment) -> None:
    """Raises InputError if the method's weak set is empty, or if a batch cannot be shared by devices and parts."""
    method, accumulate = experiment.method, experiment.config.train.accumulate
    if "weak" in method.loaded_sets() and not experiment.weak():
        setting, cure = "config.data.strong", "give fewer"
        if method.all_strong:
            setting, cure = f"method '{experiment.config.method.name}'", "remove its terms on weak images or its mix"
        raise InputError(f"{setting}: makes all training patients strong, but weak ones are needed; {cure}.")
    for name, size in experiment.batch_sizes(method).items():
        if size % (jax.device_count() * accumulate):
            raise InputError(
                f"config.train.{name}_batch: is {size}; give a multiple of the {jax.device_count()} devices times "
                f"config.train.accumulate={accumulate}."
            )


def _check_structures(config: ConfigDict, cases: Mapping[str, Sequence[builder.Entry]]) -> None:
    """Raises InputError if cases have no trained structure; the keys of `cases` are their names in the message."""
    trained = ", ".join(f"{name}={value}" for name, value in config.data.classes.items())
    problems = []
    for kind, entries in cases.items():
        if not structures_of(config, entries):
            present = sorted({value for entry in entries for value in entry.values})
            values = ", ".join("unlabelled" if value == UNLABELED else str(value) for value in present)
            problems.append(
                f"{few([entry.name for entry in entries])}: no mask of these {kind}cases contains {trained}, only "
                f"{values}; choose other cases, or correct config.data.labels and config.data.unlabeled (now "
                f"{config.data.unlabeled})."
            )
    raise_all(problems)
