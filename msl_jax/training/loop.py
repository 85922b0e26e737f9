"""The loop around the train step: batches in, reports, validation and checkpoints out, stage after stage."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import signal
import sys
from typing import Any

from clu import metric_writers
from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict
import numpy as np
import optax

from msl_jax.data import pipeline
from msl_jax.data.builder import Entry
from msl_jax.errors import InputError
from msl_jax.evaluation import metrics
from msl_jax.experiments.experiment import Experiment
from msl_jax.inference.segmenter import Segmenter
from msl_jax.labels import UNLABELED
from msl_jax.methods.table import Method
from msl_jax.models.initial import initializer
from msl_jax.runs import checkpoints, journal
from msl_jax.settings.resolved import model_of, preparation_of
from msl_jax.system import signals
from msl_jax.training import transfer
from msl_jax.training.state import TrainState, init_state, make_mesh, make_schedule, state_of
from msl_jax.training.step import Batch, make_train_step

MOST_SKIPPED = 20
"""How many steps on end, from report to report, may have no finite loss and gradient before a run stops."""


def train(experiment: Experiment, workdir: epath.Path) -> TrainState:
    """Trains, or goes on with, the run in `workdir`, writing reports and checkpoints there.

    Every stage of the method takes config.train.steps; the steps of a later one are counted on.

    Raises:
      InputError: the run in `workdir` has lost its checkpoints, a new one cannot start from config.init_from, or no
        loss is finite any more.
      Interrupted: SIGINT or SIGTERM came; the state is saved.
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
    columns = [
        "step",
        "learning_rate",
        "loss",
        *terms,
        *(column for branch in branches for column in _dice_columns(config, branch)),
        journal.SKIPPED,
    ]
    table = journal.Table(workdir / "metrics.csv", columns, keep_until=done)
    total = config.train.steps * len(stages)
    if done < total and jax.process_index() == 0:  # of a run that is made longer: they are no results of this one
        (workdir / "results" / "test.json").unlink(missing_ok=True)
    if jax.process_index() == 0:
        print(_begun(experiment, done, total), flush=True)
    clock = journal.Clock(done, total, columns)
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
        skipped_on_end = 0
        with _signals() as came:
            for step, batch in enumerate(_batches(experiment, method, done, end, sharded), start=done + 1):
                state = step_fn(state, batch)
                last, stopping = step == end, bool(came) or manager.reached_preemption(step)
                row = {}
                if step % config.train.report_every == 0 or last:
                    since = step - max(begin, table.reported)
                    row = {"learning_rate": float(schedule(step - begin - 1)), **_means(state.sums, since)}
                    skipped_on_end = 0 if "loss" in row else skipped_on_end + since
                    if skipped_on_end >= MOST_SKIPPED:
                        raise _diverged(experiment, method, step, skipped_on_end, manager.latest_step())
                    state = state.replace(sums=jax.tree.map(jnp.zeros_like, state.sums))
                if experiment.split["validation"] and (step % config.train.validate_every == 0 or last):
                    row |= validate(state.network(), step)
                if row:
                    table.add({"step": step, **row})
                    writer.write_scalars(step, row)
                    clock.say(step, row)
                if step % config.train.checkpoint_every == 0 or last or stopping:
                    final = method is stages[-1]
                    dice = row.get(journal.DICE + list(branches)[-1]) if final else None
                    checkpoints.save(manager, step, state.network(), state.training(), dice)
                if stopping:
                    checkpoints.finish(manager)
                    raise signals.Interrupted(
                        f"{workdir}: stopped after step {step} of {total}, which is saved; the same command goes on.",
                        came[0] if came else signal.SIGTERM,
                    )
        done = end
    writer.close()
    checkpoints.finish(manager)
    manager.close()
    return state


def _begun(experiment: Experiment, done: int, total: int) -> str:
    config = experiment.config
    roles = {**experiment.split, "strong": experiment.strong, "weak": experiment.weak()}
    patients = ", ".join(f"{len(roles[role])} {role}" for role in ("strong", "weak", "validation", "test"))
    devices = f"{jax.device_count()} {jax.devices()[0].device_kind}"
    structures = ", ".join(config.data.classes)
    return f"{config.method.name} on {structures}: {patients} patients; steps {done} to {total} on {devices}"


def _signals() -> contextlib.AbstractContextManager[list[int]]:
    """What came to this process; of several, JAX notices itself that one is to end, and tells all of them."""
    return signals.collected() if jax.process_count() == 1 else contextlib.nullcontext([])


def _means(sums: Mapping[str, jax.Array], since: int) -> dict[str, float]:
    """A report's means over the steps with an update, of `since` steps, and how many had none where some had none."""
    sums = {name: float(value) for name, value in jax.device_get(sums).items()}
    steps = sums.pop("steps")
    means = {name: value / steps for name, value in sums.items()} if steps else {}
    return means | ({journal.SKIPPED: since - steps} if steps < since else {})


def _diverged(experiment: Experiment, method: Method, step: int, skipped: int, saved: int | None) -> InputError:
    config = experiment.config
    sets, sizes = _drawn_from(experiment, method)
    cases = pipeline.cases_of(sets, sizes, config.seed, step - skipped)
    kept = f"the checkpoint of step {saved} is kept" if saved else "there is no checkpoint yet"
    return InputError(
        f"config.optimizer.learning_rate: is {config.optimizer.learning_rate}, and none of the {skipped} steps up to "
        f"{step} had a finite loss and gradient, the first of them with slices of {', '.join(cases)}; {kept}: give a "
        "lower one and another --workdir, or look at these cases."
    )


def _start(config, stages, optimizer, manager, workdir, sharding) -> tuple[int, TrainState]:
    """Steps done, over all stages, and the state after them."""
    if manager.latest_step() is None:
        reported = journal.last_step(workdir / "metrics.csv")
        if reported >= min(2 * config.train.checkpoint_every, config.train.steps):
            raise InputError(
                f"{workdir}: its checkpoints are gone, though it had come to step {reported}; "
                "restore them, or give another --workdir."
            )
        taken = transfer.load(config, tuple(stages[0].branches()))
        return 0, jax.device_put(init_state(config, stages[0], optimizer, taken=taken), sharding)

    def drawn(method: Method) -> Any:
        model, size = model_of(config), preparation_of(config).size
        draw = initializer(model, size, tuple(method.branches()), config.data.channels)
        return jax.eval_shape(draw, jax.random.key(config.seed))

    def abstract_of(step: int) -> dict[str, Any]:
        stage = (step - 1) // config.train.steps
        variables, before = drawn(stages[stage]), drawn(stages[max(stage - 1, 0)])
        state = jax.eval_shape(lambda *networks: state_of(stages[stage], optimizer, *networks), variables, before)
        state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)
        return {"network": state.network(), "training": state.training()}

    step, items = checkpoints.restore_newest(manager, abstract_of)
    checkpoints.set_aside(manager, step)
    return step, TrainState(**items["network"], **items["training"])


def _drawn_from(experiment: Experiment, method: Method) -> tuple[dict[str, list[Entry]], dict[str, int]]:
    """The sets that a method draws batches from, and how many slices of each are in one."""
    sets = experiment.training_sets(method)
    return sets, {name: experiment.config.train[f"{name}_batch"] for name in sets}


def _batches(experiment: Experiment, method: Method, start: int, stop: int, sharding: NamedSharding) -> Iterator[Batch]:
    config = experiment.config
    sets, sizes = _drawn_from(experiment, method)
    batches = pipeline.batches(
        experiment.data,
        sets,
        sizes,
        preparation_of(config),
        experiment.annotator(),
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


def _dice_columns(config: ConfigDict, branch: str) -> dict[str, str | None]:
    """Column -> structure, None for the mean, which of several may hide one that is given up."""
    mean, several = journal.DICE + branch, len(config.data.classes) > 1
    return {mean: None, **{f"{mean}_{name}": name for name in config.data.classes if several}}


def _validator(experiment: Experiment, branches: tuple[str, ...]) -> Callable[[Any, int], dict[str, float]]:
    """Mean Dice over validation cases, as `_dice_columns` names them; warns where a branch knows but one class.

    A structure that no validation case has is left out: nothing found where nothing is would be a Dice of 1.
    """
    config = experiment.config
    entries = experiment.entries(experiment.split["validation"])
    structures = experiment.structures(experiment.split["validation"])
    class_of_value = preparation_of(config).class_of_value()
    segmenter = Segmenter(model_of(config), preparation_of(config), branches, config.eval.batch)

    def validate(variables, step):
        dice = {branch: [] for branch in segmenter.branches}
        found = {branch: set() for branch in segmenter.branches}
        for case in map(experiment.data.case, entries):
            reference = class_of_value[case.mask]
            for branch, probabilities in segmenter.probabilities(variables, case.image).items():
                classes = probabilities.argmax(-1)
                labels = np.where(reference == UNLABELED, UNLABELED, classes)
                dice[branch].append([metrics.dice(labels == c, reference == c) for c in structures.values()])
                found[branch].update(np.unique(classes).tolist())
        for branch, classes in found.items():
            if len(classes) == 1 and jax.process_index() == 0:
                print(_collapsed(config, branch, step, *classes), file=sys.stderr, flush=True)
        row = {}
        for branch, of_cases in dice.items() if structures else ():
            means = {None: np.mean(of_cases), **dict(zip(structures, np.mean(of_cases, axis=0), strict=True))}
            columns = _dice_columns(config, branch).items()
            row |= {column: float(means[name]) for column, name in columns if name in means}
        return row

    return validate


def _collapsed(config: ConfigDict, branch: str, step: int, only: int) -> str:
    name = ("background", *config.data.classes)[only]
    entropy = config.method.terms.ent
    cure = f"lower config.method.terms.ent, which is {entropy:g}" if entropy else "train longer, or weigh the classes"
    return f"warning: at step {step} the {branch} takes every voxel of the validation cases for {name}; {cure}."
