"""From a config to an open experiment: checked, built, split, and refused where it cannot work."""

from collections.abc import Mapping, Sequence
import errno
import os
import pathlib

import jax
from ml_collections import ConfigDict

from msl_jax.data import builder
from msl_jax.data.case import shared_unit
from msl_jax.data.patient_table import read_table
from msl_jax.data.weak_labels import DRAWN
from msl_jax.errors import InputError, raise_all
from msl_jax.experiments.experiment import Experiment, structures_of
from msl_jax.experiments.roles import roles
from msl_jax.labels import UNLABELED
from msl_jax.settings.resolved import filled_in, method_of, source_of
from msl_jax.settings.rules import check_config
from msl_jax.system.paths import expanded
from msl_jax.system.text import few

CACHE = "~/tensorflow_datasets"
"""Where TFDS builds a data set unless it is told otherwise."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What only writing fails with, and building writes into the cache alone."""
LONGEST = 120
"""Characters of what array_record says that are passed on."""


def open_experiment(config: ConfigDict) -> Experiment:
    """Checks a config, builds or opens its data set and settles who is what for.

    Raises:
      InputError: a setting or a file cannot work.
    """
    check_config(config)
    method = method_of(config)
    data = _build(config)
    table = read_table(config.data.table, data.groups()) if config.data.table else {}
    filled = filled_in(config, method, data.labels, data.channels, data.contents, data.directions)
    _check_structures(filled, {"": data.entries} if data.masked(full=False) else {})
    split, strong = roles(config, method, data, table)
    recipes = {patient: row["weak"] for patient, row in table.items() if row.get("weak")}
    experiment = Experiment(filled, data, split, strong, recipes, method)
    _check_masks(experiment)
    _check_structures(filled, {"strong ": experiment.entries(strong), "test ": experiment.entries(split["test"])})
    shared_unit(experiment.entries(split["test"]))
    if not experiment.structures(split["validation"]) and config.eval.checkpoint == "best":
        raise InputError("config.eval.checkpoint: is best, and no validation case has a trained structure; give last.")
    for name in experiment.training_sets(method):
        size = config.train[f"{name}_batch"]
        if size % (jax.device_count() * config.train.accumulate):
            raise InputError(
                f"config.train.{name}_batch: is {size}; give a multiple of the {jax.device_count()} devices times "
                f"config.train.accumulate={config.train.accumulate}."
            )
    return experiment


def _build(config: ConfigDict) -> builder.Dataset:
    """The data set, built into config.data.cache; raises InputError where it cannot be written there."""
    cure = "give a folder to build data sets in by --config.data.cache=FOLDER"
    cache = expanded(config.data.cache or os.environ.get("TFDS_DATA_DIR") or CACHE, cure)
    cache = cache if "://" in cache else os.path.abspath(cache)
    try:
        return builder.build(source_of(config), cache)
    except (OSError, RuntimeError) as error:  # the latter of array_record, where a disk is full
        place = getattr(error, "filename", None) or cache
        above = pathlib.Path(place) in pathlib.Path(cache).parents
        if not (cache in str(error) or above or getattr(error, "errno", None) in FULL):
            raise
        said = getattr(error, "strerror", None) or " ".join(str(error).split())[:LONGEST]
        raise InputError(f"{place}: {said}; {cure}.") from error


def _check_masks(experiment: Experiment) -> None:
    """Refuses to need a mask that is not there."""
    masked, annotator = set(experiment.data.masked(full=False)), experiment.annotator()
    recipes = {patient: annotator.recipe_of(patient) for patient in experiment.split["train"]}
    raise_all(
        [
            f"{patient}: is there for {role} and has no mask, or one without a label; give it one, or take it out."
            for role in ("validation", "test")
            for patient in experiment.split[role]
            if patient not in masked
        ]
        + [
            f"{patient}: has no mask from which config.data.weak={recipe} could be made; give config.data.weak={DRAWN} "
            "for what was drawn."
            for patient, recipe in recipes.items()
            if recipe not in (DRAWN, "none") and patient not in masked
        ]
    )


def _check_structures(config: ConfigDict, cases: Mapping[str, Sequence[builder.Entry]]) -> None:
    """Refuses where there is nothing to learn or to test; cases by what they are called in the sentence."""
    trained = ", ".join(f"{name}={value}" for name, value in config.data.classes.items())
    problems = []
    for kind, entries in cases.items():
        if not structures_of(config, entries):
            held = sorted({value for entry in entries for value in entry.values})
            values = ", ".join("unlabelled" if value == UNLABELED else str(value) for value in held)
            problems.append(
                f"{few([entry.name for entry in entries])}: no mask of these {kind}cases holds a voxel of {trained}, "
                f"only {values}; choose other cases, or correct config.data.labels and config.data.unlabeled, which is "
                f"{config.data.unlabeled}."
            )
    raise_all(problems)
