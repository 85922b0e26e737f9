"""Starting a process again with environment variables that are read at its very start. Imports nothing heavy."""

from collections.abc import Mapping
import os
import sys

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""XLA takes its buffers from malloc anew for every step, and the kernel clears each page on first touch: with pages of
4 KiB that is a quarter of a step on CPU (0.36 s against 0.27 s at width 16), with transparent huge pages next to none.
"""
UTF8 = "PYTHONUTF8"
"""Python's variable for UTF-8 in files and their names, whatever the terminal has."""


def restart_on_huge_pages() -> None:
    """Starts this process anew with huge pages, which glibc looks for at the very start; what the user set stays.

    To be called by a script before its imports, so that nothing is done twice. Does nothing where the script is run
    inside another program, as by a notebook's %run: that one's arguments are not the script's.
    """
    if sys.platform == "linux" and not HUGE_PAGES.keys() & os.environ.keys():
        _restart(HUGE_PAGES)


def restart_in_utf8() -> None:
    """Starts this process again where it takes file names for another encoding than UTF-8, as with PYTHONUTF8=0.

    What it prints stays in the terminal's own encoding.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get(UTF8) != "1":
        _restart({UTF8: "1", "PYTHONIOENCODING": os.environ.get("PYTHONIOENCODING") or sys.stdout.encoding})


def _restart(environment: Mapping[str, str]) -> None:
    """Starts this process again with these variables, unless it runs inside another program."""
    arguments = sys.argv[1:]
    if sys.orig_argv[len(sys.orig_argv) - len(arguments) :] == arguments:
        os.execve(sys.executable, sys.orig_argv, os.environ | environment)
