"""Reports during training: a line in the terminal and a row of metrics.csv for each report."""

from collections.abc import Mapping, Sequence
import csv
import io
import time

from etils import epath
import jax

from msl_jax.system import atomic
from msl_jax.system.text import csv_text

DICE = "validation_dice_"
"""Prefix of the validation Dice columns of metrics.csv; a branch follows and, with several structures, a structure."""
SKIPPED = "skipped"
"""Column of metrics.csv: number of steps since the last report without a finite loss and gradient; empty for none."""
HEADER_EVERY, WIDTH = 20, 8
"""Terminal output: lines between two headers, and the minimum width of a column in characters."""


class Table:
    """The file metrics.csv: a row per report, empty where a column was not measured.

    It contains no clock times, so that equal runs write equal bytes. Only the first host writes it.

    Attributes:
      reported: the last step with losses in the table; 0 if there is none.
    """

    def __init__(self, path: epath.Path, columns: Sequence[str], keep_until: int):
        """Opens the table at `path` and drops rows after step `keep_until`, where the run resumes."""
        self.path, self.columns = path, columns
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))) if path.exists() else []
        kept = [row for row in rows if int(row["step"]) <= keep_until]
        self.reported = max((int(row["step"]) for row in kept if row["learning_rate"]), default=0)
        self.text = csv_text([columns, *([row.get(column, "") for column in columns] for row in kept)])
        self._write()

    def add(self, row: Mapping[str, float]) -> None:
        """Appends a row; the file on disk is always complete."""
        self.reported = int(row["step"]) if "learning_rate" in row else self.reported
        self.text += csv_text([[row.get(column, "") for column in self.columns]])
        self._write()

    def _write(self) -> None:
        if jax.process_index() == 0:
            atomic.write_text(self.path, self.text)


def read(path: epath.PathLike) -> list[dict[str, float | None]]:
    """The rows of a metrics.csv, None where a column was not measured; an empty list without the file."""
    path = epath.Path(path)
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))) if path.exists() else []
    return [{key: float(value) if value else None for key, value in row.items()} for row in rows]


def last_step(path: epath.PathLike) -> int:
    """The last step in a metrics.csv; 0 if there is none."""
    rows = read(path)
    return int(rows[-1]["step"] or 0) if rows else 0


class Clock:
    """Prints one line per report below a header, with speed and remaining time. Only the first host prints."""

    def __init__(self, start: int, steps: int, columns: Sequence[str]):
        """Starts to count at step `start` of `steps`; `columns` are those of metrics.csv."""
        self.steps, self.step, self.time, self.lines = steps, start, time.monotonic(), 0
        self.columns = [column for column in columns if column not in ("step", "learning_rate")]

    def print_row(self, step: int, row: Mapping[str, float]) -> None:
        """Prints a report; the speed is measured since the last line and includes validation."""
        now = time.monotonic()
        speed = (step - self.step) / (now - self.time)
        left = (self.steps - step) / speed / 60
        self.step, self.time = step, now
        progress = f"{step}/{self.steps}".rjust(len(f"{self.steps}/{self.steps}"))
        cells = {"step".rjust(len(progress)): progress, "steps/s": f"{speed:.2f}", "min left": f"{left:.1f}"}
        cells |= {_heading(column): _cell(column, row.get(column)) for column in self.columns}
        if jax.process_index() == 0:
            for line in [cells] * (self.lines % HEADER_EVERY == 0) + [cells.values()]:
                aligned = (text.rjust(max(len(heading), WIDTH)) for heading, text in zip(cells, line, strict=True))
                print("  ".join(aligned).rstrip(), flush=True)
        self.lines += 1


def _heading(column: str) -> str:
    """The heading in the terminal for a column of metrics.csv.

    >>> _heading("validation_dice_student"), _heading("validation_dice_student_LV"), _heading("kd")
    ('student Dice %', 'student LV %', 'kd')
    """
    branch, _, structure = column.removeprefix(DICE).partition("_")
    return f"{branch} {structure or 'Dice'} %" if column.startswith(DICE) else column


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" if column.startswith(DICE) else f"{value:.0f}" if column == SKIPPED else f"{value:.4f}"
