"""Evaluates a network on a test split: Dice, HD95 and ASSD in 3-D, calibration, tables and pictures."""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import json
from types import MappingProxyType
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict
import numpy as np

from msl_jax.data.builder import Entry
from msl_jax.data.case import Case, turned
from msl_jax.data.formats import orientation, volumes
from msl_jax.data.formats.orientation import UNTURNED, Turn
from msl_jax.data.protocols import PROTOCOLS, check_protocol
from msl_jax.errors import InputError, warn_all
from msl_jax.evaluation import calibration, metrics
from msl_jax.evaluation.results import Row, markdown, results, score, write_csv
from msl_jax.experiments.experiment import Experiment
from msl_jax.experiments.opening import open_experiment
from msl_jax.inference.components import largest_components
from msl_jax.inference.images import units_differ
from msl_jax.inference.segmenter import Segmenter, load_network
from msl_jax.inference.temperature import scaled
from msl_jax.labels import UNLABELED
from msl_jax.models.initial import Variables
from msl_jax.pictures import charts, plots
from msl_jax.runs import journal, selection
from msl_jax.runs.config import read_config, resumed
from msl_jax.system import atomic

Largest = Mapping[str, Collection[str]]
"""Branch -> names of the structures of which only the largest component is kept; missing branches keep all."""


def load_for(experiment: Experiment, workdir: epath.Path) -> tuple[Segmenter, Variables, Turn]:
    """Loads a run's network for an experiment, which may differ from the run's own.

    Returns:
      The segmenter with the experiment's label values and config.eval.mirror, its variables, and how to reorient the
      experiment's volumes.

    Raises:
      InputError: there is no readable network, it has other structures or channels, or config.eval.protocol does not
        apply to it.
    """
    config = read_config(workdir)
    run_data, data = config.data, experiment.config.data
    for key, expected, actual in (
        ("classes", list(data.classes), list(run_data.classes)),
        ("channels", data.channels, run_data.channels),
    ):
        if expected != actual:
            raise InputError(f"workdir: {workdir} has {key} {actual}, the experiment {expected}; they must agree.")
    check_protocol(experiment.config.eval.protocol, run_data.spacing)
    warn_all([f"{workdir}: {text}" for text in units_differ(run_data.units, data.units)])
    segmenter, variables, _ = load_network(workdir, experiment.config.eval.checkpoint)
    values = (0, *data.classes.values())
    preparation = dataclasses.replace(segmenter.preparation, values=values)
    turn = UNTURNED
    if (data.directions is None) != (run_data.directions is None):
        name = "the run" if run_data.directions is None else "the experiment"
        warn_all([f"{workdir}: the orientation of {name}'s images is unknown, so both are assumed to be equal."])
    if data.directions is not None and run_data.directions is not None:
        turn, angle = orientation.nearest(np.asarray(data.directions), np.asarray(run_data.directions))
        if angle > orientation.FAR:
            warn_all(
                [
                    f"{workdir}: its images are rotated by {angle:.0f} degrees against these, which permuting axes "
                    "cannot correct."
                ]
            )
    segmenter = dataclasses.replace(segmenter, preparation=preparation, mirror=experiment.config.eval.mirror)
    return segmenter, variables, turn


def case_to_score(experiment: Experiment, entry: Entry, size: tuple[int, int], turn: Turn = UNTURNED) -> Case:
    """A case, reoriented and processed by config.eval.protocol, for a network with input images of `size`."""
    return PROTOCOLS[experiment.config.eval.protocol](turned(experiment.data.case(entry), turn), size)


def score_test(
    experiment: Experiment,
    segmenter: Segmenter,
    variables: Variables,
    turn: Turn = UNTURNED,
    largest: Largest = MappingProxyType({}),
    temperatures: Mapping[str, float] = MappingProxyType({}),
) -> tuple[dict[str, Any], list[Row]]:
    """Scores a network on the test split, over labelled voxels and the structures of `Experiment.scored`.

    Args:
      experiment: the experiment with the test split.
      segmenter: the network.
      variables: its variables.
      turn: how to reorient the experiment's volumes for the network.
      largest: the structures of which only the largest component is scored.
      temperatures: branch -> temperature of its probabilities; calibration is measured without and with it.

    Returns:
      The content of test.json (the result of `results`, "protocol" and "mirror" from config.eval, "postprocess" with
      config.eval.postprocess as "setting" and `largest` as "largest_component", and "calibration" with branch ->
      `calibration.summarise`, and in it the same as "scaled", at the branch's "temperature"), and a row per case and
      branch.

    Raises:
      InputError: the network's probabilities are not finite.
    """
    structures = experiment.scored()
    rows, units = [], set()
    sums: dict[str, list[calibration.Sums]] = {branch: [] for branch in segmenter.branches}
    scaled_sums: dict[str, list[calibration.Sums]] = {branch: [] for branch in temperatures}
    for entry in experiment.entries(experiment.split["test"]):
        case = case_to_score(experiment, entry, segmenter.preparation.size, turn)
        units.add(case.units)
        assert case.mask is not None, "every test case has a mask"
        reference, known = segmenter.preparation.reference(case.mask), case.mask != UNLABELED
        classes = {branch: np.empty(reference.shape, np.uint8) for branch in segmenter.branches}
        for slices, slab in segmenter.slabs(variables, case.image, case.spacing):
            for branch, probabilities in slab.items():
                _check_finite(probabilities, branch, case.name)
                classes[branch][slices] = probabilities.argmax(-1)
                labelled = known[slices]
                of_voxels, of_reference = probabilities[labelled], reference[slices][labelled]
                sums[branch].append(calibration.measure(of_voxels, of_reference))
                if branch in temperatures:
                    of_voxels = scaled(of_voxels, temperatures[branch])
                    scaled_sums[branch].append(calibration.measure(of_voxels, of_reference))
        for branch, predicted in _keep_largest(classes, structures, largest).items():
            scores = score(np.where(known, predicted, 0), reference, structures, case.spacing)
            rows.append({"case": case.name, "patient": case.patient, "branch": branch, "scores": scores})
    summary = results(rows, "mm" if "mm" in units else "voxel", experiment.config.eval.checkpoint)
    summary |= {key: experiment.config.eval[key] for key in ("protocol", "mirror")}
    summary["postprocess"] = {
        "setting": experiment.config.eval.postprocess,
        "largest_component": {branch: list(largest.get(branch, ())) for branch in segmenter.branches},
    }
    summary["calibration"] = {
        branch: calibration.summarise(calibration.total(slab_sums)) for branch, slab_sums in sums.items()
    }
    for branch, slab_sums in scaled_sums.items():
        scaled_summary = calibration.summarise(calibration.total(slab_sums))
        summary["calibration"][branch]["scaled"] = {"temperature": temperatures[branch], **scaled_summary}
    return summary, rows


def _check_finite(probabilities: np.ndarray, branch: str, case: str) -> None:
    if not np.isfinite(probabilities).all():
        raise InputError(
            f"config.optimizer.learning_rate: the {branch}'s probabilities for {case} are not finite, training has "
            "diverged; train again with a lower rate."
        )


def evaluate_run(config: ConfigDict, workdir: epath.Path) -> tuple[dict[str, Any], list[Row]]:
    """Scores a run on the test split of an experiment, which may differ from the run's own; returns as `score_test`.

    Raises:
      InputError: as `open_experiment`, `load_for` and `score_test`.
    """
    experiment = open_experiment(resumed(config, workdir))
    segmenter, variables, turn = load_for(experiment, workdir)
    run_config = read_config(workdir)
    run_config.eval = experiment.config.eval
    selected = selection.read(workdir, run_config)
    return score_test(experiment, segmenter, variables, turn, selected.largest_component, selected.temperature)


def evaluate_test(experiment: Experiment, workdir: epath.Path) -> dict[str, Any]:
    """Evaluates every trained branch of a finished run on the test split.

    Writes results/test.csv, calibration.png, curves.png, overlays of the worst, median and best case (by Dice of the
    student, or of the only branch) and, last of all, test.json.

    Returns:
      The content of test.json, as in `score_test`.

    Raises:
      InputError: the network's probabilities are not finite.
    """
    segmenter, variables, _ = load_network(workdir, experiment.config.eval.checkpoint)
    selected = selection.read(workdir, experiment.config)
    largest, temperatures = selected.largest_component, selected.temperature
    summary, rows = score_test(experiment, segmenter, variables, largest=largest, temperatures=temperatures)
    if jax.process_index() == 0:
        folder = workdir / "results"
        (folder / "overlays").mkdir(parents=True, exist_ok=True)
        write_csv(rows, folder / "test.csv")
        plots.save(charts.reliability(summary["calibration"]), folder / "calibration.png")
        plots.save(charts.curves(journal.read(workdir / "metrics.csv")), folder / "curves.png")
        for old in (folder / "overlays").glob("*.png"):
            old.unlink()
        entries = experiment.entries(experiment.split["test"])
        for rank, index in _ranked(rows, segmenter.branches[-1]).items():
            case = case_to_score(experiment, entries[index], segmenter.preparation.size)
            picture = _overlay(segmenter, variables, case, experiment.scored(), largest, rank)
            plots.save(picture, folder / "overlays" / f"{rank}_{volumes.shortened(case.name)}.png")
        atomic.write_text(folder / "test.json", json.dumps(summary, indent=2) + "\n")
        print(f"\n{markdown(summary)}\n\n{calibration.markdown(summary)}\n\nWritten to {folder}")
    return summary


def _ranked(rows: Sequence[Row], branch: str) -> dict[str, int]:
    """The worst, median and best case by mean Dice of a branch: rank -> index of the case."""
    dice = [np.mean([s["dice"] for s in row["scores"].values()]) for row in rows if row["branch"] == branch]
    order = np.argsort(dice, kind="stable").tolist()
    return {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}


def _keep_largest(
    classes: Mapping[str, np.ndarray], structures: Mapping[str, int], largest: Largest
) -> dict[str, np.ndarray]:
    """Branch -> classes, uint8 (slice, y, x), with only the largest component of the structures in `largest`."""
    return {
        branch: largest_components(labels, [c for name, c in structures.items() if name in largest.get(branch, ())])
        for branch, labels in classes.items()
    }


def _overlay(segmenter, variables, case: Case, structures: Mapping[str, int], largest: Largest, rank: str):
    classes, foreground = segmenter.classes_and_foreground(variables, case.image, case.spacing)
    predictions = _keep_largest(classes, structures, largest)
    reference = segmenter.preparation.reference(case.mask)
    dice = ", ".join(
        f"{branch} {np.mean([metrics.dice(p == c, reference == c) for c in structures.values()]):.3f}"
        for branch, p in predictions.items()
    )
    title = f"{rank}: {case.name}, Dice {dice}"
    return plots.overlay(case.image[..., 0], reference, predictions, foreground, title, case.spacing)
