"""Mutated files never cause another error than InputError, wrong voxels, a crash, a hang or high memory use."""

import collections
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from kinds import KINDS, always
from msl_jax.errors import InputError
import mutants
from processes import ROOT

PEAK = 32
"""Maximum increase in resident memory for all mutants together, in MiB."""
SOMETIMES_READ = {"nifti header", "nifti header, zipped", "nifti", "mha header", "nrrd header", "hdf5"}
"""Kinds with readable mutants even among a few."""


def try_mutants(count: int, seconds: int) -> dict[str, collections.Counter]:
    """Tries the first `count` mutants of every kind in a process; kind -> number of refused and of read mutants."""
    done = subprocess.run(
        [sys.executable, pathlib.Path(mutants.__file__), "0", str(count)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # warnings of nibabel and ITK
        text=True,
        timeout=seconds,
    )
    *lines, last = done.stdout.splitlines()
    assert done.returncode == 0, f"ended by {done.returncode} at {last}"
    assert not [line for line in lines if ": wrong: " in line]
    peak = float(re.fullmatch(r"peak: (.+) MiB", last)[1])
    assert peak < PEAK
    counts = collections.defaultdict(collections.Counter)
    for line in lines:
        kind, _, what = line.rpartition(": ")
        counts[kind.rpartition(", ")[0]][what] += 1
    assert set(counts) == set(KINDS) and all(sum(of.values()) == count for of in counts.values())
    total = sum(counts.values(), collections.Counter())
    print(f"{sum(total.values())} mutants, {total['refused']} refused, {total['read']} read, {peak} MiB")
    return counts


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_fifty_mutants_of_every_kind():
    """200 of them of NIfTI."""
    counts = try_mutants(50, seconds=120)
    assert all(of["refused"] for of in counts.values()) and all(counts[kind]["read"] for kind in SOMETIMES_READ)


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_thousand_mutants_of_every_kind():
    """2,000 of them change only NIfTI headers."""
    assert all(of["refused"] and of["read"] for of in try_mutants(1000, seconds=1800).values())


def refuse(path):
    raise InputError("no file")


@pytest.mark.parametrize(
    "read, message",
    [
        (lambda path: (path / "a").read_bytes(), "raises NotADirectoryError"),
        (refuse, "is refused by 'no file'"),
        (lambda path: (np.zeros((1, 2, 2, 1)), None), "is read as float64"),
        (lambda path: (np.full((1, 2, 2, 1), np.nan, np.float32), None), "is read as float32"),
        (lambda path: (np.ones((1, 2, 2, 1), np.float32), np.ones((1, 2, 3), np.uint8)), "its labels are read as"),
        (lambda path: (np.ones((1, 2, 2, 1), np.float32), None), "is read, and is something else"),
    ],
)
def test_wrong_outcomes_are_reported(tmp_path, read, message):
    kind = mutants.Kind("a", b"", read, right=always(np.zeros((1, 2, 2))))
    assert mutants.outcome(kind, b"", tmp_path).startswith(f"wrong: {message}")


@pytest.mark.parametrize("name", KINDS)
def test_unmodified_files_are_read(tmp_path, name):
    kind = KINDS[name]
    for beside, contents in {**kind.beside, kind.name: b""}.items():
        (tmp_path / beside).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / beside).write_bytes(contents)
    assert mutants.outcome(kind, kind.sealed(kind.good), tmp_path) == "read"
