"""Compares the finished runs of a sweep: means over seeds, and differences paired by patient.

All runs segment the same patients, easy ones and hard ones, so methods are compared within each patient: a patient's
Dice is the mean over its cases (two frames of one heart are not independent), then over the seeds that both methods
have. The interval is Student's t over the patients' differences, as in scipy.stats.ttest_rel: with the 15 to 20
patients of a test split, bootstrap intervals are too short, and t needs no random seed. The interval covers variation
between patients, not between seeds.

The folds of a cross-validation count as one run: their cases are joined, each scored once, by the run that was not
trained on it.
"""

from collections.abc import Iterable, Mapping, Sequence
import csv
import dataclasses
import json
import math
import pathlib
from typing import Any, Literal

import numpy as np
from scipy import stats

from msl_jax.errors import InputError
from msl_jax.evaluation import metrics
from msl_jax.evaluation.results import Row, results
from msl_jax.runs import config, journal
from msl_jax.system import atomic, text

Strong = int | Literal["all"] | None
"""Number of strong patients, or "all" training patients with full masks; None for a method that always uses all."""
BASELINE = "lower_bound"
DIFFERENCE = ("mean", "low", "high", "better", "patients")
COLUMNS = (
    *("method", "strong", "branch", "structure", "seeds", "dice_mean", "dice_std", "hd95", "assd", "empty"),
    *(f"minus_{other}_{key}" for other in ("baseline", "teacher") for key in DIFFERENCE),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What identifies a run of a sweep.

    Attributes:
      method: a name in methods.METHODS.
      strong: number of training patients with full masks, or "all"; None for a method that always uses all.
      seed: seed of weights, batches and the choice of strong patients.
      fold: "I/N": fold I, counted from 0, of N of a cross-validation; None without one.
    """

    method: str
    strong: Strong
    seed: int
    fold: str | None = None

    @property
    def folder(self) -> pathlib.PurePath:
        """The run's folder below the sweep's: kl/strong3/seed0, kl/strongall/seed0/fold2 or upper_bound/all/seed0."""
        fold = [f"fold{self.fold.partition('/')[0]}"] if self.fold else []
        return pathlib.PurePath(self.method, strong_text(self.strong, "strong"), f"seed{self.seed}", *fold)

    @property
    def folds(self) -> int:
        """The number of folds; 1 without a cross-validation."""
        return int(self.fold.partition("/")[2]) if self.fold else 1


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished run, as read from its folder, or all folds of a cross-validation, joined by `pooled`.

    Attributes:
      run: its method, number of strong patients, seed and fold.
      config: config.json, with defaults for settings missing from older runs.
      results: results/test.json.
      cases: rows of results/test.csv, as text.
      reports: rows of metrics.csv, None where a column was not measured.
    """

    run: Run
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    cases: list[dict[str, str]]
    reports: list[dict[str, float | None]]

    def patient_dice(self, branch: str, structure: str) -> dict[str, float]:
        """Patient -> Dice, the mean over its cases."""
        cases: dict[str, list[float]] = {}
        for row in self.cases:
            if row["branch"] == branch:
                cases.setdefault(row["patient"], []).append(float(row[f"{structure}_dice"]))
        return {patient: float(np.mean(dice)) for patient, dice in cases.items()}

    def case_dice(self, branch: str) -> dict[str, float]:
        """Case -> Dice, the mean over structures."""
        columns = [f"{structure}_dice" for structure in self.results["branches"][branch]]
        rows = [row for row in self.cases if row["branch"] == branch]
        return {row["case"]: float(np.mean([float(row[column]) for column in columns])) for row in rows}


def read(folder: pathlib.Path, run: Run) -> Finished:
    """Reads a finished run's folder; raises InputError if its config.json cannot be read."""
    return Finished(
        run=run,
        config=config.read(folder),
        results=json.loads((folder / "results" / "test.json").read_text(encoding="utf-8")),
        cases=_rows(folder / "results" / "test.csv"),
        reports=journal.read(folder / "metrics.csv"),
    )


def paired_difference(
    ones: Mapping[int, Mapping[str, float]], others: Mapping[int, Mapping[str, float]]
) -> dict[str, float | int | None]:
    """The difference between two methods, paired by patient.

    Args:
      ones: seed -> patient -> Dice. Folds of a number of strong patients test others for each seed.
      others: the same for the other method; only seeds that both have are used.

    Returns:
      "mean" of the patients' differences (ones - others, the mean over the seeds that tested the patient), "low" and
      "high" of its 95 % interval (Student's t; None for one patient), "better", the number of patients with a
      difference above 0, and "patients", the number of all. All are None without a common seed.

    Raises:
      InputError: with one seed, they were tested on different patients.
    """
    seeds = sorted(ones.keys() & others.keys())
    if not seeds:
        return dict.fromkeys(DIFFERENCE)
    if any(ones[seed].keys() != others[seed].keys() for seed in seeds):
        raise InputError("The runs of this sweep were tested on different patients; give another workdir.")
    patients = sorted(set().union(*(ones[seed] for seed in seeds)))
    differences = np.array(
        [np.mean([ones[s][patient] - others[s][patient] for s in seeds if patient in ones[s]]) for patient in patients]
    )
    mean, low, high = float(differences.mean()), None, None
    if len(patients) > 1:
        margin = float(stats.sem(differences) * stats.t.ppf(0.975, len(patients) - 1))
        low, high = mean - margin, mean + margin
    return dict(zip(DIFFERENCE, (mean, low, high, int((differences > 0).sum()), len(patients)), strict=True))


def whole(finished: Sequence[Finished]) -> list[Finished]:
    """The runs without those of a cross-validation whose folds are not all among them."""
    return [result for group in _by_folds(finished).values() for result in group]


def pooled(finished: Sequence[Finished]) -> list[Finished]:
    """Joins the folds of each cross-validation into one result, as if one run had scored all of their cases.

    Incomplete cross-validations are left out; runs without folds stay as they are. Means and standard deviations are
    over the cases of all folds, in the order of the folds.
    """
    return [group[0] if run == group[0].run else _joined(run, group) for run, group in _by_folds(finished).items()]


def _by_folds(finished: Sequence[Finished]) -> dict[Run, list[Finished]]:
    """Run without its fold -> all of its folds; without incomplete ones."""
    groups: dict[Run, list[Finished]] = {}
    for result in finished:
        groups.setdefault(dataclasses.replace(result.run, fold=None), []).append(result)
    return {run: group for run, group in groups.items() if len(group) == group[0].run.folds}


def _joined(run: Run, folds: Sequence[Finished]) -> Finished:
    cases = [case for fold in folds for case in fold.cases]
    branches = folds[0].results["branches"]
    rows = [_scored(case, branches[case["branch"]]) for case in cases]
    return Finished(run, folds[0].config, results(rows, units_of(folds), folds[0].results["checkpoint"]), cases, [])


def _scored(case: Mapping[str, str], structures: Iterable[str]) -> Row:
    """A row of test.csv with its scores as numbers, NaN where a distance is undefined."""
    scores = {
        name: {metric: float(case[f"{name}_{metric}"] or "nan") for metric in metrics.METRICS} for name in structures
    }
    return {"case": case["case"], "patient": case["patient"], "branch": case["branch"], "scores": scores}


def compare(finished: Sequence[Finished]) -> list[dict[str, Any]]:
    """A row for every method, number of strong patients, branch and structure, with the keys COLUMNS.

    Dice, HD95 and ASSD are means over seeds of the runs' means over cases, `dice_std` the standard deviation over
    seeds (ddof = 1; None for one seed), `empty` a sum. "minus_baseline" is the paired difference from the lower bound
    with as many strong patients, or with the fewest for a method that uses all masks; "minus_teacher" that of a student
    from its own teacher. Missing values are None.

    Args:
      finished: runs in any order, folds joined by `pooled`; rows are sorted by strong patients (all last), then in the
        order of the methods.
    """
    units_of(finished)
    baselines = [f for f in finished if f.run.method == BASELINE]
    methods = list(dict.fromkeys(f.run.method for f in finished))
    groups = sorted({(_rank(f.run.strong), methods.index(f.run.method)) for f in finished})
    rows = []
    for strong, index in groups:
        group = [f for f in finished if (_rank(f.run.strong), f.run.method) == (strong, methods[index])]
        baseline = [f for f in baselines if f.run.strong == (group[0].run.strong or fewest(baselines))]
        for branch, structures in group[0].results["branches"].items():
            rows += [_row(group, branch, structure, baseline) for structure in structures]
    return rows


def fewest_strong(finished: Sequence[Finished]) -> list[Finished]:
    """The runs with the fewest strong patients, and those of methods that always use all masks."""
    return [f for f in finished if f.run.strong in (fewest(finished), None)]


def fewest(finished: Sequence[Finished]) -> Strong:
    """The smallest number of strong patients of these runs, or "all"; None if their methods always use all masks."""
    return min((f.run.strong for f in finished if f.run.strong), key=_rank, default=None)


def _rank(strong: Strong) -> float:
    return strong if isinstance(strong, int) else math.inf


def median_case(finished: Sequence[Finished]) -> str:
    """The test case with the median Dice, averaged over the runs' students (or only branches)."""
    dice = [f.case_dice(list(f.results["branches"])[-1]) for f in finished]
    ranked = sorted(dice[0], key=lambda case: (np.mean([run_dice[case] for run_dice in dice]), case))
    return ranked[len(ranked) // 2]


def units_of(finished: Sequence[Finished]) -> str:
    """The unit of all distances, "mm" or "voxel"; "" without a run.

    Raises:
      InputError: the runs have different units.
    """
    units = {f.results["units"]: f.run.folder for f in finished}
    if len(units) > 1:
        examples = ", ".join(f"{folder} in {unit}" for unit, folder in units.items())
        raise InputError(f"The runs' distances have different units ({examples}); compare them in separate sweeps.")
    return next(iter(units), "")


def strong_text(strong: Strong, prefix: str = "") -> str:
    """The number of strong patients or "all" as text, with a prefix unless the method always uses all."""
    return "all" if strong is None else f"{prefix}{strong}"


def markdown(rows: Sequence[Mapping[str, Any]], units: str, missing: Iterable[Run], folds: int = 1) -> str:
    """The comparison as a Markdown table, Dice and its differences in percentage points, and the missing runs.

    Args:
      rows: result of `compare`.
      units: of the distances.
      missing: runs that are not finished.
      folds: number of folds that each result joins.
    """
    header = ["strong", "method", "branch", "structure", "seeds", "Dice %", f"HD95 {units}", f"ASSD {units}", "empty"]
    header += [f"minus {BASELINE}", "minus teacher"]
    table = []
    for row in rows:
        spread = "" if row["dice_std"] is None else f" ± {100 * row['dice_std']:.1f}"
        cells = [strong_text(row["strong"]), row["method"], row["branch"], row["structure"], row["seeds"]]
        cells += [f"{100 * row['dice_mean']:.1f}{spread}"]
        cells += ["-" if row[key] is None else f"{row[key]:.2f}" for key in ("hd95", "assd")]
        cells += [
            row["empty"],
            *(
                difference_text({key: row[f"minus_{other}_{key}"] for key in DIFFERENCE})
                for other in ("baseline", "teacher")
            ),
        ]
        table.append(cells)
    note = (
        "Means over seeds of the means over test cases; ± is the standard deviation over seeds. Differences are of "
        "Dice in points, paired by patient over the seeds that both have: mean [95 % interval, Student's t over "
        f"patients], patients it is better in / all. `all` is compared with the {BASELINE} of the fewest strong "
        "patients. Cases without the structure in prediction or reference are counted as empty and left out of the "
        "mean distances."
    )
    if folds > 1:
        note += (
            f" Each result joins the test cases of {folds} folds, each scored once, by the run that was not trained on "
            "it; results without all folds are left out."
        )
    absent = ", ".join(str(run.folder) for run in missing)
    lines = [text.markdown(header, table), "", note]
    return "\n".join([*lines, *(["", f"Missing, not trained or failed: {absent}."] if absent else []), ""])


def write(sweep: pathlib.Path, finished: Sequence[Finished], missing: Iterable[Run]) -> str:
    """Writes table.md, table.csv, cases.csv and runs.csv for one or more finished runs; returns the Markdown."""
    rows = compare(pooled(finished))
    text = markdown(rows, units_of(finished), missing, finished[0].run.folds)
    atomic.write_text(sweep / "table.md", text)
    _write_csv(sweep / "table.csv", [{**row, "strong": strong_text(row["strong"])} for row in rows])
    _write_csv(sweep / "cases.csv", [_key(f) | case for f in finished for case in f.cases])
    _write_csv(sweep / "runs.csv", [row for f in finished for row in _run_rows(f)])
    return text


def _row(group: Sequence[Finished], branch: str, structure: str, baseline: Sequence[Finished]) -> dict[str, Any]:
    scores = [f.results["branches"][branch][structure] for f in group]
    dice = [score["dice"]["mean"] for score in scores]
    ours = _dice(group, branch, structure)
    differences: dict[str, Mapping[str, Any]] = {"baseline": {}, "teacher": {}}
    if group[0].run.method != BASELINE:
        differences["baseline"] = paired_difference(ours, _dice(baseline, "teacher", structure))
    if branch == "student":
        differences["teacher"] = paired_difference(ours, _dice(group, "teacher", structure))
    row = {
        "method": group[0].run.method,
        "strong": group[0].run.strong,
        "branch": branch,
        "structure": structure,
        "seeds": len(group),
        "dice_mean": float(np.mean(dice)),
        "dice_std": float(np.std(dice, ddof=1)) if len(dice) > 1 else None,
        "hd95": _mean(score["hd95"]["mean"] for score in scores),
        "assd": _mean(score["assd"]["mean"] for score in scores),
        "empty": sum(score["empty"] for score in scores),
    }
    row |= {f"minus_{other}_{key}": value for other, result in differences.items() for key, value in result.items()}
    return {column: row.get(column) for column in COLUMNS}


def _dice(group: Sequence[Finished], branch: str, structure: str) -> dict[int, dict[str, float]]:
    return {f.run.seed: f.patient_dice(branch, structure) for f in group}


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def difference_text(difference: Mapping[str, float | int | None]) -> str:
    """A result of `paired_difference` in points: mean [low, high], better/patients; "-" if it is None."""
    mean, low, high, better, patients = (difference[key] for key in DIFFERENCE)
    if mean is None:
        return "-"
    interval = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * mean:+.1f}{interval}, {better}/{patients}"


def _key(finished: Finished) -> dict[str, Any]:
    run = finished.run
    fold = {"fold": run.fold} if run.fold else {}
    return {"method": run.method, "strong": strong_text(run.strong), "seed": run.seed, **fold}


def _run_rows(finished: Finished) -> list[dict[str, Any]]:
    """A row per branch: its test Dice, its last validation Dice, and the weights of the run's terms."""
    last = finished.reports[-1]
    weights = {f"weight_{term}": weight for term, weight in finished.config["method"]["terms"].items()}
    rows = []
    for branch, structures in finished.results["branches"].items():
        dice = {f"{name}_test_dice": values["dice"]["mean"] for name, values in structures.items()}
        row = _key(finished) | {"branch": branch, "steps": int(last["step"] or 0)}
        rows.append(row | {"validation_dice": last[journal.DICE + branch]} | dice | weights)
    return rows


def _rows(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


def _write_csv(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = [["" if row.get(column) is None else row[column] for column in columns] for row in rows]
    atomic.write_text(path, text.csv_text([columns, *table]))
