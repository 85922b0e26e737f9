"""SIGINT (Ctrl-C) and SIGTERM (a time limit, a machine that is taken back), and what a command says that they end."""

from collections.abc import Iterator
import contextlib
import signal
import threading
from typing import Any


class Interrupted(Exception):
    """A signal ended the work; says what is done and how to go on.

    Attributes:
      number: of the signal.
    """

    def __init__(self, message: str, number: int):
        """Carries the sentence and the signal's number."""
        super().__init__(message)
        self.number = number


@contextlib.contextmanager
def collected() -> Iterator[list[int]]:
    """Signals do nothing within but enter this list; the second one does what it would have done outside.

    In another thread than the main one, where Python lets nobody ask for signals, the list stays empty.
    """
    came: list[int] = []
    before: dict[int, Any] = {}

    def enter(number, frame):
        del frame
        came.append(number)
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.getsignal(number)
            signal.signal(number, enter)
    try:
        yield came
    finally:
        for ours, handler in before.items():
            signal.signal(ours, handler)
