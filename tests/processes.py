"""Runs commands as a user does, in separate processes."""

import csv
import os
import pathlib
import pwd
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""XLA flags that halve the compile time."""


def start(name, *argv, folder=ROOT):
    """Starts `python -m msl_jax.NAME ...` in this folder, on a single CPU device."""
    command = [sys.executable, "-m", f"msl_jax.{name}", *map(str, argv)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        command, cwd=folder, env=os.environ | {"XLA_FLAGS": QUICK, "PYTHONPATH": str(ROOT)}, **pipes
    )


def finished(process, timeout=300):
    """Waits for a process; returns its exit code and output."""
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(name, *argv, timeout=300):
    """Runs a command that must succeed; returns its standard output."""
    done = finished(start(name, *argv), timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def table(path):
    """The rows of a CSV file as dictionaries."""
    with path.open() as file:
        return list(csv.DictReader(file))


def forget_home(patch):
    """Removes HOME and the user's passwd entry, as under `docker run --user`."""

    def no_entry(user):
        raise KeyError(user)

    patch.delenv("HOME", raising=False)
    patch.setattr(pwd, "getpwuid", no_entry)
