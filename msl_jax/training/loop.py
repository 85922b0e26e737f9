"""The training loop: one stage after the other."""

import contextlib
import signal
from typing import Any

from etils import epath
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict
import optax
import orbax.checkpoint as ocp

from msl_jax.data.case import ROLES
from msl_jax.data.pipeline import FILL_VALUES
from msl_jax.errors import InputError
from msl_jax.experiments.experiment import Experiment
from msl_jax.methods.losses import Classes
from msl_jax.methods.table import Method
from msl_jax.models.initial import initializer
from msl_jax.runs import checkpoints, journal, selection
from msl_jax.settings.objects import model_of, preparation_of
from msl_jax.settings.optimizer import make_optimizer, make_schedule
from msl_jax.system import signals
from msl_jax.training import transfer
from msl_jax.training.augmentation import make_augment
from msl_jax.training.batches import batches, streams
from msl_jax.training.recorder import Recorder
from msl_jax.training.state import TrainState, init_state, make_mesh, state_of
from msl_jax.training.step import make_train_step


def train(experiment: Experiment, workdir: epath.Path) -> TrainState:
    """Trains or resumes the run in `workdir` and writes reports and checkpoints there.

    Every stage of the method takes config.train.steps; steps are counted over all stages.

    Raises:
      InputError: the checkpoints of the run in `workdir` are missing, a new run cannot start from config.init_from, or
        training has diverged.
      Interrupted: SIGINT or SIGTERM was received; the state is saved.
    """
    config, stages = experiment.config, experiment.method.stages()  # mostly one stage
    mesh, optimizer = make_mesh(), make_optimizer(config)
    manager = checkpoints.open_manager(workdir, config.train.keep)
    done, state = _initial_or_restored(config, stages, optimizer, manager, workdir, mesh)
    recorder = Recorder(experiment, workdir, manager, make_schedule(config), done)
    if jax.process_index() == 0:
        if done < recorder.total:  # a run that is extended: its old results no longer apply
            (workdir / "results" / "test.json").unlink(missing_ok=True)
            (workdir / selection.FILE).unlink(missing_ok=True)
        print(_first_line(experiment, done, recorder.total), flush=True)
    for index, method in enumerate(stages):
        begin, end = index * config.train.steps, (index + 1) * config.train.steps
        if done < end:
            if done == begin and index:
                state = init_state(config, method, optimizer, previous_network=state.network())
            recorder.begin_stage(method, begin, end)
            state = jax.device_put(state, replicated(mesh))
            state = train_stage(experiment, method, index, state, done, end, recorder, optimizer, mesh)
            done = end
    recorder.close()
    return state


def train_stage(
    experiment: Experiment,
    method: Method,
    index: int,
    state: TrainState,
    done: int,
    end: int,
    recorder: Recorder,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> TrainState:
    """Trains stage number `index`: the steps after `done` up to `end`, counted from 1 over all stages of the run.

    The pipeline counts the same steps from 0, and the state from the beginning of the stage.

    Raises:
      InputError: training has diverged.
      Interrupted: SIGINT or SIGTERM was received; the state is saved.
    """
    step_fn = make_step(experiment, method, index, optimizer, mesh)
    stage = streams(experiment, method), done, end, sharded_over(mesh)
    with _signals() as received:  # not while cases are prepared, which may take long
        for step, batch in enumerate(batches(experiment, method, *stage), start=done + 1):
            state = step_fn(state, batch)
            stopping = bool(received) or recorder.manager.reached_preemption(step)
            state = recorder.record(step, state, stopping)
            if stopping:
                checkpoints.finish(recorder.manager)
                raise signals.Interrupted(
                    f"{recorder.workdir}: stopped and saved after step {step} of {recorder.total}; rerun the same "
                    "command to resume.",
                    received[0] if received else signal.SIGTERM,
                )
    return state


def make_step(
    experiment: Experiment, method: Method, index: int, optimizer: optax.GradientTransformation, mesh: Mesh
) -> jax.stages.Wrapped:
    """The jitted train step of stage number `index`, (state, batch) -> state; it takes over the state's memory."""
    config, model = experiment.config, model_of(experiment.config)
    return jax.jit(
        make_train_step(
            apply_fn=model.apply,
            optimizer=optimizer,
            method=method,
            devices=mesh.size,
            key=jax.random.fold_in(jax.random.key(config.seed), index),
            augment=make_augment(
                config.data.augment.to_dict(), preparation_of(config).size, FILL_VALUES, method.versions()
            ),
            parts=config.train.accumulate,
            classes=Classes(tuple(config.method.class_weights.values()), experiment.unions()),
            average=config.train.average,
            levels=model.levels,
        ),
        in_shardings=(replicated(mesh), sharded_over(mesh)),
        out_shardings=replicated(mesh),
        donate_argnums=0,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of the state: a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded_over(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: an equal part on every device."""
    return NamedSharding(mesh, PartitionSpec("data"))


def _first_line(experiment: Experiment, done: int, total: int) -> str:
    config = experiment.config
    roles = experiment.roles()
    patients = ", ".join(f"{len(roles[role])} {role}" for role in ROLES)
    devices = f"{jax.device_count()} {jax.devices()[0].device_kind}"
    structures = ", ".join(config.data.classes)
    return f"{config.method.name} on {structures}: {patients} patients; steps {done} to {total} on {devices}"


def _signals() -> contextlib.AbstractContextManager[list[int]]:
    """The signals that this process receives; with several processes, JAX notifies all of them instead."""
    return signals.collected() if jax.process_count() == 1 else contextlib.nullcontext([])


def _initial_or_restored(
    config: ConfigDict,
    stages: tuple[Method, ...],
    optimizer: optax.GradientTransformation,
    manager: ocp.CheckpointManager,
    workdir: epath.Path,
    mesh: Mesh,
) -> tuple[int, TrainState]:
    """Steps done, over all stages, and the state after them; initialises a new run, or reads the newest checkpoint."""
    if manager.latest_step() is None:
        reported = journal.last_step(workdir / "metrics.csv")
        if reported >= min(2 * config.train.checkpoint_every, config.train.steps):
            raise InputError(
                f"{workdir}: its checkpoints are missing, but it had reached step {reported}; "
                "restore them, or give another workdir."
            )
        loaded = transfer.load(config, tuple(stages[0].branches()))
        return 0, init_state(config, stages[0], optimizer, loaded=loaded)

    def variables_of(method: Method) -> Any:
        model, size = model_of(config), preparation_of(config).size
        init = initializer(model, size, tuple(method.branches()), config.data.channels)
        return jax.eval_shape(init, jax.random.key(config.seed))

    def abstract_of(step: int) -> dict[str, Any]:
        stage = (step - 1) // config.train.steps
        variables, previous = variables_of(stages[stage]), variables_of(stages[max(stage - 1, 0)])
        state = jax.eval_shape(
            lambda own, previous: state_of(stages[stage], optimizer, own, previous, bool(config.train.average)),
            variables,
            previous,
        )
        sharding = replicated(mesh)
        state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)
        return {"network": state.network(), "training": state.training()}

    step, items = checkpoints.restore_newest(manager, abstract_of)
    checkpoints.set_aside(manager, step)
    return step, TrainState.of(**items)
