import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from msl_jax.experiments.opening import open_experiment
from msl_jax.models.initial import init_variables
from msl_jax.settings.objects import model_of
from msl_jax.settings.optimizer import kernels, make_optimizer, make_schedule


def test_schedule_falls_from_the_rate_to_0(tiny_config):
    config = tiny_config()
    config.optimizer.learning_rate, config.train.steps = 0.5, 10
    schedule = make_schedule(config)
    assert [float(schedule(step)) for step in (0, 5, 10)] == pytest.approx([0.5, 0.25, 0])
    assert 0 < schedule(9) < 0.5 * (1 - math.cos(math.pi / 10)) / 2 + 1e-6


def test_schedule_warms_up_if_set(tiny_config):
    config = tiny_config()
    config.optimizer.learning_rate, config.optimizer.warmup_steps, config.train.steps = 0.5, 4, 10
    schedule = make_schedule(config)
    assert [float(schedule(step)) for step in (0, 1, 4, 7, 10)] == pytest.approx([0, 0.125, 0.5, 0.25, 0])


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        (0, {0: 0.5, 2: 0.5 * 0.8**0.9, 9: 0.5 * 0.1**0.9, 10: 0.0}),
        (4, {0: 0.0, 1: 0.125, 4: 0.5, 7: 0.5**1.9, 10: 0.0}),
    ],
)
def test_polynomial_schedule(tiny_config, warmup, expected):
    """The rate times (1 - t)^0.9, where t runs from the end of the warm-up to the last step."""
    config = tiny_config()
    config.optimizer.learning_rate, config.optimizer.warmup_steps, config.train.steps = 0.5, warmup, 10
    config.optimizer.schedule = "polynomial"
    schedule = make_schedule(config)
    assert {step: float(schedule(step)) for step in expected} == pytest.approx(expected)


def steps(config, params, gradients):
    """The parameters after each step with these gradients, as floats."""
    optimizer = make_optimizer(config)
    state, after = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        after.append({name: float(value[0]) for name, value in params.items()})
    return after


def test_two_steps_of_adamw_by_hand(tiny_config):
    """With a constant gradient of 3, Adam's direction is 1; the kernel also loses half of itself times the rate."""
    config = tiny_config()
    config.optimizer.learning_rate, config.optimizer.weight_decay, config.train.steps = 0.1, 0.5, 2
    params = {"kernel": jnp.array([2.0]), "bias": jnp.array([2.0]), "scale": jnp.array([2.0])}
    gradient = jax.tree.map(lambda x: 0 * x + 3, params)
    first, second = steps(config, params, [gradient, gradient])
    assert first == pytest.approx({"kernel": 2 - 0.1 * (1 + 0.5 * 2), "bias": 1.9, "scale": 1.9}, rel=1e-5)
    rate = 0.05  # cosine: half of the rate, halfway
    assert second == pytest.approx({"kernel": 1.8 - rate * (1 + 0.5 * 1.8), "bias": 1.85, "scale": 1.85}, rel=1e-5)


def test_the_gradient_is_clipped_to_the_norm(tiny_config):
    """A gradient of norm 5 is divided by 5 at a limit of 1, one of norm 0.5 stays.

    Adam's second direction is (0.09 a + 0.1 b) / 0.19 over sqrt((0.000999 a^2 + 0.001 b^2) / 0.001999), for gradients a
    and b.
    """
    config = tiny_config()
    config.optimizer.learning_rate, config.optimizer.clip_norm, config.train.steps = 1.0, 1.0, 1000
    params = {"kernel": jnp.array([0.0]), "bias": jnp.array([0.0])}
    gradients = [{"kernel": jnp.array([3 * s]), "bias": jnp.array([4 * s])} for s in (1.0, 0.1)]
    first, second = steps(config, params, gradients)
    a, b = 0.6, 0.3
    direction = ((0.09 * a + 0.1 * b) / 0.19) / math.sqrt((0.000999 * a**2 + 0.001 * b**2) / 0.001999)
    assert first["kernel"] - second["kernel"] == pytest.approx(direction, rel=1e-4)
    config.optimizer.clip_norm = 0.0
    first, second = steps(config, params, gradients)
    assert first["kernel"] - second["kernel"] != pytest.approx(direction, rel=1e-2)


def test_kernels_are_the_arrays_that_decay(tiny_config):
    """Those with more than one axis: every convolution's and every upsampling's; no bias and no scale."""
    config = open_experiment(tiny_config()).config
    params = init_variables(model_of(config).clone(depth=2), (8, 8), ("teacher",), seed=0)["params"]
    assert kernels(params) == jax.tree.map(lambda x: x.ndim > 1, params)


def test_the_default_state_is_that_of_older_runs(tiny_config):
    """Adam's moments and two counters: no decay, no clipping."""
    params = {"kernel": jnp.ones((2, 2))}
    state, adam = make_optimizer(tiny_config()).init(params), optax.adam(optax.constant_schedule(1.0)).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(adam)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(adam), strict=True):
        np.testing.assert_array_equal(a, b)
