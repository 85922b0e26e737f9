"""Restarts the process with environment variables that are only read at startup. Imports nothing heavy."""

from collections.abc import Mapping
import os
import sys

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""XLA allocates its buffers with malloc in every step, and the kernel clears each page on first use. With 4 KiB pages
that takes a quarter of a step on CPU (0.36 s against 0.27 s at width 16), with transparent huge pages almost nothing.
"""
UTF8 = "PYTHONUTF8"
"""Python's variable for UTF-8 in files and file names, independent of the terminal."""


def restart_on_huge_pages() -> None:
    """Restarts this process with huge pages, a setting that glibc reads at startup. The user's setting wins.

    Call it at the top of a script, before its imports, to avoid importing twice. Does nothing if the script runs inside
    another program, as with a notebook's %run.
    """
    if sys.platform == "linux" and not HUGE_PAGES.keys() & os.environ.keys():
        _restart(HUGE_PAGES)


def restart_in_utf8() -> None:
    """Restarts this process in UTF-8 mode if its file names have another encoding, as with PYTHONUTF8=0.

    Printed text keeps the terminal's encoding.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get(UTF8) != "1":
        _restart({UTF8: "1", "PYTHONIOENCODING": os.environ.get("PYTHONIOENCODING") or sys.stdout.encoding})


def _restart(environment: Mapping[str, str]) -> None:
    """Restarts this process with these variables, unless the script runs inside another program."""
    arguments = sys.argv[1:]
    if sys.orig_argv[len(sys.orig_argv) - len(arguments) :] == arguments:
        os.execve(sys.executable, sys.orig_argv, os.environ | environment)
