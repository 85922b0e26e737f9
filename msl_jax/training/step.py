"""One pure train step for every method: forward pass, terms, gradient, update.

A batch comes from pipeline.batches: {"strong": {"image", "label", "weak_label"}, "weak": {"image", "weak_label"}}.
Augmented, its images are float32 (n, y, x, channels), its label maps int32 (n, y, x).
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from msl_jax.methods.deep_supervision import COARSER, level_weights, of_level, with_levels
from msl_jax.methods.guides import GIVEN, Asked
from msl_jax.methods.losses import PLAIN, Classes, safe_divisor
from msl_jax.methods.mixing import MIXES
from msl_jax.methods.table import Method, ramp
from msl_jax.methods.terms import TERMS
from msl_jax.system import machine
from msl_jax.training.averages import guides, moving_average, updated_guide
from msl_jax.training.state import TrainState

Batch = Mapping[str, Mapping[str, jax.Array]]
Augment = Callable[[Batch, jax.Array], Batch]
"""(batch of patches, PRNG key) -> batch to train on."""


def make_train_step(
    *,
    apply_fn: Callable,
    optimizer: optax.GradientTransformation,
    method: Method,
    devices: int,
    key: jax.Array,
    augment: Augment = lambda batch, key: batch,
    parts: int = 1,
    classes: Classes = PLAIN,
    average: float = 0.0,
    levels: int = 1,
) -> Callable[[TrainState, Batch], TrainState]:
    """Makes the train step of a method.

    Args:
      apply_fn: `apply` of a DualBranchUNet.
      optimizer: the optax optimizer.
      method: the terms, their images and their weights.
      devices: number of devices the batch is sharded over. Arrays have an axis of this length, so that sets are joined
        on their device; only gradients, batch norm statistics and sums of losses are exchanged.
      key: PRNG key of the stage; augmentation and dropout depend on it, the step number and the part number.
      augment: augmentation, run inside the step.
      parts: number of parts that the batch is processed in (gradient accumulation). Every term is still the mean over
        the whole batch's pixels (for cross-entropies, its labelled pixels), but batch norm and a Dice loss over the
        batch see one part at a time, so the update differs from that of the whole batch.
      classes: weights of the classes in a cross-entropy, and what label values mean.
      average: decay per step of the state's moving average; 0 for a state without one.
      levels: the network's levels of logits; each term with labels is the weighted mean over them.

    Returns:
      A pure function (state, batch) -> state, to be jitted. If the loss or its gradient is not finite, only the step
      number changes, and "steps" in the sums does not count the step.
    """

    def with_targets(guide, state, batch, key):
        """Adds the guide's targets to the sets that it runs on; arrays are (devices, n, ...)."""

        def predict(images, key, train=False, branches=("teacher",), *, variables):
            logits, _ = apply_fn(
                variables,
                {"images": images},
                trained=dict.fromkeys(branches, ("images",)),
                train=train,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            return {branch: logits[branch]["images"] for branch in branches}

        networks = [functools.partial(predict, variables=variables) for variables in guides(state)]
        trained = functools.partial(predict, variables=state.trained())
        progress = ramp(state.step, max(method.rampup.get(term, 0) for term in method.guided_terms()))
        given = {name: value for name in GIVEN if (value := getattr(method, name)) is not None}
        for number, name in enumerate(guide.sets):
            arrays = {**batch[name], "image": batch[name][guide.version]}
            own_key = jax.random.fold_in(key, number)
            asked = Asked(networks[0], arrays, own_key, progress, networks[1:], trained, classes.unions, **given)
            targets = guide.targets(asked)
            batch = {**batch, name: {**batch[name], **jax.lax.stop_gradient(targets)}}
        return batch

    def part_loss(params, batch_stats, part, shares, weights, key):
        """The loss of one part of the batch: the sum of its terms times their weights.

        Args:
          params: parameters of the network.
          batch_stats: its running statistics.
          part: set -> "image" or name of a label map -> array (devices, n, ...).
          shares: term -> for each of its levels of logits, finest first, the level's weight times this part's share of
            the divisor of the term's mean, so that the parts' terms add up to the batch's mean. With one level and one
            part it is 1 (0 if nothing is labelled).
          weights: term -> its weight at this step.
          key: PRNG key of the part, for dropout and terms.

        Returns:
          The loss; with it, for the report, the loss and every term before its weight, and the new statistics.
        """
        logits: dict[str, dict[str, jax.Array]] = {}
        views = method.views()
        # With batch norm apart: first strong, then weak images, with the running statistics that the strong ones left.
        forward_passes = method.forward_passes()
        for sets, dropout_key in zip(forward_passes, jax.random.split(key, len(forward_passes)), strict=True):
            outputs, updates = apply_fn(
                {"params": params, "batch_stats": batch_stats},
                {image_set: part[image_set]["image"] for image_set in sets},
                trained=_within(method.branches(), sets),
                watched=_within(method.watched(), sets),
                channel_dropout={name: views[name].channel_dropout for name in sets if name in views},
                feature_dropout=method.feature_dropout,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key},
            )
            batch_stats = updates.get("batch_stats", {})
            logits |= {branch: logits.get(branch, {}) | by_set for branch, by_set in outputs.items()}
        labels, terms_key = _by_name(part), jax.random.fold_in(key, len(forward_passes))
        terms = {}
        for term in method.terms:
            sets = method.sets_of(term)
            loss, predicted, maps, mean = TERMS[term].loss, join(logits, sets), join(labels, sets), method.mean_of(term)
            terms[term] = sum(
                share * loss(of_level(predicted, level), of_level(maps, level), mean, classes, terms_key)
                for level, share in enumerate(shares[term])
            )
        loss = sum(weights[term] * terms[term] for term in method.terms)
        return loss, ({"loss": loss, **terms}, batch_stats)

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        parts_key, guide_key, augment_key, mix_key = jax.random.split(jax.random.fold_in(key, state.step), 4)
        batch = in_groups(augment(batch, augment_key), devices)
        if method.guide:
            batch = with_targets(method.guide, state, batch, guide_key)
        views = {name: {**batch[v.of], "image": batch[v.of][v.version]} for name, v in method.views().items()}
        mixed = MIXES[method.mix].function({**batch, **views}, mix_key)
        leveled = {name: with_levels(arrays, levels, len(classes.unions)) for name, arrays in mixed.items()}
        divided = into_parts(leveled, parts)
        shares = {term: _shares(divided, method, term, parts, classes, levels) for term in method.terms}
        weights = {term: weight * ramp(state.step, method.rampup.get(term, 0)) for term, weight in method.terms.items()}

        def add_part(totals, item):
            batch_stats, sums = totals
            gradient, (values, batch_stats) = jax.grad(part_loss, has_aux=True)(
                state.params, batch_stats, item["part"], item["shares"], weights, item["key"]
            )
            return batch_stats, jax.tree.map(jnp.add, sums, (gradient, values))

        zeros = {value: jnp.zeros((), jnp.float32) for value in ("loss", *method.terms)}
        batch_stats, (gradient, values) = machine.accumulate(
            add_part,
            (state.batch_stats, (jax.tree.map(jnp.zeros_like, state.params), zeros)),
            {"part": divided, "shares": shares, "key": jax.random.split(parts_key, parts)},
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        new = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            sums=jax.tree.map(jnp.add, state.sums, {"steps": jnp.ones((), jnp.float32), **values}),
            guide=state.guide,
            average=state.average,
        )
        if method.ema_decay is not None:
            turns_key = jax.random.split(key)[1]  # not that of any step
            new = dataclasses.replace(new, guide=updated_guide(state, new, method, turns_key))
        if average:
            new = dataclasses.replace(new, average=moving_average(state.average, new, average))
        finite = jnp.isfinite(values["loss"]) & jnp.isfinite(optax.tree.norm(gradient))
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
        return dataclasses.replace(kept, step=new.step)

    return train_step


def in_groups(batch: Batch, devices: int) -> Batch:
    """Arrays (n, ...) sharded over devices -> (devices, n / devices, ...); no row changes its device."""
    return jax.tree.map(lambda a: a.reshape(devices, -1, *a.shape[1:]), batch)


def into_parts(batch: Batch, parts: int) -> Batch:
    """Arrays (devices, n, ...) -> (parts, devices, n / parts, ...)."""
    return jax.tree.map(lambda a: a.reshape(a.shape[0], parts, -1, *a.shape[2:]).swapaxes(0, 1), batch)


def join(arrays: Mapping[str, Mapping[str, jax.Array]], sets: Sequence[str]) -> dict[str, jax.Array]:
    """Concatenates the arrays of several sets along n.

    Args:
      arrays: branch, or name of a label map -> set -> array (devices, n, ...).
      sets: names of sets.

    Returns:
      Branch or name -> array (devices, n of all these sets, ...), for those that all of the sets have.
    """
    return {
        name: jnp.concatenate([by_set[image_set] for image_set in sets], axis=1)
        for name, by_set in arrays.items()
        if set(sets) <= by_set.keys()
    }


def _by_name(batch: Batch) -> dict[str, dict[str, jax.Array]]:
    """Set -> name -> array as name -> set -> array."""
    names = dict.fromkeys(name for arrays in batch.values() for name in arrays)
    return {name: {image_set: arrays[name] for image_set, arrays in batch.items() if name in arrays} for name in names}


def _within(sets_by_branch: Mapping[str, Sequence[str]], sets: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Branch -> its sets that are in `sets`."""
    return {branch: tuple(name for name in own if name in sets) for branch, own in sets_by_branch.items()}


def _shares(
    divided: Batch, method: Method, term: str, parts: int, classes: Classes, levels: int
) -> tuple[jax.Array, ...]:
    """For each level of a term float32 (parts,): the level's weight times each part's share of the mean's divisor."""
    row = TERMS[term]
    label_map, divisor_of = row.label_map, row.divisor
    if label_map is None or divisor_of is None:
        return (jnp.full(parts, 1 / parts, jnp.float32),)

    def share(level: int, weight: float) -> jax.Array:
        def divisor(part: Batch) -> jax.Array:
            labels = of_level(join(_by_name(part), method.sets_of(term)), level)[label_map]
            return divisor_of(labels, method.mean_of(term), classes)

        divisors = jax.vmap(divisor)(divided)
        return weight * divisors / safe_divisor(divisors.sum())

    weights = level_weights(levels if label_map in COARSER else 1)
    return tuple(share(level, weight) for level, weight in enumerate(weights))
