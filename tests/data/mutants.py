"""Reads files with a few random bytes changed and prints the outcomes.

A mutant can crash the process, so this runs in a separate one with limits on memory and time:

    PYTHONPATH=.:tests python tests/data/mutants.py FIRST COUNT [KIND ...]

reads mutants FIRST to FIRST + COUNT - 1 of each kind and prints one line for each. The number of a mutant is its seed.
"""

from collections.abc import Sequence
import functools
import pathlib
import re
import resource
import signal
import struct
import sys
import tempfile
import warnings
import zlib

import numpy as np

from kinds import KINDS, Kind
from msl_jax.errors import InputError

SECONDS = 10
"""Time limit for one mutant; after it the process is killed."""
NUMBERS = (0, 1, -1, 7, 127, -128, 255, 32767, -32768, 2**31 - 1, -(2**31), np.nan, np.inf, -np.inf, 0.5, 1e30, -1e-30)
BINARY = [struct.pack(order + "f", number) for number in NUMBERS for order in "<>"]
BINARY += [
    int(number).to_bytes(size, order, signed=True)
    for number in NUMBERS
    for size in (1, 2, 4)
    for order in ("little", "big")
    if number % 1 == 0 and abs(number + 0.5) < 2 ** (8 * size - 1)
]
TEXT = [b"", b" ", b"\n", b"\r\n", b"\0", b"/", b"../", b'"', b"=", b":", b"[]", b"{}", b"null", b"LOCAL", b"LIST"]
TEXT += [b"0", b"-1", b"nan", b"inf", b"1e300", b"9" * 9, b"9" * 5000, b"a" * 300, b"\xff", b"\\ud800", b"\\u0000"]
"""Values that replace bytes."""


def mutant(kind: Kind, seed: int) -> bytes:
    """The kind's contents with one to three random changes."""
    start, end = slice(*kind.part).indices(len(kind.good))[:2]
    part = kind.good[start:end]
    rng = np.random.default_rng([seed, zlib.crc32(kind.name.encode() + part)])
    for _ in range(rng.integers(1, 4)):
        part = CHANGES[rng.integers(len(CHANGES))](rng, part)
    return kind.sealed(kind.good[:start] + part + kind.good[end:])


def flip_bit(rng: np.random.Generator, part: bytes) -> bytes:
    """Flips a bit."""
    changed = bytearray(part or b"\0")
    changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
    return bytes(changed)


def overwrite(values: Sequence[bytes], rng: np.random.Generator, part: bytes) -> bytes:
    """Overwrites bytes by one of `values`, in half of the cases at a multiple of its length."""
    new = values[rng.integers(len(values))]
    start = rng.integers(len(part) + 1)
    start -= start % max(len(new), 1) * rng.integers(2)
    return part[:start] + new + part[start + len(new) :]


def replace_word(rng: np.random.Generator, part: bytes) -> bytes:
    """Replaces a word by one of TEXT."""
    words = list(re.finditer(rb"[\w.+-]+", part))
    if not words:
        return part
    word = words[rng.integers(len(words))]
    return part[: word.start()] + TEXT[rng.integers(len(TEXT))] + part[word.end() :]


def copy_range(rng: np.random.Generator, part: bytes) -> bytes:
    """Copies a range to another position; inserts it or overwrites what is there."""
    start, end = sorted(rng.integers(len(part) + 1, size=2).tolist())
    to = int(rng.integers(len(part) + 1))
    return part[:to] + part[start:end] + part[to + (end - start) * int(rng.integers(2)) :]


def remove(rng: np.random.Generator, part: bytes) -> bytes:
    """Removes a few bytes, or all from a position on."""
    start = int(rng.integers(len(part) + 1))
    return part[:start] + (part[start + int(rng.integers(1, 9)) :] if rng.integers(4) else b"")


CHANGES = (
    flip_bit,
    functools.partial(overwrite, BINARY),
    functools.partial(overwrite, BINARY),
    functools.partial(overwrite, TEXT),
    replace_word,
    copy_range,
    remove,
)


def outcome(kind: Kind, contents: bytes, folder: pathlib.Path) -> str:
    """Reads a mutant: "refused" for a valid InputError, "read" for a valid result, otherwise the failure."""
    path = folder / kind.name
    path.write_bytes(contents)
    try:
        image, mask = kind.read(path)
    except InputError as error:
        cause = str(error.__cause__ or "")
        if not all(line.startswith((str(folder), "config.data")) for line in str(error).split("\n")):
            return f"wrong: is refused by {str(error)!r}"
        out_of_memory = isinstance(error.__cause__, MemoryError) or re.search(r"alloc|memory", cause, re.IGNORECASE)
        if out_of_memory and kind.room:
            return f"wrong: needs more than {kind.room} bytes, {cause!r}"
        return "refused"
    except BaseException as error:
        return f"wrong: raises {type(error).__name__} {str(error)[:300]!r}"
    if image.dtype != np.float32 or image.ndim != 4 or not image.size or not np.isfinite(image).all():
        return f"wrong: is read as {image.dtype} {image.shape}"
    if mask is not None and (mask.dtype != np.uint8 or mask.shape != image.shape[:3]):
        return f"wrong: its labels are read as {mask.dtype} {mask.shape}"
    expected = kind.right(contents)
    if expected is not None and (
        expected.shape != image.shape or not np.allclose(image, expected, 1e-5, 1e-5 * abs(image).max())
    ):
        return "wrong: is read, and is something else"
    return "read"


def kib(name: str) -> int:
    """Memory of this process in KiB, from Linux: VmSize is the address space, VmHWM the peak resident size."""
    return int(re.search(rf"{name}:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])


def main(first: int, count: int, names: Sequence[str]) -> None:
    """Reads `count` mutants of each kind, starting at `first`."""
    warnings.simplefilter("error")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size, resident = kib("VmSize"), kib("VmHWM")
    for name in names or KINDS:
        kind = KINDS[name]
        room = 1024 * size + kind.room if kind.room else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
        with tempfile.TemporaryDirectory() as folder:
            for beside, contents in {**kind.beside, kind.name: b""}.items():
                (pathlib.Path(folder) / beside).parent.mkdir(parents=True, exist_ok=True)
                (pathlib.Path(folder) / beside).write_bytes(contents)
            for seed in range(first, first + count):
                print(f"{name}, {seed}", end=": ", flush=True)
                signal.alarm(SECONDS)
                print(outcome(kind, mutant(kind, seed), pathlib.Path(folder)), flush=True)
    signal.alarm(0)
    print(f"peak: {(kib('VmHWM') - resident) / 1024:.1f} MiB")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
