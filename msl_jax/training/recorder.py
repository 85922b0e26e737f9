"""What happens between two steps: reports, validation, checkpoints, and the check for divergence."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from clu import metric_writers
from etils import epath
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

from msl_jax.data import pipeline
from msl_jax.errors import InputError
from msl_jax.experiments.experiment import Experiment
from msl_jax.methods.table import Method
from msl_jax.runs import checkpoints, journal
from msl_jax.training.batches import streams
from msl_jax.training.state import TrainState
from msl_jax.training.validation import dice_columns, make_validator

MOST_SKIPPED = 20
"""A run stops after this many steps in a row without a finite loss and gradient, checked at each report."""


class Recorder:
    """Reports, validates and saves a run. Steps are counted over all stages, from 1.

    Attributes:
      workdir: the run's folder.
      manager: its checkpoint manager.
      schedule: step of a stage -> learning rate.
      total: steps of the whole run.
      end: last step of the current stage.
    """

    def __init__(
        self,
        experiment: Experiment,
        workdir: epath.Path,
        manager: ocp.CheckpointManager,
        schedule: optax.Schedule,
        done: int,
    ):
        """Opens metrics.csv and the TensorBoard events of a run with a checkpoint at step `done`."""
        self.experiment, self.workdir, self.manager, self.schedule = experiment, workdir, manager, schedule
        stages = experiment.method.stages()
        self.total = experiment.config.train.steps * len(stages)
        self.branches = list(dict.fromkeys(branch for method in stages for branch in method.branches()))
        columns = [
            *("step", "learning_rate", "loss"),
            *dict.fromkeys(term for method in stages for term in method.terms),
            *(column for branch in self.branches for column in dice_columns(experiment.config, branch)),
            journal.SKIPPED,
        ]
        self.table = journal.Table(workdir / "metrics.csv", columns, keep_until=done)
        self.clock = journal.Clock(done, self.total, columns)
        self.writer = metric_writers.create_default_writer(workdir, just_logging=jax.process_index() > 0)

    def begin_stage(self, method: Method, begin: int, end: int) -> None:
        """Starts the stage that trains `method` in steps `begin + 1` to `end`."""
        self.method, self.begin, self.end = method, begin, end
        self.validate: Callable[[Any, int], dict[str, float]] = make_validator(
            self.experiment, tuple(method.branches())
        )
        self.skipped_in_a_row = 0

    def record(self, step: int, state: TrainState, stopping: bool) -> TrainState:
        """Reports, validates and saves as due after this step; returns the state, with sums reset after a report.

        Raises:
          InputError: training has diverged, or a checkpoint cannot be written.
        """
        config, last = self.experiment.config.train, step == self.end
        row: dict[str, float] = {}
        if step % config.report_every == 0 or last:
            row = self._report(step, state)
            state = dataclasses.replace(state, sums=jax.tree.map(jnp.zeros_like, state.sums))
        if self.experiment.split["validation"] and (step % config.validate_every == 0 or last):
            row |= self.validate(state.network(), step)
        if row:
            self.table.add({"step": step, **row})
            self.writer.write_scalars(step, row)
            self.clock.print_row(step, row)
        if step % config.checkpoint_every == 0 or last or stopping:
            in_last_stage = self.end == self.total
            dice = row.get(journal.DICE + self.branches[-1]) if in_last_stage else None
            checkpoints.save(self.manager, step, state.network(), state.training(), dice)
        return state

    def close(self) -> None:
        """Waits until everything is written."""
        self.writer.close()
        checkpoints.finish(self.manager)
        self.manager.close()

    def _report(self, step: int, state: TrainState) -> dict[str, float]:
        since = step - max(self.begin, self.table.reported)
        row = {"learning_rate": float(self.schedule(step - self.begin - 1)), **_means(state.sums, since)}
        self.skipped_in_a_row = 0 if "loss" in row else self.skipped_in_a_row + since
        if self.skipped_in_a_row >= MOST_SKIPPED:
            raise self._diverged(step)
        return row

    def _diverged(self, step: int) -> InputError:
        config, skipped = self.experiment.config, self.skipped_in_a_row
        sets, sizes = streams(self.experiment, self.method), self.experiment.batch_sizes(self.method)
        cases = pipeline.cases_of(sets, sizes, step - skipped)
        saved = self.manager.latest_step()
        checkpoint = f"the checkpoint of step {saved} is kept" if saved else "there is no checkpoint yet"
        return InputError(
            f"config.optimizer.learning_rate: is {config.optimizer.learning_rate}, and none of the {skipped} steps up "
            f"to {step} had a finite loss and gradient, the first of them with slices of {', '.join(cases)}; "
            f"{checkpoint}; use a lower rate and another workdir, or check these cases."
        )


def _means(sums: Mapping[str, jax.Array], since: int) -> dict[str, float]:
    """A report's means over the steps with an update, of `since` steps, and the number of skipped steps, if any."""
    totals = {name: float(value) for name, value in jax.device_get(sums).items()}
    steps = totals.pop("steps")
    means = {name: value / steps for name, value in totals.items()} if steps else {}
    return means | ({journal.SKIPPED: since - steps} if steps < since else {})
