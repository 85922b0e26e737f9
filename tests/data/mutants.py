"""Files with a few bytes changed, each drawn from a seed, and what reading them comes to.

It runs in a process of its own, of which memory and time are limited, since a mutant may end it:

    PYTHONPATH=.:tests python tests/data/mutants.py FIRST COUNT [KIND ...]

tries the mutants FIRST to FIRST + COUNT - 1 of each kind and prints a line of each.
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
"""After so many for one mutant the process is killed: it hangs."""
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
"""What bytes are overwritten with."""


def mutant(kind: Kind, seed: int) -> bytes:
    """The kind's contents with one to three things changed."""
    start, end = slice(*kind.part).indices(len(kind.good))[:2]
    part = kind.good[start:end]
    rng = np.random.default_rng([seed, zlib.crc32(kind.name.encode() + part)])
    for _ in range(rng.integers(1, 4)):
        part = CHANGES[rng.integers(len(CHANGES))](rng, part)
    return kind.sealed(kind.good[:start] + part + kind.good[end:])


def flipped(rng: np.random.Generator, part: bytes) -> bytes:
    """A bit."""
    changed = bytearray(part or b"\0")
    changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
    return bytes(changed)


def overwritten(values: Sequence[bytes], rng: np.random.Generator, part: bytes) -> bytes:
    """By one of these, at a multiple of its length as often as not."""
    new = values[rng.integers(len(values))]
    start = rng.integers(len(part) + 1)
    start -= start % max(len(new), 1) * rng.integers(2)
    return part[:start] + new + part[start + len(new) :]


def replaced(rng: np.random.Generator, part: bytes) -> bytes:
    """A word, by a text."""
    words = list(re.finditer(rb"[\w.+-]+", part))
    if not words:
        return part
    word = words[rng.integers(len(words))]
    return part[: word.start()] + TEXT[rng.integers(len(TEXT))] + part[word.end() :]


def moved(rng: np.random.Generator, part: bytes) -> bytes:
    """A piece, which is copied to another place; of no length it is cut there."""
    start, end = sorted(rng.integers(len(part) + 1, size=2).tolist())
    to = int(rng.integers(len(part) + 1))
    return part[:to] + part[start:end] + part[to + (end - start) * int(rng.integers(2)) :]


def removed(rng: np.random.Generator, part: bytes) -> bytes:
    """A few bytes, or all from there on."""
    start = int(rng.integers(len(part) + 1))
    return part[:start] + (part[start + int(rng.integers(1, 9)) :] if rng.integers(4) else b"")


CHANGES = (
    flipped,
    functools.partial(overwritten, BINARY),
    functools.partial(overwritten, BINARY),
    functools.partial(overwritten, TEXT),
    replaced,
    moved,
    removed,
)


def outcome(kind: Kind, contents: bytes, folder: pathlib.Path) -> str:
    """ "refused" or "read", or else what is wrong."""
    path = folder / kind.name
    path.write_bytes(contents)
    try:
        image, mask = kind.read(path)
    except InputError as refused:
        cause = str(refused.__cause__ or "")
        if not all(line.startswith((str(folder), "config.data")) for line in str(refused).split("\n")):
            return f"wrong: is refused by {str(refused)!r}"
        unmet = isinstance(refused.__cause__, MemoryError) or re.search(r"alloc|memory", cause, re.IGNORECASE)
        if unmet and kind.room:
            return f"wrong: wants more than {kind.room} bytes, {cause!r}"
        return "refused"
    except BaseException as error:
        return f"wrong: raises {type(error).__name__} {str(error)[:300]!r}"
    if image.dtype != np.float32 or image.ndim != 4 or not image.size or not np.isfinite(image).all():
        return f"wrong: is read as {image.dtype} {image.shape}"
    if mask is not None and (mask.dtype != np.uint8 or mask.shape != image.shape[:3]):
        return f"wrong: its labels are read as {mask.dtype} {mask.shape}"
    right = kind.right(contents)
    if right is not None and (
        right.shape != image.shape or not np.allclose(image, right, 1e-5, 1e-5 * abs(image).max())
    ):
        return "wrong: is read, and is something else"
    return "read"


def kib(name: str) -> int:
    """What Linux counts of this process's memory: VmSize is address space, VmHWM the most that was resident."""
    return int(re.search(rf"{name}:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])


def main(first: int, count: int, names: Sequence[str]) -> None:
    """Tries mutants of each kind."""
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
