"""Where the time of a training step on CPU goes, and which share of the machine's peak it reaches.

python tests/benchmarks/profile_step.py --width 16 --size 128 [--steps 5] [--trace FOLDER]

The peak is measured first, by a matrix product of 2048 x 2048 in float32. Then the step of train_step.py (4 + 4
images, 2 classes) is timed, and traced with jax.profiler. What XLA compiled itself it names in the trace: that time is
added up by the instruction's name, over all threads, per step. Convolutions and matrix products run as Eigen's unnamed
tasks, so that the rest of the threads' time is theirs, waiting included. FLOPs are those of XLA's cost analysis. Prints
one JSON line; --trace keeps the trace for TensorBoard or Perfetto.
"""

from msl_jax.methods.table import Method
from msl_jax.models.dual_branch import DualBranchUNet
from msl_jax.system import machine, restart

if __name__ == "__main__":
    restart.restart_on_huge_pages()

import argparse
import collections
import json
import os
import pathlib
import re
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp

from train_step import make_step, random_batch

SHOWN = 8


def peak_flops() -> float:
    """FLOP/s of a large matrix product."""
    n, product = 2048, jax.jit(jnp.matmul)
    x = jnp.ones((n, n))
    product(x, x).block_until_ready()
    times = []
    for _ in range(10):
        start = time.perf_counter()
        product(x, x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * n**3 / statistics.median(times)


def named_ms(trace: pathlib.Path) -> collections.Counter:
    """Name of an instruction, its number left out -> milliseconds over all threads of XLA's."""
    (path,) = trace.rglob("*.xplane.pb")
    total = collections.Counter()
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events if line.name.startswith("tf_XLA") else ():
                if not event.name.startswith(("Thunk", "end:")):
                    total[re.sub(r"[.\d]+$", "", event.name)] += event.duration_ns / 1e6
    return total


def main() -> None:
    """Measures the peak, times the step, traces it; the first two steps are left out of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--trace", type=pathlib.Path, help="an empty folder to keep the trace in")
    a = parser.parse_args()
    machine.set_up()
    peak = peak_flops()
    method = Method({"s": 1.0, "w": 0.1, "kd": 50.0, "ent": 1.0}, kd_on="strong", batch_norm="together")
    step, state = make_step(DualBranchUNet(width=a.width, classes=2), method, a.size)
    batch = random_batch(4, 4, a.size, 2)
    flops = step.lower(state, batch).cost_analysis()["flops"]
    times = []
    for _ in range(2 + a.steps):
        start = time.perf_counter()
        state = jax.block_until_ready(step(state, batch))
        times.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as scratch:
        folder = a.trace or pathlib.Path(scratch)
        with jax.profiler.trace(str(folder)):
            for _ in range(a.steps):
                state = jax.block_until_ready(step(state, batch))
        named = named_ms(folder)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    seconds = statistics.median(times[2:])
    in_named = sum(named.values()) / a.steps
    report = {
        "peak_gflop_per_s": round(peak / 1e9),
        "gflop_a_step": round(flops / 1e9, 1),
        "median_s": round(seconds, 4),
        "share_of_peak": round(flops / seconds / peak, 3),
        "thread_ms": {
            "all": round(1e3 * cores * seconds),
            "convolutions, products, waiting": round(1e3 * cores * seconds - in_named),
            **{name: round(ms / a.steps, 1) for name, ms in named.most_common(SHOWN)},
        },
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
