"""Decides on the validation cases how a run predicts: its branch, largest components, and temperatures.

All-but-largest-component suppression is chosen as by nnU-Net (Isensee et al., Nature Methods 18, 2021): for a structure
whose validation Dice it raises. Here it is decided for every structure and branch on its own.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import math
from typing import NamedTuple

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from msl_jax.evaluation import metrics
from msl_jax.experiments.experiment import Experiment
from msl_jax.inference import temperature
from msl_jax.inference.components import largest_components
from msl_jax.inference.segmenter import joined, load_network, most_probable
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
"""Branch -> structure that validation cases have -> scores. Empty without such cases."""


def select(experiment: Experiment, workdir: epath.Path) -> tuple[Selection, list[str]]:
    """Makes the selection of a finished run and writes its selection.json.

    Returns:
      The selection, and warnings about branches that fail on the validation cases, a sentence each.

    Raises:
      InputError: the run has no readable checkpoint.
    """
    config, patients = experiment.config, experiment.split["validation"]
    segmenter, variables, step = load_network(workdir, config.eval.checkpoint)
    class_of_value, classes = segmenter.preparation.class_of_value(), len(segmenter.preparation.values)
    entries, structures = experiment.entries(patients), experiment.structures(patients)
    drawn: dict[str, list[temperature.Voxels]] = {branch: [] for branch in segmenter.branches}

    def cases() -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        for number, entry in enumerate(entries):
            case, predicted = experiment.data.case(entry), []
            reference = class_of_value[case.mask]
            of_slice = temperature.PROBABILITIES / (classes * len(entries) * len(reference))
            for slices, slab in segmenter.slabs(variables, case.image, case.spacing):
                predicted.append(most_probable(slab))
                share, seed = math.ceil(of_slice * (slices.stop - slices.start)), (number, slices.start)
                for branch, probabilities in slab.items():
                    drawn[branch].append(temperature.draw(probabilities, reference[slices], share, seed))
            yield reference, joined(predicted)

    validation = validate(cases(), structures) if structures else {}
    temperatures = {branch: temperature.fit(drawn[branch]) for branch in validation}
    selection = dataclasses.replace(decide(config, step, validation), temperature=temperatures)
    write(selection, workdir)
    return selection, list(shortcomings(config, selection, validation))


def validate(
    cases: Iterable[tuple[np.ndarray, Mapping[str, np.ndarray]]], structures: Mapping[str, int]
) -> dict[str, dict[str, Scores]]:
    """Scores the branches on one or more cases, over labelled voxels.

    Args:
      cases: the reference, int (slice, y, x), classes or UNLABELED, and branch -> prediction, uint8 (slice, y, x).
      structures: name -> class.

    Returns:
      Branch -> structure -> scores.
    """
    scored: dict[str, list[list[Scores]]] = {}
    for reference, predictions in cases:
        for branch, prediction in predictions.items():
            largest = largest_components(prediction)
            scored.setdefault(branch, []).append(
                [
                    Scores(_dice(prediction, reference, c), _dice(largest, reference, c), c in prediction)
                    for c in structures.values()
                ]
            )
    return {
        branch: {name: Scores(*means) for name, means in zip(structures, np.mean(of_cases, axis=0), strict=True)}
        for branch, of_cases in scored.items()
    }


def decide(config: ConfigDict, step: int, validation: Validation) -> Selection:
    """The selection by config.eval.postprocess and the scores; of branches with equal Dice, the student."""
    default = undecided(config, step)
    if not validation:
        return default
    largest = dict(default.largest_component)
    dice = {}
    for branch in largest:  # the student is last
        scores = validation[branch]
        if config.eval.postprocess == "auto":
            largest[branch] = tuple(name for name, s in scores.items() if s.largest_dice > s.dice)
        used = [s.largest_dice if name in largest[branch] else s.dice for name, s in scores.items()]
        dice[branch] = float(np.mean(used))
    best = max(reversed(dice), key=dice.__getitem__)
    return dataclasses.replace(default, branch=best, validation_dice=dice, largest_component=largest)


def shortcomings(config: ConfigDict, selection: Selection, validation: Validation) -> Iterator[str]:
    """Warnings about branches that miss a structure in all validation cases, or are far worse than the other."""
    used, dice = selection.branch, selection.validation_dice
    for branch in dice:
        missed = [name for name, scores in validation[branch].items() if not scores.predicted]
        others = [other for other in dice if all(validation[other][name].predicted for name in missed)]
        if missed:
            problem = f"predicts {', '.join(missed)} in no validation case, although reference masks do"
        elif dice[used] - dice[branch] > FAR:
            problem = f"has a validation Dice of {100 * dice[branch]:.1f} %, the {used} {100 * dice[used]:.1f} %"
        else:
            continue
        yield f"The {branch} of step {selection.step} {problem}; {_cure(config, branch, used, others)}."


def _dice(labels: np.ndarray, reference: np.ndarray, c: int) -> float:
    return metrics.dice((labels == c) & (reference != UNLABELED), reference == c)


def _cure(config: ConfigDict, branch: str, used: str, others: list[str]) -> str:
    """What to do about a branch; `used` predicts by default, `others` predict the structures that it misses."""
    term = ENTROPY_OF[branch]
    entropy = config.method.terms[term]
    cure = f"lower config.method.terms.{term} (now {entropy:g}) or train longer" if entropy else "train longer"
    if branch != used:
        return f"{cure}; predictions use the {used} unless --branch={branch} is given"
    return " or ".join([cure, *(f"predict with --branch={other}" for other in others)])
