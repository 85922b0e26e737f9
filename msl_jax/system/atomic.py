"""Files written whole or not at all, whatever interrupts the writing."""

import os

from etils import epath


def write_text(path: epath.Path, text: str) -> None:
    """Writes a text file: beside, then renamed."""
    write_bytes(path, text.encode())


def write_bytes(path: epath.Path, contents: bytes) -> None:
    """Writes a file: beside, then renamed."""
    beside = path.parent / f".{path.name}.{os.getpid()}"
    try:
        beside.write_bytes(contents)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
