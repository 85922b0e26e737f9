"""Paths as users give them: `~` for the home folder, and lists with commas."""

import os
import pathlib
import re

from msl_jax.errors import InputError

PATTERN = re.compile(r"\[[^]]+\]|\\")
"""What makes a folder's name a pattern, so that Orbax does not find what it wrote below it."""


def expanded(path: str, cure: str = "write the path without ~") -> str:
    """A path with the home folder in place of its `~`; one that is there under this very name stays as it is.

    Raises:
      InputError: there is no such home folder.
    """
    full = os.path.expanduser(path)
    if full.startswith("~") and not os.path.exists(full):
        raise InputError(f"{path}: there is no home folder {path.split('/')[0]} on this system; {cure}.")
    return full


def split(text: str) -> list[str]:
    """Paths that commas separate, `~` expanded; a name with commas is one path where something of that name is there.

    >>> split("runs/a,runs/b")
    ['runs/a', 'runs/b']

    Raises:
      InputError: as `expanded`.
    """
    found: list[str] = []
    parts = text.split(",") if text else []
    while parts:
        joined = [(",".join(parts[:n]), n) for n in range(len(parts), 1, -1)]
        path, n = next(((path, n) for path, n in joined if os.path.exists(os.path.expanduser(path))), (parts[0], 1))
        found, parts = [*found, expanded(path.strip())], parts[n:]
    return found


def check_name(workdir: os.PathLike) -> None:
    """Refuses a run's folder, or one above it, whose name would make its checkpoints unreadable."""
    found = PATTERN.search(os.path.realpath(workdir))
    if found:
        raise InputError(
            f"{workdir}: has {found[0]} in its path, checkpoints cannot be read there; give another --workdir."
        )


def check_output(folder: pathlib.Path) -> None:
    """Refuses a folder that could not be written into, before work is done for what goes there."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"{there}: is a file; give a folder as --output.")
    if not os.access(there, os.W_OK):
        raise InputError(f"{there}: may not be written into; give another folder as --output.")
