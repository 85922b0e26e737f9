"""One pure train step for every method, and the loop around it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import operator
from typing import Any

from clu import metric_writers
from etils import epath
from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax

from msl_jax import checkpoints, metrics, report
from msl_jax.checks import Refused
from msl_jax.data import pipeline
from msl_jax.experiment import Experiment, model_of, preparation_of
from msl_jax.inference import Segmenter, init_variables
from msl_jax.losses import UNLABELED
from msl_jax.methods import SETS, TERMS, Method

Batch = Mapping[str, Mapping[str, jax.Array]]


@struct.dataclass
class TrainState:
    """All that a step changes.

    Attributes:
      step: int32 scalar, steps done.
      params: float32 parameters.
      batch_stats: float32 running means and variances.
      opt_state: of the optax optimizer.
      sums: "loss", every term and "steps", summed since the last report; float32 scalars.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    sums: dict[str, jax.Array]

    def network(self) -> dict[str, Any]:
        """The variables of the model: the "network" item of a checkpoint."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def training(self) -> dict[str, Any]:
        """What else goes on from step to step: the "training" item of a checkpoint."""
        return {"step": self.step, "opt_state": self.opt_state, "sums": self.sums}


def make_train_step(
    *,
    apply_fn: Callable,
    optimizer: optax.GradientTransformation,
    method: Method,
    groups: int,
    key: jax.Array,
    parts: int = 1,
) -> Callable[[TrainState, Batch], TrainState]:
    """The step of a method: forward pass, its terms, gradient, update.

    Args:
      apply_fn: of a DualBranchUNet.
      optimizer: from optax.
      method: which terms over which images, with which weights.
      groups: number of devices the batch is sharded over; strong and weak images are interleaved so that each device
        holds its share of both, and only gradients and batch norm's sums travel.
      key: PRNG key of the run; a step's dropout is a function of it, the step's number and the part's.
      parts: how many parts the batch is taken in, one after the other, their gradients added (gradient accumulation).
        Every term is still the mean over the whole batch's pixels, those labelled for a cross-entropy; batch norm,
        though, sees the images of one part alone, so that the update is not that of the whole batch at once.

    Returns:
      A pure function (state, batch) -> state, to be jitted. Batches are those of pipeline.batches.
    """

    def part_loss(params, batch_stats, part, shares, key):
        images = _of_sets(part, "image", method.sets())
        labels = {
            "label": part["strong"]["label"],
            "weak_label": _of_sets(part, "weak_label", method.sets()),
        }
        spans = rows_of_sets({name: part[name]["image"].shape[1] for name in method.sets()})
        rows = {branch: spans[sets] for branch, sets in method.branches().items()}
        watched = {branch: spans[sets] for branch, sets in method.watched().items()}
        seen = {branch: _joined(rows[branch], watched.get(branch, rows[branch])) for branch in rows}
        annotated = {"label": spans[("strong",)], "weak_label": spans[method.sets()]}
        logits, updates = apply_fn(
            {"params": params, "batch_stats": batch_stats},
            images,
            rows,
            train=True,
            watched=watched,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        terms = {}
        for name in method.terms:
            wanted = spans[method.images(name)]
            loss = TERMS[name].loss(_cut(logits, seen, wanted), _cut(labels, annotated, wanted))
            terms[name] = shares[name] * loss
        loss = sum(weight * terms[name] for name, weight in method.terms.items())
        return loss, ({"loss": loss, **terms}, updates["batch_stats"])

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        divided = split(batch, groups, parts)
        shares = {name: _shares(divided, TERMS[name].labels, method.images(name), parts) for name in method.terms}
        keys = jax.random.split(jax.random.fold_in(key, state.step), parts)
        batch_stats, added = state.batch_stats, []
        for k in range(parts):  # unrolled: inside a loop of XLA's, convolutions on CPU are many times slower
            part = jax.tree.map(operator.itemgetter(k), (divided, shares, keys))
            gradient, (values, batch_stats) = jax.grad(part_loss, has_aux=True)(state.params, batch_stats, *part)
            added.append((gradient, values))
        gradient, values = jax.tree.map(lambda *of_parts: sum(of_parts[1:], of_parts[0]), *added)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        return TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            sums=jax.tree.map(jnp.add, state.sums, {"steps": jnp.ones((), jnp.float32), **values}),
        )

    return train_step


def split(batch: Batch, groups: int, parts: int) -> Batch:
    """Arrays (n, ...) sharded over `groups` devices -> (parts, groups, n / groups / parts, ...), rows left in place."""
    return jax.tree.map(lambda a: a.reshape(groups, parts, -1, *a.shape[1:]).swapaxes(0, 1), batch)


def rows_of_sets(sizes: Mapping[str, int]) -> dict[tuple[str, ...], slice]:
    """Which rows of a group each choice of sets takes, given how many images of each set a group holds."""
    ends = dict(zip(sizes, np.cumsum(list(sizes.values())).tolist(), strict=True))
    return {
        sets: slice(ends[sets[0]] - sizes[sets[0]], ends[sets[-1]]) for sets in SETS.values() if set(sets) <= set(sizes)
    }


def init_state(experiment: Experiment, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, from the config's seed."""
    config, method = experiment.config, experiment.method
    size = preparation_of(config).size
    variables = init_variables(model_of(config), size, tuple(method.branches()), config.seed)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        sums={name: jnp.zeros((), jnp.float32) for name in ("loss", "steps", *method.terms)},
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

    Raises:
      Refused: the run in `workdir` has lost its checkpoints.
    """
    config, method = experiment.config, experiment.method
    mesh = make_mesh()
    replicated, sharded = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    schedule = make_schedule(config)
    optimizer = optax.adam(schedule)
    manager = checkpoints.open_manager(workdir, config.train.keep)
    state = jax.device_put(_start(experiment, optimizer, manager, workdir, replicated), replicated)
    step_fn = jax.jit(
        make_train_step(
            apply_fn=model_of(config).apply,
            optimizer=optimizer,
            method=method,
            groups=mesh.size,
            key=jax.random.key(config.seed),
            parts=config.train.accumulate,
        ),
        in_shardings=(replicated, sharded),
        out_shardings=replicated,
        donate_argnums=0,
    )
    start = int(state.step)
    columns = ["learning_rate", "loss", *method.terms, *(f"validation_dice_{b}" for b in method.branches())]
    table = report.Table(workdir / "metrics.csv", ["step", *columns], keep_until=start)
    clock = report.Clock(start, config.train.steps)
    writer = metric_writers.create_default_writer(workdir, just_logging=jax.process_index() > 0)
    validate = _validator(experiment)
    for step, batch in enumerate(_batches(experiment, start, sharded), start=start + 1):
        state = step_fn(state, batch)
        last = step == config.train.steps
        row = {}
        if step % config.train.report_every == 0 or last:
            sums = jax.device_get(state.sums)
            row = {"learning_rate": float(schedule(step - 1))}
            row |= {name: float(total / sums["steps"]) for name, total in sums.items() if name != "steps"}
            state = state.replace(sums=jax.tree.map(jnp.zeros_like, state.sums))
        if step % config.train.validate_every == 0 or last:
            row |= validate(state.network())
        if row:
            table.add({"step": step, **row})
            writer.write_scalars(step, row)
            clock.say(step, row)
        if step % config.train.checkpoint_every == 0 or last:
            dice = row.get(f"validation_dice_{list(method.branches())[-1]}")
            checkpoints.save(manager, step, state.network(), state.training(), dice)
    writer.close()
    manager.wait_until_finished()
    manager.close()
    return state


def _start(experiment, optimizer, manager, workdir, sharding) -> TrainState:
    latest = manager.latest_step()
    if latest is None:
        reported = report.last_step(workdir / "metrics.csv")
        train = experiment.config.train
        if reported >= min(2 * train.checkpoint_every, train.steps):
            raise Refused(
                f"{workdir}: its checkpoints are gone, though it had come to step {reported}; "
                "restore them, or give another --workdir."
            )
        return init_state(experiment, optimizer)
    abstract = jax.eval_shape(lambda: init_state(experiment, optimizer))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)
    items = checkpoints.restore(manager, latest, network=abstract.network(), training=abstract.training())
    return TrainState(**items["network"], **items["training"])


def _batches(experiment: Experiment, start: int, sharding: NamedSharding) -> Iterator[Batch]:
    config = experiment.config
    sets = experiment.training_sets()
    sizes = {name: config.train[f"{name}_batch"] for name in sets}
    batches = pipeline.batches(
        experiment.data,
        sets,
        sizes,
        preparation_of(config),
        pipeline.Weakening(config.data.weak, config.data.weak_background),
        config.data.augment.to_dict(),
        ahead=config.data.batches_ahead,
        seed=config.seed,
        start=start,
        stop=config.train.steps,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    for batch in batches.as_numpy_iterator():
        yield jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def _validator(experiment: Experiment) -> Callable[[Any], dict[str, float]]:
    """Mean Dice over validation cases and structures, by branch."""
    config = experiment.config
    entries = experiment.entries(experiment.split["validation"])
    segmenter = Segmenter(
        model_of(config), preparation_of(config), tuple(experiment.method.branches()), config.eval.batch
    )

    def validate(variables):
        dice = {branch: [] for branch in segmenter.branches}
        for case in map(experiment.data.case, entries):
            for branch, probabilities in segmenter.probabilities(variables, case.image).items():
                labels = segmenter.label_map(probabilities)
                dice[branch] += [metrics.dice(labels == v, case.mask == v) for v in config.data.classes.values()]
        return {f"validation_dice_{branch}": float(np.mean(values)) for branch, values in dice.items()}

    return validate


def _of_sets(batch: Batch, key: str, sets: Sequence[str]) -> jax.Array:
    return jnp.concatenate([batch[name][key] for name in sets], axis=-4 if key == "image" else -3)


def _shares(divided: Batch, labels: str | None, sets: Sequence[str], parts: int) -> jax.Array:
    """float32 (parts,): which share of the pixels that a term is a mean over lies in each part."""
    if labels is None:
        return jnp.full(parts, 1 / parts, jnp.float32)
    counts = (_of_sets(divided, labels, sets) != UNLABELED).sum((1, 2, 3, 4)).astype(jnp.float32)
    return counts / jnp.maximum(counts.sum(), 1.0)


def _joined(rows: slice, others: slice) -> slice:
    return slice(min(rows.start, others.start), max(rows.stop, others.stop))


def _cut(arrays: Mapping[str, jax.Array], held: Mapping[str, slice], rows: slice) -> dict[str, jax.Array]:
    """Of arrays that hold the rows `held` of every group, those that hold all of `rows`, cut to them."""
    return {
        name: array[:, rows.start - held[name].start : rows.stop - held[name].start]
        for name, array in arrays.items()
        if held[name].start <= rows.start and rows.stop <= held[name].stop
    }
