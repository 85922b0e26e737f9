"""Paths from users: `~` for the home folder, and comma-separated lists."""

import os
import pathlib
import re

from msl_jax.errors import InputError

PATTERN = re.compile(r"\[[^]]+\]|\\")
"""Characters that Orbax takes for a glob pattern: it cannot find checkpoints below a folder with such a name."""


def expanded(path: str, cure: str = "write the path without ~") -> str:
    """Expands `~` to the home folder, unless a file or folder literally has this name.

    Raises:
      InputError: there is no such home folder.
    """
    full = os.path.expanduser(path)
    if full.startswith("~") and not os.path.exists(full):
        raise InputError(f"{path}: there is no home folder {path.split('/')[0]} on this system; {cure}.")
    return full


def split(text: str) -> list[str]:
    """Splits comma-separated paths and expands `~`; an existing path that contains commas stays whole.

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
    """Raises InputError if the path of a run's folder would make its checkpoints unreadable."""
    found = PATTERN.search(os.path.realpath(workdir))
    if found:
        raise InputError(f"{workdir}: contains {found[0]}, so checkpoints cannot be read there; give another workdir.")


def check_output(folder: pathlib.Path) -> None:
    """Raises InputError if an output folder, which may not exist yet, is not writable."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"{existing}: is a file; give a folder as --output.")
    if not os.access(existing, os.W_OK):
        raise InputError(f"{existing}: is not writable; give another folder as --output.")
