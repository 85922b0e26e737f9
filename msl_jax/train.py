"""The loop around the train step: batches in, reports, validation and checkpoints out, stage after stage."""

from collections.abc import Callable, Iterator
from typing import Any

from clu import metric_writers
from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict
import numpy as np
import optax

from msl_jax import checkpoints, metrics, report, transfer
from msl_jax.checks import Refused
from msl_jax.data import pipeline
from msl_jax.data.case import UNLABELED
from msl_jax.experiment import Experiment, model_of, preparation_of
from msl_jax.inference import Segmenter, init_variables
from msl_jax.methods import Method
from msl_jax.step import Batch, TrainState, make_train_step


def init_state(
    config: ConfigDict,
    method: Method,
    optimizer: optax.GradientTransformation,
    before: Any = None,
    taken: transfer.Arrays | None = None,
) -> TrainState:
    """The state before the first step of a stage, from the config's seed.

    Args:
      config: filled in.
      method: the stage's.
      optimizer: from optax.
      before: variables that the stage before has trained, for a guide that does not move.
      taken: what the network has of another run, the rest being drawn.
    """
    size, channels = preparation_of(config).size, config.data.channels
    variables = init_variables(model_of(config), size, tuple(method.branches()), config.seed, channels)
    variables = transfer.put(taken, variables) if taken else variables
    guide = before if method.after else jax.tree.map(jnp.copy, variables)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        sums={name: jnp.zeros((), jnp.float32) for name in ("loss", "steps", *method.terms)},
        guide=guide if method.guide else None,
    )


def make_schedule(config: Any) -> optax.Schedule:
    """The learning rate by step: linear warm-up, then a cosine to 0 at the last step."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if config.optimizer.warmup_steps else config.optimizer.learning_rate,
        peak_value=config.optimizer.learning_rate,
        warmup_steps=config.optimizer.warmup_steps,
        decay_steps=config.train.steps,
    )


def make_mesh() -> Mesh:
    """All devices of all hosts along one axis, "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def train(experiment: Experiment, workdir: epath.Path) -> TrainState:
    """Trains, or goes on with, the run in `workdir`, writing reports and checkpoints there.

    Every stage of the method takes config.train.steps; the steps of a later one are counted on.

    Raises:
      Refused: the run in `workdir` has lost its checkpoints, or a new one cannot start from config.init_from.
    """
    config, stages = experiment.config, experiment.method.stages()
    mesh = make_mesh()
    replicated, sharded = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    schedule = make_schedule(config)
    optimizer = optax.adam(schedule)
    manager = checkpoints.open_manager(workdir, config.train.keep)
    done, state = _start(config, stages, optimizer, manager, workdir, replicated)
    terms = dict.fromkeys(term for method in stages for term in method.terms)
    branches = dict.fromkeys(branch for method in stages for branch in method.branches())
    columns = ["step", "learning_rate", "loss", *terms, *(f"validation_dice_{branch}" for branch in branches)]
    table = report.Table(workdir / "metrics.csv", columns, keep_until=done)
    clock = report.Clock(done, config.train.steps * len(stages))
    writer = metric_writers.create_default_writer(workdir, just_logging=jax.process_index() > 0)
    for stage, method in enumerate(stages):
        begin, end = stage * config.train.steps, (stage + 1) * config.train.steps
        if done >= end:
            continue
        if done == begin and stage:
            state = jax.device_put(init_state(config, method, optimizer, before=state.network()), replicated)
        step_fn = jax.jit(
            make_train_step(
                apply_fn=model_of(config).apply,
                optimizer=optimizer,
                method=method,
                groups=mesh.size,
                key=jax.random.fold_in(jax.random.key(config.seed), stage),
                parts=config.train.accumulate,
                class_weights=tuple(config.method.class_weights.values()),
            ),
            in_shardings=(replicated, sharded),
            out_shardings=replicated,
            donate_argnums=0,
        )
        validate = _validator(experiment, tuple(method.branches()))
        for step, batch in enumerate(_batches(experiment, method, done, end, sharded), start=done + 1):
            state = step_fn(state, batch)
            last = step == end
            row = {}
            if step % config.train.report_every == 0 or last:
                sums = jax.device_get(state.sums)
                row = {"learning_rate": float(schedule(step - begin - 1))}
                row |= {name: float(total / sums["steps"]) for name, total in sums.items() if name != "steps"}
                state = state.replace(sums=jax.tree.map(jnp.zeros_like, state.sums))
            if experiment.split["validation"] and (step % config.train.validate_every == 0 or last):
                row |= validate(state.network())
            if row:
                table.add({"step": step, **row})
                writer.write_scalars(step, row)
                clock.say(step, row)
            if step % config.train.checkpoint_every == 0 or last:
                final = method is stages[-1]
                dice = row.get(f"validation_dice_{list(branches)[-1]}") if final else None
                checkpoints.save(manager, step, state.network(), state.training(), dice)
        done = end
    writer.close()
    manager.wait_until_finished()
    manager.close()
    return state


def _start(config, stages, optimizer, manager, workdir, sharding) -> tuple[int, TrainState]:
    """Steps done, over all stages, and the state after them."""
    latest = manager.latest_step()
    if latest is None:
        reported = report.last_step(workdir / "metrics.csv")
        if reported >= min(2 * config.train.checkpoint_every, config.train.steps):
            raise Refused(
                f"{workdir}: its checkpoints are gone, though it had come to step {reported}; "
                "restore them, or give another --workdir."
            )
        taken = transfer.load(config, tuple(stages[0].branches()))
        return 0, jax.device_put(init_state(config, stages[0], optimizer, taken=taken), sharding)
    stage = (latest - 1) // config.train.steps
    before = jax.eval_shape(lambda: init_state(config, stages[max(stage - 1, 0)], optimizer).network())
    abstract = jax.eval_shape(lambda network: init_state(config, stages[stage], optimizer, network), before)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)
    items = checkpoints.restore(manager, latest, network=abstract.network(), training=abstract.training())
    return latest, TrainState(**items["network"], **items["training"])


def _batches(experiment: Experiment, method: Method, start: int, stop: int, sharding: NamedSharding) -> Iterator[Batch]:
    config = experiment.config
    sets = experiment.training_sets(method)
    sizes = {name: config.train[f"{name}_batch"] for name in sets}
    batches = pipeline.batches(
        experiment.data,
        sets,
        sizes,
        preparation_of(config),
        experiment.weakening(),
        config.data.augment.to_dict(),
        ahead=config.data.batches_ahead,
        seed=config.seed,
        start=start,
        stop=stop,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    for batch in batches.as_numpy_iterator():
        yield jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def _validator(experiment: Experiment, branches: tuple[str, ...]) -> Callable[[Any], dict[str, float]]:
    """Mean Dice over validation cases and structures, by branch."""
    config = experiment.config
    entries = experiment.entries(experiment.split["validation"])
    segmenter = Segmenter(model_of(config), preparation_of(config), branches, config.eval.batch)

    def validate(variables):
        dice = {branch: [] for branch in segmenter.branches}
        for case in map(experiment.data.case, entries):
            for branch, probabilities in segmenter.probabilities(variables, case.image).items():
                labels = np.where(case.mask == UNLABELED, UNLABELED, segmenter.label_map(probabilities))
                dice[branch] += [metrics.dice(labels == v, case.mask == v) for v in config.data.classes.values()]
        return {f"validation_dice_{branch}": float(np.mean(values)) for branch, values in dice.items()}

    return validate
