"""A report of one or more runs as one self-contained HTML file."""

import base64
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import html
import json
import os
import pathlib
import string

from etils import epath

from msl_jax.data.case import ROLES
from msl_jax.errors import InputError
from msl_jax.evaluation import calibration, comparison
from msl_jax.evaluation.comparison import Finished
from msl_jax.evaluation.metrics import METRICS
from msl_jax.pictures import charts, plots
from msl_jax.runs.config import flat
from msl_jax.runs.config import read as read_run
from msl_jax.system import atomic

TEMPLATE = string.Template((pathlib.Path(__file__).parent / "html_report.html").read_text(encoding="utf-8"))
RANKS = {"worst": "The worst case", "median": "The median case", "best": "The best case"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A table cell: shows `text`, sorts by `value`, with a bar over a `share` of the cell's width."""

    text: str
    value: float | str | None = None
    share: float | None = None

    def __str__(self) -> str:
        """The cell in HTML."""
        number = isinstance(self.value, float)
        kinds = ["number"] * number + ["bar"] * (self.share is not None)
        bar = "" if self.share is None else f' style="--share: {self.share:.1%}"'
        value = html.escape(str(self.text if self.value is None else self.value))
        return f'<td class="{" ".join(kinds)}"{bar} data-value="{value}">{html.escape(self.text)}</td>'


def page(runs: Mapping[str, Finished], folders: Sequence[pathlib.Path]) -> str:
    """The whole HTML file.

    Args:
      runs: name -> finished run.
      folders: the runs' folders, in the same order.
    """
    names = list(runs)
    title = f"msl_jax: {', '.join(names)}"
    parts = [f"<h1>{html.escape(title)}</h1>", _overview(runs)]
    if len(runs) > 1:
        parts += ["<h2>Settings that differ</h2>", _differences(runs)]
    for (name, run), folder in zip(runs.items(), folders, strict=True):
        parts += [f"<h2>{html.escape(name)}</h2>", *_sections(run, folder)]
    return TEMPLATE.substitute(title=html.escape(title), body="\n".join(parts))


def _overview(runs: Mapping[str, Finished]) -> str:
    """Every run, branch and structure, with the paired difference from the first run's same branch, or its last one."""
    first_name, first = next(iter(runs.items()))
    header = ["run", "method", "branch", "structure", "Dice %", "HD95", "ASSD", "unit", "empty", f"minus {first_name}"]
    rows = []
    for name, run in runs.items():
        for branch, structures in run.results["branches"].items():
            for structure, values in structures.items():
                dice = values["dice"]["mean"]
                rows.append(
                    [
                        Cell(name),
                        Cell(run.config["method"]["name"]),
                        Cell(branch),
                        Cell(structure),
                        Cell(f"{100 * dice:.1f} ± {100 * values['dice']['std']:.1f}", dice, dice),
                        *(_distance(values[metric]["mean"]) for metric in METRICS[1:]),
                        Cell(run.results["units"]),
                        Cell(str(values["empty"]), float(values["empty"])),
                        Cell("-") if run is first else _difference(run, first, branch, structure),
                    ]
                )
    if len(runs) == 1:
        header, rows = header[:-1], [row[:-1] for row in rows]
    note = (
        "Means over the test cases, ± standard deviation. A case without the structure in prediction or reference "
        "counts as empty and has no distances; its Dice is 0, or 1 if both lack it."
    )
    if len(runs) > 1:
        note += " Differences are Dice in points, paired by patient: mean [95 % interval], patients better in / all."
    return _table(header, rows) + f"<p>{note}</p>"


def _difference(run: Finished, first: Finished, branch: str, structure: str) -> Cell:
    branches = first.results["branches"]
    other = branch if branch in branches else list(branches)[-1]
    if structure not in branches[other]:
        return Cell("-")
    ours, theirs = run.patient_dice(branch, structure), first.patient_dice(other, structure)
    if ours.keys() != theirs.keys():
        return Cell("other patients")
    difference = comparison.paired_difference({0: ours}, {0: theirs})
    return Cell(comparison.difference_text(difference), difference["mean"])


def _differences(runs: Mapping[str, Finished]) -> str:
    """The settings that differ between runs."""
    configs = [flat(run.config) for run in runs.values()]
    keys = sorted({key for config in configs for key in config})
    rows = [
        [Cell(key), *(Cell(value) for value in values)]
        for key, values in ((key, [config.get(key, "-") for config in configs]) for key in keys)
        if len(set(values)) > 1
    ]
    return _table(["setting", *runs], rows)


def _sections(run: Finished, folder: pathlib.Path) -> Iterable[str]:
    config, results = run.config, run.results
    splits = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    patients = ", ".join(f"{len(splits[role])} {role}" for role in ROLES)
    yield (
        f"<p>Method <b>{html.escape(config['method']['name'])}</b>; patients: {patients}; "
        f"{run.reports[-1]['step']:.0f} steps, the {html.escape(results['checkpoint'])} checkpoint.</p>"
    )
    yield _picture(plots.png(charts.curves(run.reports)), "Loss and its terms, and the Dice of the validation cases.")
    if "calibration" in results:
        yield _picture(
            plots.png(charts.reliability(results["calibration"])),
            "Accuracy against confidence of each branch on the test cases.",
        )
        rows = [list(map(Cell, row)) for row in calibration.table(results)]
        yield _table(calibration.HEADER, rows) + f"<p>{html.escape(calibration.NOTE)}</p>"
    for rank, caption in RANKS.items():
        for path in sorted((folder / "results" / "overlays").glob(f"{rank}_*.png")):
            yield _picture(path.read_bytes(), f"{caption} of the test: {path.stem.removeprefix(rank + '_')}.")
    yield f"<details open><summary>Cases ({results['cases']})</summary>{_cases(run)}</details>"
    roles = [[Cell(role), Cell(", ".join(patients))] for role, patients in splits.items() if isinstance(patients, list)]
    yield f"<details><summary>Patients by role</summary>{_table(['role', 'patients'], roles)}</details>"
    settings = [[Cell(key), Cell(value)] for key, value in flat(config).items()]
    yield f"<details><summary>Settings</summary>{_table(['setting', 'value'], settings)}</details>"


def _cases(run: Finished) -> str:
    """Every case and branch, sorted by increasing Dice."""
    columns = [key for key in run.cases[0] if key not in ("case", "patient", "branch")]
    ordered = sorted(run.cases, key=lambda row: sum(float(row[c]) for c in columns if c.endswith("_dice")))
    rows = [
        [
            *(Cell(row[key]) for key in ("case", "patient", "branch")),
            *(_dice(row[c]) if c.endswith("_dice") else _distance(float(row[c]) if row[c] else None) for c in columns),
        ]
        for row in ordered
    ]
    return _table(["case", "patient", "branch", *(column.replace("_", " ") for column in columns)], rows)


def _dice(text: str) -> Cell:
    return Cell(f"{100 * float(text):.1f}", float(text), float(text))


def _distance(value: float | None) -> Cell:
    return Cell("-") if value is None else Cell(f"{value:.2f}", value)


def _table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "\n".join(f"<tr>{''.join(map(str, row))}</tr>" for row in rows)
    return f'<div class="wide"><table class="sorts"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _picture(png: bytes, caption: str) -> str:
    data, text = base64.b64encode(png).decode(), html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def read(workdir: pathlib.Path) -> Finished:
    """Reads an evaluated run from its folder.

    Raises:
      InputError: the folder contains no run, or the run has not been evaluated.
    """
    config = read_run(workdir)
    results = workdir / "results" / "test.json"
    if not results.exists():
        raise InputError(f"{results}: is missing; rerun the training command to finish the run.")
    strong = None if config["data"]["strong"] == "all" else config["data"]["strong"]
    return comparison.read(workdir, comparison.Run(config["method"]["name"], strong, config["seed"]))


def write(workdirs: Sequence[pathlib.Path], output: epath.Path) -> None:
    """Writes the report of these runs; their names are their folders relative to the common parent folder.

    Raises:
      InputError: as `read`, or a folder is given twice.
    """
    folders = [folder.resolve() for folder in workdirs]
    if len(set(folders)) < len(folders):
        raise InputError("--workdir: a folder is given twice; give each once.")
    parent = os.path.commonpath([folder.parent for folder in folders])
    runs = {folder.relative_to(parent).as_posix(): read(folder) for folder in folders}
    text = page(runs, folders)
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(output, text)
    print(f"{output}: {len(text) / 1e6:.1f} MB")
