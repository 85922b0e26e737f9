"""What bad or odd input ends in: one sentence a fault. This module imports nothing of ours."""

from collections.abc import Iterable, Sequence
import warnings


class InputError(ValueError):
    """Bad input, in one sentence: which file or setting, what is wrong, what to do. Several faults have a line each.

    The commands print it and exit with a code other than 0, without a traceback.
    """


class OddInput(UserWarning):
    """Input that works and may be a mistake, said in one sentence; the commands print it on standard error."""


def warn_all(remarks: Iterable[str]) -> None:
    """Warns of each, once."""
    for remark in remarks:
        warnings.warn(remark, OddInput, stacklevel=1)  # of one line, so that Python says each sentence once


def raise_all(problems: Sequence[str]) -> None:
    """Raises InputError with these sentences, a line each, unless there are none."""
    if problems:
        raise InputError("\n".join(problems))
