"""Validation Dice during training."""

from collections.abc import Callable
import sys
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from msl_jax.evaluation import metrics
from msl_jax.experiments.experiment import Experiment
from msl_jax.inference.segmenter import segmenter_of
from msl_jax.labels import UNLABELED
from msl_jax.runs import journal
from msl_jax.settings.objects import preparation_of


def dice_columns(config: ConfigDict, branch: str) -> dict[str, str | None]:
    """Column of metrics.csv -> structure; None for the mean over structures."""
    mean, several = journal.DICE + branch, len(config.data.classes) > 1
    return {mean: None, **{f"{mean}_{name}": name for name in config.data.classes if several}}


def make_validator(experiment: Experiment, branches: tuple[str, ...]) -> Callable[[Any, int], dict[str, float]]:
    """Makes the function (variables, step) -> mean Dice over the validation cases, by the names of `dice_columns`.

    It warns if a branch predicts only one class. Structures that no validation case has are left out: an empty
    prediction of an absent structure would count as Dice 1.
    """
    config = experiment.config
    entries = experiment.entries(experiment.split["validation"])
    structures = experiment.structures(experiment.split["validation"])
    class_of_value = preparation_of(config).class_of_value()
    segmenter = segmenter_of(config, branches)

    def validate(variables: Any, step: int) -> dict[str, float]:
        dice: dict[str, list[list[float]]] = {branch: [] for branch in segmenter.branches}
        predicted: dict[str, set[int]] = {branch: set() for branch in segmenter.branches}
        for case in map(experiment.data.case, entries):
            reference = class_of_value[case.mask]
            for branch, labels in segmenter.classes(variables, case.image, case.spacing).items():
                known = np.where(reference == UNLABELED, UNLABELED, labels)
                dice[branch].append([metrics.dice(known == c, reference == c) for c in structures.values()])
                predicted[branch].update(np.unique(labels).tolist())
        for branch, classes in predicted.items():
            if len(classes) == 1 and jax.process_index() == 0:
                print(one_class_warning(config, branch, step, *classes), file=sys.stderr, flush=True)
        row: dict[str, float] = {}
        for branch, values in dice.items() if structures else ():
            means: dict[str | None, Any] = {None: np.mean(values)}
            means |= dict(zip(structures, np.mean(values, axis=0), strict=True))
            columns = dice_columns(config, branch).items()
            row |= {column: float(means[name]) for column, name in columns if name in means}
        return row

    return validate


def one_class_warning(config: ConfigDict, branch: str, step: int, only: int) -> str:
    """The warning about a branch that predicts only class `only` in all validation cases."""
    name = ("background", *config.data.classes)[only]
    entropy = config.method.terms.ent
    advice = (
        f"lower config.method.terms.ent, which is {entropy:g}" if entropy else "train longer, or weight the classes"
    )
    return f"warning: at step {step} the {branch} labels every voxel of the validation cases as {name}; {advice}."
