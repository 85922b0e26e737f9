"""Handling of SIGINT (Ctrl-C) and SIGTERM (time limit, preemption)."""

from collections.abc import Iterator
import contextlib
import signal
import threading
from typing import Any


class Interrupted(Exception):
    """A signal stopped the work; the message says what is done and how to resume.

    Attributes:
      number: the signal's number.
    """

    def __init__(self, message: str, number: int):
        """Stores the message and the signal's number."""
        super().__init__(message)
        self.number = number


@contextlib.contextmanager
def collected() -> Iterator[list[int]]:
    """Records signals in the yielded list instead of acting on them; a second signal of a kind acts as usual.

    Outside the main thread, where Python cannot install handlers, the list stays empty.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def record(number, frame):
        del frame
        received.append(number)
        signal.signal(number, previous[number])

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.getsignal(number)
            signal.signal(number, record)
    try:
        yield received
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
