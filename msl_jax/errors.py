"""Errors and warnings about user input, one sentence each. This module imports nothing from the package."""

from collections.abc import Iterable, Sequence
import warnings


class InputError(ValueError):
    """Invalid input, in one sentence: the file or setting, the problem, the fix. Several problems have one line each.

    The commands print it without a traceback and exit with a code other than 0.
    """


class OddInput(UserWarning):
    """Valid input that may be a mistake, in one sentence; the commands print it on standard error."""


def warn_all(remarks: Iterable[str]) -> None:
    """Issues one OddInput warning per remark."""
    for remark in remarks:
        warnings.warn(remark, OddInput, stacklevel=1)  # from the same line, so Python shows equal warnings only once


def raise_all(problems: Sequence[str]) -> None:
    """Raises InputError with one problem per line, if there are any."""
    if problems:
        raise InputError("\n".join(problems))
