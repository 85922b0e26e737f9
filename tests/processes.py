"""Commands as a user types them, in processes of their own."""

import csv
import os
import pathlib
import pwd
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""XLA flags that compile in half of the time."""


def start(name, *argv, folder=ROOT):
    """`python -m msl_jax.NAME ...` in this folder, running on the one device that a user's CPU is."""
    command = [sys.executable, "-m", f"msl_jax.{name}", *map(str, argv)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        command, cwd=folder, env=os.environ | {"XLA_FLAGS": QUICK, "PYTHONPATH": str(ROOT)}, **pipes
    )


def finished(process, timeout=300):
    """Its exit code and what it said, once it has ended."""
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(name, *argv, timeout=300):
    """What a command that succeeds says, within so many seconds."""
    done = finished(start(name, *argv), timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def table(path):
    """The rows of a CSV file that one wrote."""
    with path.open() as file:
        return list(csv.DictReader(file))


def forget_home(patch):
    """No HOME and no entry of the user's, as under `docker run --user`."""

    def no_entry(user):
        raise KeyError(user)

    patch.delenv("HOME", raising=False)
    patch.setattr(pwd, "getpwuid", no_entry)
