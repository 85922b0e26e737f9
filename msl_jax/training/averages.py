"""Moving averages of the trained network: for evaluation, and as guides, one or two that are updated in turn."""

from typing import Any

import jax
import jax.numpy as jnp

from msl_jax.methods.table import Method
from msl_jax.training.state import TrainState

PERIOD = 50
"""The longest time in steps for which one of two averages is updated."""


def guides(state: TrainState) -> tuple[Any, ...]:
    """The variables of the guide's networks; those of the trained network if the state has no other."""
    if state.guide is None:
        return (state.trained(),)
    return state.guide if isinstance(state.guide, tuple) else (state.guide,)


def updated_guide(state: TrainState, new: TrainState, method: Method, key: jax.Array) -> Any:
    """The guide after a step from `state` to `new`, of a method whose guide is one moving average or several."""
    assert method.ema_decay is not None
    if not isinstance(state.guide, tuple):
        return moving_average(state.guide, new, method.ema_decay)
    return tuple(
        jax.tree.map(
            lambda updated, old, in_turn=in_turn: jnp.where(in_turn, updated, old),
            moving_average(variables, new, method.ema_decay),
            variables,
        )
        for variables, in_turn in zip(state.guide, in_turn_at(state.step, key), strict=True)
    )


def in_turn_at(step: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which of two averages are updated after a step, as in AD-MT (Zhao et al., ECCV 2024).

    Each is in turn for at random 1 to PERIOD - 1 steps; both are during the first PERIOD, so that neither starts with
    the network's initial values.

    Args:
      step: int32 scalar, steps done.
      key: PRNG key of the stage, the same in every step.

    Returns:
      Two bool scalars.
    """
    window, position = step // PERIOD, step % PERIOD
    change = jax.random.randint(jax.random.fold_in(key, window), (), 1, PERIOD)
    return (window == 0) | (position < change), (window == 0) | (position >= change)


def moving_average(variables: Any, state: TrainState, decay: float) -> Any:
    """Averaged variables after a step: the mean of the networks of the first steps, then a moving average."""
    share = jnp.minimum(1 - 1 / state.step.astype(jnp.float32), decay)
    return jax.tree.map(lambda old, new: share * old + (1 - share) * new, variables, state.trained())
