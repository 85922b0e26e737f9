"""A few training steps before a run: how long it will take on this machine, and how much memory a step needs."""

import dataclasses
import statistics
import time
from typing import Any

import jax

from msl_jax.experiments.experiment import Experiment
from msl_jax.settings.optimizer import make_optimizer
from msl_jax.system.text import duration, gibibytes
from msl_jax.training.batches import batches, streams
from msl_jax.training.loop import make_step, replicated, sharded_over
from msl_jax.training.state import init_state, make_mesh

STEPS = 10
"""Most steps of a trial."""
SECONDS = 10.0
"""A trial takes no further step after this time; the first, which waits for the first batch, does not count."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """What training costs.

    Attributes:
      compilation: seconds to compile a step; less if an earlier process did.
      step: median seconds of a step on the run's batches.
      memory: bytes of a step on one device, by XLA: state, batch and feature maps.
      steps: of the run, over all stages.
    """

    compilation: float
    step: float
    memory: int
    steps: int

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.steps} steps of {self.step:.2g} s take about {duration(self.steps * self.step)} on this machine, "
            f"after {duration(self.compilation)} of compilation and without validation; a step needs "
            f"{gibibytes(self.memory)} of memory besides the program itself."
        )


def trial(experiment: Experiment) -> Trial:
    """Takes the first steps of a run and forgets them; prepares all cases for training."""
    config, stages, mesh = experiment.config, experiment.method.stages(), make_mesh()
    method, optimizer = stages[0], make_optimizer(config)
    state = jax.device_put(init_state(config, method, optimizer), replicated(mesh))
    stream = batches(experiment, method, streams(experiment, method), 0, STEPS + 1, sharded_over(mesh))
    first = next(stream)
    start = time.perf_counter()
    step = make_step(experiment, method, 0, optimizer, mesh).lower(state, first).compile()
    compilation = time.perf_counter() - start
    state, times = jax.block_until_ready(step(state, first)), []
    for batch in stream:
        start = time.perf_counter()
        state = jax.block_until_ready(step(state, batch))
        times.append(time.perf_counter() - start)
        if sum(times) > SECONDS:
            break
    analysis: Any = step.memory_analysis()
    memory = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
    return Trial(compilation, statistics.median(times), memory, config.train.steps * len(stages))
