"""Numbers and tables as text: CSV, and Markdown tables that also line up in a terminal."""

from collections.abc import Sequence
import csv
import io


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural unless the number is 1.

    >>> counted(1, "patient"), counted(2, "case")
    ('1 patient', '2 cases')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are.

    >>> few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def duration(seconds: float) -> str:
    """A time in the largest unit of which it has at least one.

    >>> duration(20), duration(150), duration(7200)
    ('20 s', '2.5 min', '2 h')
    """
    units = {"h": 3600, "min": 60, "s": 1}
    unit = next((unit for unit, length in units.items() if seconds >= length), "s")
    return f"{seconds / units[unit]:.2g} {unit}"


def gibibytes(size: float) -> str:
    """A number of bytes in GiB.

    >>> gibibytes(3 * 2**29)
    '1.5 GiB'
    """
    return f"{size / 2**30:.2g} GiB"


def csv_text(rows: Sequence[Sequence]) -> str:
    """Rows as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def markdown(header: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A Markdown table with every column as wide as its widest cell.

    >>> print(markdown(["branch", "Dice %"], [["teacher", 80.9], ["student", 83.0]]))
    | branch  | Dice % |
    |---------|--------|
    | teacher | 80.9   |
    | student | 83.0   |
    """
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    first, *rest = (
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in cells
    )
    return "\n".join([first, f"|{'|'.join('-' * (width + 2) for width in widths)}|", *rest])
