"""One run on one device, on several, and on two processes as Slurm starts them: the same parameters and results."""

import csv
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time

from etils import epath
import jax
import numpy as np
import pytest

from msl_jax.inference.segmenter import load_network
from msl_jax.models.initial import init_variables
from processes import QUICK, ROOT

PLACES = {"one": (1, 1), "four": (1, 4), "eight": (1, 8), "two_by_two": (2, 2)}
"""Name -> processes, devices of each."""
OTHERS = pytest.mark.parametrize(
    "place", ["two_by_two", *(pytest.param(place, marks=pytest.mark.soak) for place in ("four", "eight"))]
)
RATE = 1e-3
"""About the size of an Adam step. Devices sum a batch in different orders; rounding can switch a ReLU or a max pooling,
which changes a gradient, and Adam amplifies small gradients. So losses agree to rounding in the first steps, and
parameters to one step after ten.
"""


@pytest.fixture(scope="module")
def settings(tiny_flags):
    """Flags of a run of seconds with a batch for eight devices."""
    values = {
        "train.strong_batch": 8,
        "train.weak_batch": 8,
        "optimizer.learning_rate": RATE,
        "train.report_every": 1,
        "train.checkpoint_every": 5,
    }
    return [
        "--config=configs/phantom.py:method=kl_ent,strong=2,seed=1",
        *tiny_flags,
        *(f"--config.{key}={value}" for key, value in values.items()),
    ]


@pytest.fixture(scope="module")
def start(settings):
    """start(workdir, processes, devices, steps) -> the running processes; all are ended after the tests."""
    started = []

    def go(workdir, processes, devices, steps):
        argv = [*settings, f"--config.train.steps={steps}", f"--config.train.validate_every={steps}"]
        argv += [f"--workdir={workdir}", *(["--distributed"] if processes > 1 else [])]
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {QUICK}",
            "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            "JAX_COORDINATOR_PORT": str(free_port()),
        }
        group = []
        for index in range(processes):
            with log(workdir, index).open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", "msl_jax.main", *argv],
                    cwd=ROOT,
                    env=environment | (slurm(index, processes) if processes > 1 else {}),
                    stdout=subprocess.DEVNULL,
                    stderr=file,
                )
            group.append(process)
            started.append(process)
        return group

    try:
        yield go
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait(timeout=60)


def slurm(index, processes):
    """The Slurm variables of task `index` of a step on this machine, which jax.distributed reads."""
    names = {"JOB_ID": 1, "STEP_NODELIST": "127.0.0.1", "NTASKS": processes, "PROCID": index, "LOCALID": index}
    return {f"SLURM_{name}": str(value) for name, value in names.items()}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def log(workdir, index):
    return workdir.with_name(f"{workdir.name}_{index}.err")


def finish(workdir, group, seconds=300):
    end = time.monotonic() + seconds
    for index, process in enumerate(group):
        assert process.wait(timeout=end - time.monotonic()) == 0, log(workdir, index).read_text()


def steps(workdir):
    path = workdir / "metrics.csv"
    return [int(line.split(",")[0]) for line in path.read_text().splitlines()[1:]] if path.exists() else []


@pytest.fixture(scope="module")
def runs(tmp_path_factory, start):
    """of(place) -> the folder of a finished run of 10 steps."""
    parent = tmp_path_factory.mktemp("runs")

    @functools.cache
    def of(place):
        finish(parent / place, start(parent / place, *PLACES[place], steps=10))
        return parent / place

    return of


def losses(workdir):
    """The loss and its terms, a row per step."""
    with (workdir / "metrics.csv").open() as file:
        return np.array(
            [[float(row[name]) for name in ("loss", "s", "w", "kd", "ent")] for row in csv.DictReader(file)]
        )


def leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def results(workdir):
    """The content of test.json without the reliability curves: rounding may move voxels between their bins."""
    content = json.loads((workdir / "results" / "test.json").read_text())
    for branch in content["calibration"].values():
        del branch["reliability"]
    return content


@OTHERS
def test_the_losses_are_those_of_one_device(runs, place):
    expected, found = losses(runs("one")), losses(runs(place))
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-2)


@OTHERS
def test_the_parameters_are_those_of_one_device(runs, place):
    expected, found = (load_network(epath.Path(runs(name))) for name in ("one", place))
    assert expected[2] == found[2] == 10
    segmenter, variables, _ = expected
    start = init_variables(segmenter.model, segmenter.preparation.size, segmenter.branches, seed=1)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start["params"], variables["params"])
    assert min(jax.tree.leaves(moved)) > 3 * RATE
    expected, found = leaves(variables), leaves(found[1])
    assert expected.keys() == found.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, rtol=1e-3, atol=RATE, err_msg=path)


@OTHERS
def test_the_results_are_those_of_one_device(runs, place):
    expected, found = (leaves(results(runs(name))) for name in ("one", place))
    assert expected.keys() == found.keys()
    for path, value in expected.items():
        assert found[path] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-2, abs=1e-3)), path


def test_two_processes_leave_one_run(runs):
    def names(folder):
        return {str(path.relative_to(folder)) for path in folder.rglob("*")}

    assert steps(runs("two_by_two")) == list(range(1, 11))
    assert names(runs("two_by_two") / "results") == names(runs("one") / "results")
    for name in ("config.json", "splits.json"):
        assert (runs("two_by_two") / name).read_bytes() == (runs("one") / name).read_bytes()


@pytest.mark.soak
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_stops_the_other_and_both_resume(tmp_path, start, victim):
    workdir = tmp_path / "run"
    group = start(workdir, 2, 2, steps=40)
    end = time.monotonic() + 200
    while not (workdir / "checkpoints" / "5").exists() or len(steps(workdir)) < 8:
        assert time.monotonic() < end and [p.poll() for p in group] == [None, None], log(workdir, 0).read_text()
        time.sleep(0.1)
    group[victim].send_signal(signal.SIGKILL)
    assert group[1 - victim].wait(timeout=120) != 0
    assert "Terminating process because the JAX distributed service" in log(workdir, 1 - victim).read_text()
    reached = steps(workdir)[-1]
    assert reached < 40
    finish(workdir, start(workdir, 2, 2, steps=40))
    assert steps(workdir) == list(range(1, 41))
