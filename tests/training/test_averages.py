"""Two moving averages that are updated in turn."""

import jax
import jax.numpy as jnp
import numpy as np

from msl_jax.training.averages import PERIOD, in_turn_at, moving_average
from msl_jax.training.state import TrainState


def turns(steps, seed=0):
    """bool (steps, 2): which averages are updated after each step."""
    return np.array(jax.vmap(lambda step: in_turn_at(step, jax.random.key(seed)))(jnp.arange(steps))).T


def test_after_the_first_period_exactly_one_average_is_in_turn():
    found = turns(20 * PERIOD)
    assert found[:PERIOD].all() and (found[PERIOD:].sum(1) == 1).all()
    assert not np.array_equal(found, turns(20 * PERIOD, seed=1))


def test_in_each_period_both_are_in_turn_once_for_a_random_time():
    periods = turns(40 * PERIOD)[PERIOD:].reshape(-1, PERIOD, 2)
    lengths = periods.sum(1)
    assert (lengths > 0).all() and len(set(lengths[:, 0].tolist())) > 10
    for first, _ in periods.swapaxes(1, 2):
        assert (np.diff(first.astype(int)) != 0).sum() == 1 and first[0]


def test_a_moving_average_is_the_mean_of_the_first_steps():
    """Of 1, 2 and 3 it is 2; then it keeps 0.75 of itself."""
    average = {"params": jnp.float32(7), "batch_stats": {}}
    for step, value, expected in ((1, 1.0, 1.0), (2, 2.0, 1.5), (3, 3.0, 2.0), (100, 6.0, 3.0)):
        state = TrainState(jnp.int32(step), jnp.float32(value), {}, None, {})
        average = moving_average(average, state, 0.75)
        np.testing.assert_allclose(average["params"], expected, rtol=1e-6)
