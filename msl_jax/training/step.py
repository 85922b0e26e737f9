"""One pure train step for every method: forward pass, terms, gradient, update.

A batch is what pipeline.batches yields, {"strong": {"image", "label", "weak_label"}, "weak": {"image", "weak_label"}}:
float32 images (n, y, x, 1), int32 label maps (n, y, x).
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from msl_jax.methods.losses import safe_divisor
from msl_jax.methods.table import Method, ramp
from msl_jax.methods.terms import SETS, TERMS
from msl_jax.system import machine
from msl_jax.training.state import TrainState

Batch = Mapping[str, Mapping[str, jax.Array]]


def make_train_step(
    *,
    apply_fn: Callable,
    optimizer: optax.GradientTransformation,
    method: Method,
    groups: int,
    key: jax.Array,
    parts: int = 1,
    class_weights: Sequence[float] = (),
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
      class_weights: of every class in a cross-entropy, background first; none for 1 each.

    Returns:
      A pure function (state, batch) -> state, to be jitted. Batches are those of pipeline.batches. Where the loss or
      its gradient is not finite nothing changes but the step's number, and "steps" of the sums does not count it.
    """

    def part_loss(params, batch_stats, part, shares, weights, key):
        spans = rows_of_sets({name: part[name]["image"].shape[1] for name in method.sets()})
        rows = {branch: spans[sets] for branch, sets in method.branches().items()}
        watched = {branch: spans[sets] for branch, sets in method.watched().items()}
        seen = {branch: _joined(rows[branch], watched.get(branch, rows[branch])) for branch in rows}
        holders = _holders(part, method.sets())
        arrays = {name: _of_sets(part, name, sets) for name, sets in holders.items()}
        labelled = {name: spans[sets] for name, sets in holders.items()}
        passed = []
        passes = method.forward_passes()
        for sets, dropout_key in zip(passes, jax.random.split(key, len(passes)), strict=True):
            logits, updates = apply_fn(
                {"params": params, "batch_stats": batch_stats},
                arrays["image"][:, spans[sets]],
                _within(rows, spans[sets]),
                train=True,
                watched=_within(watched, spans[sets]),
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key},
            )
            batch_stats = updates["batch_stats"]
            passed.append(logits)
        logits = {branch: jnp.concatenate([p[branch] for p in passed if branch in p], axis=1) for branch in rows}
        terms = {}
        for name in method.terms:
            wanted = spans[method.images(name)]
            cut = _cut(logits, seen, wanted), _cut(arrays, labelled, wanted)
            terms[name] = shares[name] * TERMS[name].loss(*cut, method.mean(name), class_weights)
        loss = sum(weights[name] * terms[name] for name in method.terms)
        return loss, ({"loss": loss, **terms}, batch_stats)

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        step_key, guide_key = jax.random.split(jax.random.fold_in(key, state.step))
        if method.guide:
            batch = batch | {"weak": batch["weak"] | guided(state, batch["weak"]["image"], guide_key)}
        divided = split(batch, groups, parts)
        shares = {name: _shares(divided, method, name, parts, class_weights) for name in method.terms}
        weights = {name: weight * ramp(state.step, method.rampup.get(name, 0)) for name, weight in method.terms.items()}

        def add_part(carry, part):
            batch_stats, sums = carry
            gradient, (values, batch_stats) = jax.grad(part_loss, has_aux=True)(
                state.params, batch_stats, part["batch"], part["shares"], weights, part["key"]
            )
            return batch_stats, jax.tree.map(jnp.add, sums, (gradient, values))

        zeros = {name: jnp.zeros((), jnp.float32) for name in ("loss", *method.terms)}
        batch_stats, (gradient, values) = machine.fold(
            add_part,
            (state.batch_stats, (jax.tree.map(jnp.zeros_like, state.params), zeros)),
            {"batch": divided, "shares": shares, "key": jax.random.split(step_key, parts)},
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        after = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            sums=jax.tree.map(jnp.add, state.sums, {"steps": jnp.ones((), jnp.float32), **values}),
            guide=state.guide,
        )
        if method.ema_decay is not None:
            decay = jnp.minimum(1 - 1 / after.step.astype(jnp.float32), method.ema_decay)
            average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.guide, after.network())
            after = after.replace(guide=average)
        finite = jnp.isfinite(values["loss"]) & jnp.isfinite(optax.tree.norm(gradient))
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state).replace(step=after.step)

    def guided(state, images, key):
        """What the guide makes for all weak images: name -> array (n, ...)."""

        def ask(images, key, train):
            logits, _ = apply_fn(
                state.guide,
                images,
                {"teacher": slice(None)},
                train=train,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            return logits["teacher"]

        progress = ramp(state.step, max(method.rampup.get(term, 0) for term in method.guided()))
        images = images.reshape(groups, -1, *images.shape[1:])
        made = method.guide.targets(ask, images, key, progress, method.noise, method.passes)
        return jax.tree.map(lambda a: jax.lax.stop_gradient(a).reshape(-1, *a.shape[2:]), made)

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


def _holders(part: Batch, sets: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Name of an array -> the sets whose images it is held for."""
    names = dict.fromkeys(name for held in sets for name in part[held])
    return {name: tuple(held for held in sets if name in part[held]) for name in names}


def _of_sets(part: Batch, name: str, sets: Sequence[str]) -> jax.Array:
    """One array of these sets of one part, (groups, n, ...) each, joined along n."""
    return jnp.concatenate([part[held][name] for held in sets], axis=1)


def _shares(divided: Batch, method: Method, term: str, parts: int, class_weights: Sequence[float]) -> jax.Array:
    """float32 (parts,): which share of what a term is a mean over lies in each part."""
    name = TERMS[term].labels
    if name is None:
        return jnp.full(parts, 1 / parts, jnp.float32)

    def divisor(part: Batch) -> jax.Array:
        labels = _of_sets(part, name, method.images(term))
        return TERMS[term].divisor(labels, method.mean(term), class_weights)

    divisors = jax.vmap(divisor)(divided)
    return divisors / safe_divisor(divisors.sum())


def _joined(rows: slice, others: slice) -> slice:
    return slice(min(rows.start, others.start), max(rows.stop, others.stop))


def _within(rows: Mapping[str, slice], of: slice) -> dict[str, slice]:
    """What lies in `of` of every branch's rows, counted from its beginning; a branch without any is left out."""
    cut = {branch: (max(r.start, of.start) - of.start, min(r.stop, of.stop) - of.start) for branch, r in rows.items()}
    return {branch: slice(start, stop) for branch, (start, stop) in cut.items() if start < stop}


def _cut(arrays: Mapping[str, jax.Array], held: Mapping[str, slice], rows: slice) -> dict[str, jax.Array]:
    """Of arrays that hold the rows `held` of every group, those that hold all of `rows`, cut to them."""
    return {
        name: array[:, rows.start - held[name].start : rows.stop - held[name].start]
        for name, array in arrays.items()
        if held[name].start <= rows.start and rows.stop <= held[name].stop
    }
