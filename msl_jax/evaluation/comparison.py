"""From the finished runs of a sweep to one comparison: means over seeds, and differences paired by patient.

Two runs segment the same patients, some of whom are easy and some hard, so methods are compared within each patient: a
patient's Dice is the mean over its cases (two frames of one heart are not two hearts), then over the seeds that both
methods have. The interval is Student's t over the patients' differences, as of scipy.stats.ttest_rel: with the 15 to
20 patients of a test split a bootstrap's intervals are too short, and t has no seed of its own. It says how far the
difference carries over to other patients, not to other seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
import csv
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
from scipy import stats

from msl_jax.errors import InputError
from msl_jax.runs import config, journal
from msl_jax.system import atomic, text

BASELINE = "lower_bound"
DIFFERENCE = ("mean", "low", "high", "better", "patients")
COLUMNS = (
    *("method", "strong", "branch", "structure", "seeds", "dice_mean", "dice_std", "hd95", "assd", "empty"),
    *(f"minus_{other}_{key}" for other in ("baseline", "teacher") for key in DIFFERENCE),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What one training of a sweep differs in from the others.

    Attributes:
      method: a name in methods.METHODS.
      strong: how many training patients give their full masks, None for all of them.
      seed: of weights, batches and the draw of the strong patients.
    """

    method: str
    strong: int | None
    seed: int

    @property
    def folder(self) -> pathlib.PurePath:
        """Where it lies below the sweep's folder, kl/strong3/seed0 or upper_bound/all/seed0."""
        return pathlib.PurePath(self.method, named(self.strong, "strong"), f"seed{self.seed}")


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a run left in its folder.

    Attributes:
      run: which one it is.
      config: config.json, with what came after it was written.
      results: results/test.json.
      cases: rows of results/test.csv, as written.
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
        own = [row for row in self.cases if row["branch"] == branch]
        return {row["case"]: float(np.mean([float(row[column]) for column in columns])) for row in own}


def read(folder: pathlib.Path, run: Run) -> Finished:
    """Reads a finished run's folder; raises InputError where its config.json cannot be read."""
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
    """How much better one is than the other, within each patient.

    Args:
      ones: seed -> patient -> Dice.
      others: the same of what it is compared with; seeds that only one of them has are left out.

    Returns:
      "mean" of the patients' differences, "low" and "high" of its 95 % interval (Student's t; None of one patient),
      the number of patients with a difference above 0 as "better", and of all as "patients". All are None where no
      seed is shared.

    Raises:
      InputError: they were tested on different patients.
    """
    seeds = ones.keys() & others.keys()
    if not seeds:
        return dict.fromkeys(DIFFERENCE)
    patients = sorted(ones[min(seeds)])
    if any(sorted(dice[seed]) != patients for dice in (ones, others) for seed in seeds):
        raise InputError("The runs of this sweep were tested on different patients; give another --workdir.")
    differences = np.array([np.mean([ones[s][patient] - others[s][patient] for s in seeds]) for patient in patients])
    mean, low, high = float(differences.mean()), None, None
    if len(patients) > 1:
        reach = float(stats.sem(differences) * stats.t.ppf(0.975, len(patients) - 1))
        low, high = mean - reach, mean + reach
    return dict(zip(DIFFERENCE, (mean, low, high, int((differences > 0).sum()), len(patients)), strict=True))


def compare(finished: Sequence[Finished]) -> list[dict[str, Any]]:
    """A row for every method, number of strong patients, branch and structure, with the keys COLUMNS.

    Dice, HD95 and ASSD are means over seeds of the runs' means over cases, `dice_std` the standard deviation over
    seeds (ddof = 1; None of one seed), `empty` a sum. "minus_baseline" is the paired difference from the lower bound
    of as many strong patients, or of the fewest for a method that takes all masks; "minus_teacher" that of a student
    from its own teacher. What does not exist is None.

    Args:
      finished: runs in any order; rows are sorted by strong patients (all last), then as the methods come.
    """
    units_of(finished)
    baselines = [f for f in finished if f.run.method == BASELINE]
    fewest = min((f.run.strong for f in baselines if f.run.strong is not None), default=None)
    methods = list(dict.fromkeys(f.run.method for f in finished))
    groups = sorted({(f.run.strong or np.inf, methods.index(f.run.method)) for f in finished})
    rows = []
    for strong, index in groups:
        group = [f for f in finished if (f.run.strong or np.inf, f.run.method) == (strong, methods[index])]
        baseline = [f for f in baselines if f.run.strong == (group[0].run.strong or fewest)]
        for branch, structures in group[0].results["branches"].items():
            rows += [_row(group, branch, structure, baseline) for structure in structures]
    return rows


def fewest_strong(finished: Sequence[Finished]) -> list[Finished]:
    """The runs of the fewest strong patients, and those that take all masks."""
    fewest = min((f.run.strong for f in finished if f.run.strong), default=None)
    return [f for f in finished if f.run.strong in (fewest, None)]


def median_case(finished: Sequence[Finished]) -> str:
    """The test case whose Dice, averaged over the runs' students (or only branches), is the median."""
    dice = [f.case_dice(list(f.results["branches"])[-1]) for f in finished]
    ranked = sorted(dice[0], key=lambda case: (np.mean([of_run[case] for of_run in dice]), case))
    return ranked[len(ranked) // 2]


def units_of(finished: Sequence[Finished]) -> str:
    """The unit of all distances, "mm" or "voxel".

    Raises:
      InputError: some runs have one and some the other.
    """
    units = {f.results["units"]: f.run.folder for f in finished}
    if len(units) > 1:
        examples = ", ".join(f"{folder} in {unit}" for unit, folder in units.items())
        raise InputError(f"The runs' distances have different units ({examples}); compare them in sweeps of their own.")
    return next(iter(units))


def named(strong: int | None, word: str = "") -> str:
    """The number of strong patients as text, behind `word`, or "all"."""
    return "all" if strong is None else f"{word}{strong}"


def markdown(rows: Sequence[Mapping[str, Any]], units: str, missing: Iterable[Run]) -> str:
    """The comparison as a table to read, Dice and its differences in percent points, and what it lacks."""
    header = ["strong", "method", "branch", "structure", "seeds", "Dice %", f"HD95 {units}", f"ASSD {units}", "empty"]
    header += [f"minus {BASELINE}", "minus teacher"]
    table = []
    for row in rows:
        spread = "" if row["dice_std"] is None else f" ± {100 * row['dice_std']:.1f}"
        cells = [named(row["strong"]), row["method"], row["branch"], row["structure"], row["seeds"]]
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
        "patients. Cases that lack the structure in prediction or reference are counted as empty and left out of the "
        "mean distances."
    )
    absent = ", ".join(str(run.folder) for run in missing)
    lines = [text.markdown(header, table), "", note]
    return "\n".join([*lines, *(["", f"Missing, not trained or failed: {absent}."] if absent else []), ""])


def write(sweep: pathlib.Path, finished: Sequence[Finished], missing: Iterable[Run]) -> str:
    """Writes table.md, table.csv, cases.csv and runs.csv of at least one finished run; returns the Markdown."""
    rows = compare(finished)
    text = markdown(rows, units_of(finished), missing)
    atomic.write_text(sweep / "table.md", text)
    _write_csv(sweep / "table.csv", [{**row, "strong": named(row["strong"])} for row in rows])
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
    row |= {f"minus_{other}_{key}": value for other, found in differences.items() for key, value in found.items()}
    return {column: row.get(column) for column in COLUMNS}


def _dice(group: Sequence[Finished], branch: str, structure: str) -> dict[int, dict[str, float]]:
    return {f.run.seed: f.patient_dice(branch, structure) for f in group}


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def difference_text(difference: Mapping[str, float | int | None]) -> str:
    """What `paired_difference` returned, in points: mean [low, high], better/patients; "-" where there is none."""
    mean, low, high, better, patients = (difference[key] for key in DIFFERENCE)
    if mean is None:
        return "-"
    interval = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * mean:+.1f}{interval}, {better}/{patients}"


def _key(finished: Finished) -> dict[str, Any]:
    run = finished.run
    return {"method": run.method, "strong": named(run.strong), "seed": run.seed}


def _run_rows(finished: Finished) -> list[dict[str, Any]]:
    """A row a branch: its test and last validation Dice, and the weights of the terms the run was trained with."""
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
