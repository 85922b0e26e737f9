"""Times the batches alone and inside a training loop, and watches the memory.

python tests/benchmarks/pipeline.py --config configs/acdc_cpu.py --source ACDC --steps 300 [--cache FOLDER]
python tests/benchmarks/pipeline.py --config configs/phantom.py --patients 400 --steps 300

The loop is that of a run without reports, validation and checkpoints: it asks for the next batch while a step runs. A
batch that came when the step was already done was waited for, at most as long as it took to come, and that much is
counted. With --await each step is waited for before the next batch is asked for, so that all of that time counts.
Prints one JSON line: batches and images per second of the pipeline alone, and images per second of its CPU time (all
threads); steps per second and the share of the loop's time spent waiting, the first 10 steps left out of all; and the
loop's resident memory in MB at step 100, 200, 400 and so on, and at the last one. Memory that grows step by step
doubles its growth from one of these to the next; --width 2 makes the steps short where that alone is asked.
"""

from msl_jax import settings
from msl_jax.data import pipeline
from msl_jax.experiments.experiment import Experiment
from msl_jax.experiments.opening import open_experiment
from msl_jax.settings.optimizer import make_optimizer
from msl_jax.system import machine, restart
from msl_jax.training.batches import batches, streams
from msl_jax.training.loop import make_step, replicated, sharded_over
from msl_jax.training.state import init_state, make_mesh

if __name__ == "__main__":
    restart.restart_on_huge_pages()

import argparse
import itertools
import json
import pathlib
import re
import time
from typing import Any

import jax

LEFT_OUT = 10


def resident_mb() -> float:
    """This process's resident memory in MB (10^6 bytes); Linux alone."""
    status = pathlib.Path("/proc/self/status").read_text()
    return round(int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024 / 1e6, 1)


def loop(experiment: Experiment, steps: int, awaited: bool) -> dict[str, Any]:
    """Trains for `steps` steps, each `awaited` before the next batch is asked for, or not."""
    config, method, mesh = experiment.config, experiment.method, make_mesh()
    optimizer = make_optimizer(config)
    state = jax.device_put(init_state(config, method, optimizer), replicated(mesh))
    step_fn = make_step(experiment, method, 0, optimizer, mesh)
    marks = {steps, *(100 * 2**k for k in range(steps.bit_length()))}
    iterator, memory, waited = (
        batches(experiment, method, streams(experiment, method), 0, config.train.steps, sharded_over(mesh)),
        {},
        0.0,
    )
    for step in range(1, steps + 1):
        asked = time.perf_counter()
        batch = next(iterator)
        if state.step.is_ready():
            waited += time.perf_counter() - asked
        state = step_fn(state, batch)
        if awaited or step == LEFT_OUT:
            jax.block_until_ready(state)
        if step == LEFT_OUT:
            start, waited = time.perf_counter(), 0.0
        if step in marks:
            memory[step] = resident_mb()
    jax.block_until_ready(state)
    total = time.perf_counter() - start
    return {
        "steps_per_s": round((steps - LEFT_OUT) / total, 2),
        "waiting_share": round(waited / total, 4),
        "rss_mb": memory,
    }


def alone(experiment: Experiment, steps: int) -> dict[str, float]:
    """Batches and images per second when nothing is done with them; also images per second of CPU time."""
    sizes, given = experiment.batch_sizes(experiment.method), streams(experiment, experiment.method)
    iterator = pipeline.batches(given, sizes, ahead=4, start=0, stop=steps).as_numpy_iterator()
    for _ in itertools.islice(iterator, LEFT_OUT):
        pass
    start, start_cpu = time.perf_counter(), time.process_time()
    count = sum(1 for _ in iterator)
    images = count * sum(sizes.values())
    return {
        "batches_per_s_alone": round(count / (time.perf_counter() - start), 2),
        "images_per_s_alone": round(images / (time.perf_counter() - start), 1),
        "images_per_cpu_s_alone": round(images / (time.process_time() - start_cpu), 1),
    }


def main() -> None:
    """Measures the loop first: what the pipeline alone leaves in memory is not the loop's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/acdc_cpu.py", help="configs/NAME.py[:ARG]")
    parser.add_argument("--source", help="the data set's folder, in place of the config's")
    parser.add_argument("--patients", type=int, help="phantoms in place of a data set, this many")
    parser.add_argument("--cache", help="where data sets are built; TFDS's own folder unless given")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--width", type=int, help="the network's, in place of the config's")
    parser.add_argument("--await", action="store_true", dest="awaited", help="wait for each step")
    a = parser.parse_args()
    if a.steps <= LEFT_OUT:
        parser.error(f"--steps: is {a.steps}; give more than {LEFT_OUT}.")
    machine.set_up()
    path, _, arg = a.config.partition(":")
    config = settings.load(path, arg).unlock()
    config.data.source, config.data.cache = a.source or config.data.source, a.cache
    config.train.steps, config.model.width = a.steps, a.width or config.model.width
    if a.patients:
        held_out = a.patients // 5
        config.data.layout, config.data.source = "phantom", f"patients={a.patients},seed=0"
        config.data.split_sizes = ((a.patients - 2 * held_out, held_out, held_out),)
    experiment = open_experiment(config)
    report = {
        "config": a.config,
        "slices": len(experiment.data.records),
        "steps": a.steps,
        **loop(experiment, a.steps, a.awaited),
        **alone(experiment, a.steps),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
