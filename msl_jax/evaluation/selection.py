"""Decides on the validation cases with which branch a run predicts, and where only the largest component is kept.

All-but-largest-component suppression is chosen as by nnU-Net (Isensee et al., Nature Methods 18, 2021): for a structure
whose validation Dice it raises. Here it is decided for every structure and branch on its own.
"""

from collections.abc import Iterator, Mapping
import dataclasses
from typing import NamedTuple

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from msl_jax.evaluation import metrics
from msl_jax.experiments.experiment import Experiment
from msl_jax.inference.components import largest_components
from msl_jax.inference.segmenter import load_network
from msl_jax.labels import UNLABELED
from msl_jax.runs.selection import Selection, undecided, write

FAR = 0.1
"""Difference of the branches in validation Dice from which the worse one is worth a warning."""
ENTROPY_OF = {"student": "ent", "teacher": "teacher_ent"}
"""Branch -> the term that minimises its entropy, which may lose a structure."""


class Scores(NamedTuple):
    """Means over validation cases, of one branch and structure.

    Attributes:
      dice: Dice.
      largest_dice: Dice of the largest component.
      predicted: share of the cases in which the structure is predicted.
    """

    dice: float
    largest_dice: float
    predicted: float


Validation = Mapping[str, Mapping[str, Scores]]
"""Branch, the student last -> structure that validation cases have -> scores. Empty without such cases."""


def select(experiment: Experiment, workdir: epath.Path) -> tuple[Selection, list[str]]:
    """Makes the selection of a finished run and writes its selection.json.

    Returns:
      The selection, and warnings about branches that fail on the validation cases, a sentence each.

    Raises:
      InputError: the run has no readable checkpoint.
    """
    config, patients = experiment.config, experiment.split["validation"]
    structures = experiment.structures(patients)
    segmenter, variables, step = load_network(workdir, config.eval.checkpoint)
    scores: dict[str, list[np.ndarray]] = {branch: [] for branch in segmenter.branches if structures}
    for case in map(experiment.data.case, experiment.entries(patients) if structures else ()):
        reference = segmenter.preparation.class_of_value()[case.mask]
        for branch, classes in segmenter.classes(variables, case.image, case.spacing).items():
            scores[branch].append(score(classes, reference, structures))
    validation = {
        branch: {name: Scores(*row) for name, row in zip(structures, np.mean(cases, axis=0).tolist(), strict=True)}
        for branch, cases in scores.items()
    }
    selection = decide(config, step, validation)
    write(selection, workdir)
    return selection, list(shortcomings(config, selection, validation))


def score(prediction: np.ndarray, reference: np.ndarray, structures: Mapping[str, int]) -> np.ndarray:
    """Scores one case, over labelled voxels.

    Args:
      prediction: uint8 (slice, y, x), classes.
      reference: int (slice, y, x), classes or UNLABELED.
      structures: name -> class.

    Returns:
      The fields of Scores for this case, float64 (structures, 3).
    """
    known, largest = reference != UNLABELED, largest_components(prediction)
    return np.array(
        [
            [
                *(metrics.dice((labels == c) & known, reference == c) for labels in (prediction, largest)),
                c in prediction,
            ]
            for c in structures.values()
        ],
        np.float64,
    )


def decide(config: ConfigDict, step: int, validation: Validation) -> Selection:
    """The selection by config.eval.postprocess and the scores; of branches with equal Dice, the student."""
    default = undecided(config, step)
    if not validation:
        return default
    largest = default.largest_component
    if config.eval.postprocess == "auto":
        largest = {
            branch: tuple(name for name, scores in of_branch.items() if scores.largest_dice > scores.dice)
            for branch, of_branch in validation.items()
        }
    dice = {
        branch: float(np.mean([s.largest_dice if name in largest[branch] else s.dice for name, s in of_branch.items()]))
        for branch, of_branch in validation.items()
    }
    best = max(reversed(dice), key=dice.__getitem__)
    return dataclasses.replace(default, branch=best, validation_dice=dice, largest_component=largest)


def shortcomings(config: ConfigDict, selection: Selection, validation: Validation) -> Iterator[str]:
    """Warnings about branches that miss a structure in all validation cases, or are far worse than the other."""
    used, dice = selection.branch, selection.validation_dice
    for branch, of_branch in validation.items():
        missed = [name for name, scores in of_branch.items() if not scores.predicted]
        others = [other for other in validation if all(validation[other][name].predicted for name in missed)]
        if missed:
            problem = f"predicts {', '.join(missed)} in no validation case, although reference masks do"
        elif dice[used] - dice[branch] > FAR:
            problem = f"has a validation Dice of {100 * dice[branch]:.1f} %, the {used} {100 * dice[used]:.1f} %"
        else:
            continue
        yield f"The {branch} of step {selection.step} {problem}; {_cure(config, branch, used, others)}."


def _cure(config: ConfigDict, branch: str, used: str, others: list[str]) -> str:
    """What to do about a branch; `used` predicts by default, `others` predict the structures that it misses."""
    term = ENTROPY_OF[branch]
    entropy = config.method.terms[term]
    cures = [f"lower config.method.terms.{term}, which is {entropy:g}"] if entropy else []
    cures.append("train for more steps")
    if branch == used:
        return " or ".join([*cures, *(f"predict with --branch={other}" for other in others)])
    return f"{' or '.join(cures)}; predictions use the {used} unless --branch={branch} is given"
