"""From predictions to tables and pictures: Dice, HD95 and ASSD of every case, in 3-D.

A run's own test split is also measured for calibration, since there the probabilities are known.

python -m msl_jax.evaluate --predictions=FOLDER --references=FOLDER --labels=LV=3,MYO=2 --output=RESULTS.json
python -m msl_jax.evaluate --workdir=RUN --config=configs/acdc.py [--config.KEY=VALUE ...] --output=RESULTS.json
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
import dataclasses
import json
import pathlib
import re
from typing import Any

from absl import flags
from etils import epath
import jax
import numpy as np

from msl_jax import atomic, calibration, charts, command, inference, journal, metrics, plots, tables
from msl_jax.checks import Refused, parse_labels, warn_all
from msl_jax.data import orientation, volumes
from msl_jax.data.builder import Entry
from msl_jax.data.case import UNLABELED, Case, shared_unit, turned
from msl_jax.data.orientation import UNTURNED, Turn
from msl_jax.experiment import Experiment, directions_of, open_experiment, read_config
from msl_jax.protocols import PROTOCOLS
from msl_jax.tables import counted, few

FOLDERS, RUN = ("predictions", "references", "labels"), ("workdir", "config")
"""Flags that go together."""
Row = dict[str, Any]
"""One case under one branch: "case", "patient", "branch", and structure -> metric -> value in "scores"."""


def score(prediction: np.ndarray, reference: np.ndarray, labels: Mapping[str, int], spacing: Sequence[float]) -> dict:
    """Structure -> metric -> value, of label maps (slice, y, x) with the data set's own values."""
    return {
        name: metrics.case_metrics(prediction == value, reference == value, spacing) for name, value in labels.items()
    }


def results(rows: Sequence[Row], units: str, checkpoint: str | None) -> dict[str, Any]:
    """The content of a results file: mean and standard deviation over cases, by branch and structure."""
    branches = {}
    for branch in dict.fromkeys(row["branch"] for row in rows):
        scores = [row["scores"] for row in rows if row["branch"] == branch]
        branches[branch] = {name: metrics.summarise([s[name] for s in scores]) for name in scores[0]}
    return {
        "units": units,
        "checkpoint": checkpoint,
        "branches": branches,
        "cases": len({row["case"] for row in rows}),
        "patients": len({row["patient"] for row in rows}),
    }


def write_csv(rows: Sequence[Row], path: epath.Path) -> None:
    """A row per case and branch; a distance that is undefined is left empty."""
    structures = list(rows[0]["scores"])
    header = ["case", "patient", "branch", *(f"{name}_{metric}" for name in structures for metric in metrics.METRICS)]
    table = [header]
    for row in rows:
        values = [row["scores"][name][metric] for name in structures for metric in metrics.METRICS]
        table.append([row["case"], row["patient"], row["branch"], *("" if np.isnan(v) else v for v in values)])
    atomic.write_text(path, tables.csv_text(table))


def markdown(summary: Mapping[str, Any]) -> str:
    """The results as a table to read: Dice in percent, distances in the results' units."""
    units = summary["units"]
    header = ["branch", "structure", "Dice %", f"HD95 {units}", f"ASSD {units}", "empty"]
    rows = []
    for branch, structures in summary["branches"].items():
        for name, values in structures.items():
            cells = [_cell(values["dice"], 100, 1), _cell(values["hd95"], 1, 2), _cell(values["assd"], 1, 2)]
            rows.append([branch, name, *cells, values["empty"]])
    cases, patients = (counted(summary[f"{noun}s"], noun) for noun in ("case", "patient"))
    note = (
        f"{cases} of {patients}, mean ± standard deviation over cases. "
        "A case whose prediction or reference lacks the structure has no distances: it is counted as empty and left "
        "out of their mean; its Dice is 0, or 1 where both lack it."
    )
    return f"{tables.markdown(header, rows)}\n\n{note}"


def load_for(experiment: Experiment, workdir: epath.Path) -> tuple[inference.Segmenter, inference.Variables, Turn]:
    """A run's network for an experiment that may be another than the run's.

    Returns:
      The segmenter, giving the experiment's label values, its variables, and how the experiment's volumes are turned
      for it.

    Raises:
      Refused: there is no network that can be read, or it segments other structures or other images.
    """
    config = read_config(workdir)
    there, here = config.data, experiment.config.data
    for key, ours, its in (
        ("classes", list(here.classes), list(there.classes)),
        ("channels", here.channels, there.channels),
    ):
        if ours != its:
            raise Refused(f"--workdir: {workdir} has {key} {its}, the experiment {ours}; they must agree.")
    segmenter, variables, _ = inference.load(workdir, experiment.config.eval.checkpoint)
    values = (0, *here.classes.values())
    preparation = dataclasses.replace(segmenter.preparation, values=values)
    turn = UNTURNED
    if (here.directions is None) != (there.directions is None):
        who = "the run" if there.directions is None else "the experiment"
        warn_all([f"{workdir}: {who} does not know which way its images lie, so both are taken to lie alike."])
    if here.directions is not None and there.directions is not None:
        turn, angle = orientation.nearest(directions_of(experiment.config), directions_of(config))
        if angle > orientation.FAR:
            warn_all([f"{workdir}: its images lay {angle:.0f} degrees off these, which no permutation of axes mends."])
    return dataclasses.replace(segmenter, preparation=preparation), variables, turn


def case_to_score(experiment: Experiment, entry: Entry, size: tuple[int, int], turn: Turn = UNTURNED) -> Case:
    """A case, turned, as config.eval.protocol wants it, for a network that takes images of `size`."""
    return PROTOCOLS[experiment.config.eval.protocol](turned(experiment.data.case(entry), turn), size)


def score_test(
    experiment: Experiment, segmenter: inference.Segmenter, variables: inference.Variables, turn: Turn = UNTURNED
) -> tuple[dict[str, Any], list[Row]]:
    """Scores a network on the test split, over the voxels whose label is known and the structures that cases have.

    Args:
      experiment: whose test split it is.
      segmenter: the network.
      variables: of it.
      turn: of the experiment's volumes for the network.

    Returns:
      The content of test.json: that of `results`, under "protocol" that of config.eval, and under "calibration"
      branch -> `calibration.summarise`; and a row per case and branch.

    Raises:
      Refused: the network gives no finite probabilities.
    """
    structures = experiment.structures(experiment.split["test"])
    rows, sums, units = [], {branch: [] for branch in segmenter.branches}, set()
    for entry in experiment.entries(experiment.split["test"]):
        case = case_to_score(experiment, entry, segmenter.preparation.size, turn)
        units.add(case.units)
        reference, known = segmenter.preparation.reference(case.mask), case.mask != UNLABELED
        for branch, probabilities in segmenter.probabilities(variables, case.image).items():
            if not np.isfinite(probabilities).all():
                raise Refused(
                    f"config.optimizer.learning_rate: the {branch} gives no finite probabilities for {case.name}, the "
                    "training has diverged; train anew with a lower one."
                )
            prediction = np.where(known, probabilities.argmax(-1), 0)
            scores = score(prediction, reference, structures, case.spacing)
            rows.append({"case": case.name, "patient": case.patient, "branch": branch, "scores": scores})
            sums[branch].append(calibration.measure(probabilities[known], reference[known]))
    summary = results(rows, "mm" if "mm" in units else "voxel", experiment.config.eval.checkpoint)
    summary["protocol"] = experiment.config.eval.protocol
    summary["calibration"] = {
        branch: calibration.summarise(calibration.total(of_cases)) for branch, of_cases in sums.items()
    }
    return summary, rows


def evaluate_test(experiment: Experiment, workdir: epath.Path) -> dict[str, Any]:
    """Evaluates every trained branch of a finished run on the test split.

    Writes results/test.csv, calibration.png, curves.png, overlays of the worst, median and best case (by Dice of the
    student, or of the teacher where it is alone) and, once all that is there, test.json.

    Returns:
      The content of test.json, as `score_test` returns it.

    Raises:
      Refused: the network gives no finite probabilities.
    """
    segmenter, variables, _ = inference.load(workdir, experiment.config.eval.checkpoint)
    summary, rows = score_test(experiment, segmenter, variables)
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
            picture = _overlay(segmenter, variables, case, experiment.structures(experiment.split["test"]), rank)
            plots.save(picture, folder / "overlays" / f"{rank}_{volumes.shortened(case.name)}.png")
        atomic.write_text(folder / "test.json", json.dumps(summary, indent=2) + "\n")
        print(f"\n{markdown(summary)}\n\n{calibration.markdown(summary['calibration'])}\n\nWritten to {folder}")
    return summary


def evaluate_folders(
    predictions: pathlib.Path,
    references: pathlib.Path,
    labels: Mapping[str, int],
    suffix: str = "",
    unlabeled: int | None = None,
) -> tuple[dict[str, Any], list[Row]]:
    """Scores every prediction against the reference of the same name + `suffix`, wherever below the folders they lie.

    References without a prediction, or that leave every voxel open, are left out, with a warning that names them, and
    so are probabilities beside the label map they are of. A patient is what a name says before its frame
    (patient001_frame01 is one of patient001); a name without a frame is a patient of its own.

    Args:
      predictions: folder of label maps.
      references: folder of label maps.
      labels: name -> value of every structure to score.
      suffix: of the references' names.
      unlabeled: value of voxels that a reference leaves open, which are not scored; None for UNLABELED, unless a
        structure has it.

    Raises:
      Refused: a folder is missing or empty, a prediction has no reference or two, or they lie on different grids.
    """
    if unlabeled is None:
        unlabeled = None if UNLABELED in labels.values() else UNLABELED
    elif unlabeled in labels.values():
        raise Refused(
            f"--labels: {unlabeled} is a structure and the value of voxels that references leave open; give another "
            "value as --unlabeled."
        )
    found = {}
    for path in _files(references):
        found.setdefault(volumes.stem(path), []).append(path)
    given: dict[str, pathlib.Path] = {}
    for path in _files(predictions):
        name = volumes.stem(path)
        if name in given:
            raise Refused(f"{path}: is the second prediction named {name} below {predictions}; one is needed.")
        given[name] = path
    rows, measured, unknown, present, predicted = [], [], [], set(), set()
    for name, path in given.items():
        if name.endswith("_prob") and name.removesuffix("_prob") in given:
            continue
        matches = found.get(name + suffix, [])
        if len(matches) != 1:
            raise Refused(
                f"{path}: has {len(matches)} references named {name}{suffix} below {references}; one is needed."
            )
        prediction = volumes.read_labels(path)
        reference = volumes.labels_on_grid_of(prediction, volumes.read_labels(matches[0]))
        known = reference.voxels != unlabeled
        if not known.any():
            unknown.append(name + suffix)
            continue
        predicted.update(np.unique(prediction.voxels[known]).tolist())
        measured.append(dataclasses.replace(reference, voxels=None))
        present.update(np.unique(reference.voxels).tolist())
        scores = score(
            np.where(known, prediction.voxels, 0), np.where(known, reference.voxels, 0), labels, reference.spacing
        )
        patient = re.sub(r"_frame\d+$", "", name)
        rows.append({"case": name, "patient": patient, "branch": "prediction", "scores": scores})
    for structure, value in labels.items():
        if value not in present:
            raise Refused(
                f"--labels: no reference below {references} has the value {value} of {structure}; correct it."
            )
    others = present - {0, unlabeled, *labels.values()}
    warn_all(_unscored(set(found).difference(unknown), rows, suffix))
    warn_all(_left_out(unknown, others, predicted - others - {0, *labels.values()}))
    return results(rows, shared_unit(measured), None), rows


def _unscored(references: Collection[str], rows: Sequence[Row], suffix: str) -> Iterator[str]:
    """Of the references without a prediction, a sentence."""
    scored = {row["case"] + suffix for row in rows}
    missing = sorted(name for name in references if name.endswith(suffix) and name not in scored)
    if missing:
        yield (
            f"{counted(len(missing), 'reference')} without a prediction, which the means leave out: "
            f"{few(missing)}; predict these, too, to score them."
        )


def _left_out(unknown: Sequence[str], in_references: Collection[int], in_predictions: Collection[int]) -> Iterator[str]:
    """Of references that leave every voxel open, and of values that are not given, a sentence each."""
    if unknown:
        yield (
            f"{counted(len(unknown), 'reference')} with every voxel open, which the means leave out: {few(unknown)}; "
            "label these to score them."
        )
    if in_references:
        yield (
            f"The references also hold the values {sorted(in_references)}, which count as background; give them by "
            "--labels, or the one of open voxels by --unlabeled."
        )
    if in_predictions:
        yield (
            f"The predictions hold the values {sorted(in_predictions)}, which count as background; if they are "
            "structures, give them the references' values."
        )


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        raise Refused(f"{folder}: no such folder; give one that holds label maps.")
    files = volumes.find_all(folder)
    if not files:
        raise Refused(f"{folder}: holds no volumes; give a folder of files that end in {', '.join(volumes.ENDINGS)}.")
    return files


def _ranked(rows: Sequence[Row], branch: str) -> dict[str, int]:
    """Which case is the worst, the median and the best by mean Dice of a branch: rank -> index of the case."""
    dice = [np.mean([s["dice"] for s in row["scores"].values()]) for row in rows if row["branch"] == branch]
    order = np.argsort(dice, kind="stable").tolist()
    return {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}


def _overlay(segmenter, variables, case: Case, structures: Mapping[str, int], rank: str):
    probabilities = segmenter.probabilities(variables, case.image)
    predictions = {branch: p.argmax(-1) for branch, p in probabilities.items()}
    foreground = 1 - probabilities[segmenter.branches[-1]][..., 0]
    reference = segmenter.preparation.reference(case.mask)
    dice = ", ".join(
        f"{branch} {np.mean([metrics.dice(p == c, reference == c) for c in structures.values()]):.3f}"
        for branch, p in predictions.items()
    )
    title = f"{rank}: {case.name}, Dice {dice}"
    return plots.overlay(case.image[..., 0], reference, predictions, foreground, title, case.spacing)


def _cell(values: Mapping[str, float | None], scale: float, digits: int) -> str:
    if values["mean"] is None:
        return "-"
    return f"{values['mean'] * scale:.{digits}f} ± {values['std'] * scale:.{digits}f}"


def main(_) -> None:
    """Compares two folders, or scores a run on the test split of an experiment."""
    output = epath.Path(OUTPUT.value)
    if output.suffix != ".json" or output.is_dir():
        raise Refused(
            f"--output={output}: is no file that ends in .json; give one, the table of cases goes beside it as .csv."
        )
    given = {name for name in (*FOLDERS, *RUN) if flags.FLAGS[name].value is not None}
    if given == set(FOLDERS):
        folders = [pathlib.Path(flag.value) for flag in (PREDICTIONS, REFERENCES)]
        labels = parse_labels(LABELS.value, "--labels")
        summary, rows = evaluate_folders(*folders, labels, SUFFIX.value, OPEN.value)
    elif given == set(RUN):
        opened = open_experiment(CONFIG.value)
        network = load_for(opened, epath.Path(WORKDIR.value))
        summary, rows = score_test(opened, *network)
    else:
        wanted = RUN if given and given <= set(RUN) else FOLDERS
        missing = [name for name in wanted if name not in given]
        wrong = f"--{', --'.join(missing)}: missing" if missing else f"--{', --'.join(sorted(given))}: too many"
        raise Refused(f"{wrong}; give --{', --'.join(FOLDERS)}, or else --{' and --'.join(RUN)}.")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_csv(rows, output.with_suffix(".csv"))
    atomic.write_text(output, json.dumps(summary, indent=2) + "\n")
    print(markdown(summary))


if __name__ == "__main__":
    PREDICTIONS = command.define_path("predictions", None, "Folder of predicted label maps, searched through.")
    REFERENCES = command.define_path(
        "references", None, "Folder of reference label maps, searched through; files pair by name."
    )
    LABELS = flags.DEFINE_string("labels", None, "Structures to score and their values in the files: LV=3,MYO=2.")
    OUTPUT = command.define_path("output", None, "JSON file for the results; a CSV of the cases goes beside it.")
    SUFFIX = flags.DEFINE_string("reference_suffix", "", "What a reference's name has behind its prediction's: _gt.")
    OPEN = flags.DEFINE_integer(
        "unlabeled",
        None,
        "The value of voxels that references leave open, which are not scored; 255, unless a structure has it.",
        lower_bound=0,
        upper_bound=255,
    )
    WORKDIR = command.define_path(
        "workdir", None, "Folder of a run to score with --config, in place of --predictions, --references and --labels."
    )
    CONFIG = command.define_config("The experiment whose test split the run is scored on")
    flags.mark_flag_as_required("output")
    command.run(main)
