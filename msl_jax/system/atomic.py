"""Atomic file writes: an interrupted write leaves no partial file."""

import os

from etils import epath


def write_text(path: epath.Path, text: str) -> None:
    """Writes a text file to a temporary name in the same folder, then renames it."""
    write_bytes(path, text.encode())


def write_bytes(path: epath.Path, contents: bytes) -> None:
    """Writes a file to a temporary name in the same folder, then renames it."""
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    try:
        temporary.write_bytes(contents)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
