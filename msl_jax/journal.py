"""What a run says while it trains: a line in the terminal and a row of metrics.csv for each report."""

from collections.abc import Mapping, Sequence
import csv
import io
import os
import time

from etils import epath
import jax

SKIPPED = "skipped"
"""Column of metrics.csv: how many steps since the last report had no finite loss and gradient; empty for none."""


class Table:
    """metrics.csv: a row a report, empty where a column was not measured; no clock times, so that equal runs write
    equal bytes. Written by the first host alone.

    Attributes:
      reported: the last step whose losses are there; 0 without one.
    """

    def __init__(self, path: epath.Path, columns: Sequence[str], keep_until: int):
        """Opens the table at `path`, dropping rows after step `keep_until`: the run goes on from there."""
        self.path, self.columns = path, columns
        rows = list(csv.DictReader(io.StringIO(path.read_text()))) if path.exists() else []
        kept = [row for row in rows if int(row["step"]) <= keep_until]
        self.reported = max((int(row["step"]) for row in kept if row["learning_rate"]), default=0)
        self.text = csv_text([columns, *([row.get(column, "") for column in columns] for row in kept)])
        self._write()

    def add(self, row: Mapping[str, float]) -> None:
        """Appends a row; the file on disk is always whole."""
        self.reported = row["step"] if "learning_rate" in row else self.reported
        self.text += csv_text([[row.get(column, "") for column in self.columns]])
        self._write()

    def _write(self) -> None:
        if jax.process_index() == 0:
            replace_text(self.path, self.text)


def read(path: epath.PathLike) -> list[dict[str, float | None]]:
    """The rows of a metrics.csv, None where a column was not measured; none where there is no file."""
    path = epath.Path(path)
    rows = csv.DictReader(io.StringIO(path.read_text())) if path.exists() else []
    return [{key: float(value) if value else None for key, value in row.items()} for row in rows]


def last_step(path: epath.PathLike) -> int:
    """The last step that a metrics.csv reports; 0 where there is none."""
    rows = read(path)
    return int(rows[-1]["step"]) if rows else 0


class Clock:
    """Prints one line a report, with speed and the time that is left."""

    def __init__(self, start: int, steps: int):
        self.steps, self.step, self.time = steps, start, time.monotonic()

    def say(self, step: int, row: Mapping[str, float]) -> None:
        """Prints where the run is; speed is that since the last line, validation included."""
        now = time.monotonic()
        speed = (step - self.step) / (now - self.time)
        left = (self.steps - step) / speed
        self.step, self.time = step, now
        values = "  ".join(f"{name.replace('validation_dice', 'val dice')} {value:.4g}" for name, value in row.items())
        if jax.process_index() == 0:
            print(f"step {step:>6}/{self.steps}  {speed:6.2f} steps/s  {left / 60:5.1f} min left  {values}", flush=True)


def replace_text(path: epath.Path, text: str) -> None:
    """Writes a text file whole or not at all: beside, then renamed."""
    replace_bytes(path, text.encode())


def replace_bytes(path: epath.Path, contents: bytes) -> None:
    """Writes a file whole or not at all: beside, then renamed."""
    beside = path.parent / f".{path.name}.{os.getpid()}"
    try:
        beside.write_bytes(contents)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def csv_text(rows: Sequence[Sequence]) -> str:
    """Rows as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
