"""Scores of cases and their means; writes both to files."""

from collections.abc import Mapping, Sequence
import json
from typing import Any

from etils import epath
import numpy as np

from msl_jax.errors import InputError
from msl_jax.evaluation import metrics
from msl_jax.system import atomic, text
from msl_jax.system.text import counted

Row = dict[str, Any]
"""One case and branch: "case", "patient", "branch", and in "scores" structure -> metric -> value."""


def score(prediction: np.ndarray, reference: np.ndarray, labels: Mapping[str, int], spacing: Sequence[float]) -> dict:
    """Scores a label map (slice, y, x) with the data set's own values; returns structure -> metric -> value."""
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
    """Writes a row per case and branch; undefined distances are empty."""
    structures = list(rows[0]["scores"])
    header = ["case", "patient", "branch", *(f"{name}_{metric}" for name in structures for metric in metrics.METRICS)]
    table = [header]
    for row in rows:
        values = [row["scores"][name][metric] for name in structures for metric in metrics.METRICS]
        table.append([row["case"], row["patient"], row["branch"], *("" if np.isnan(v) else v for v in values)])
    atomic.write_text(path, text.csv_text(table))


def check_json(output: epath.Path) -> None:
    """Raises InputError unless the path of the results ends in .json."""
    if output.suffix != ".json" or output.is_dir():
        raise InputError(f"--output={output}: is not a .json file; give one, the cases go into a .csv file beside it.")


def write(summary: Mapping[str, Any], rows: Sequence[Row], output: epath.Path) -> None:
    """Writes results into a JSON file, and the cases into a CSV file beside it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    write_csv(rows, output.with_suffix(".csv"))
    atomic.write_text(output, json.dumps(summary, indent=2) + "\n")


def markdown(summary: Mapping[str, Any]) -> str:
    """The results as a Markdown table: Dice in percent, distances in the results' units."""
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
        "A case without the structure in prediction or reference has no distances: it is counted as empty and left "
        "out of their mean; its Dice is 0, or 1 if both lack it."
    )
    return f"{text.markdown(header, rows)}\n\n{note}"


def _cell(values: Mapping[str, float | None], scale: float, digits: int) -> str:
    mean, std = values["mean"], values["std"]
    if mean is None or std is None:
        return "-"
    return f"{mean * scale:.{digits}f} ± {std * scale:.{digits}f}"
