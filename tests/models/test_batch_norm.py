from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msl_jax.models.batch_norm import BatchNorm, channel_mean, spread


def normal(shape, seed=0):
    return jnp.array(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture
def variables():
    return {
        "params": {"scale": 1 + 0.3 * normal((5,), 1), "bias": normal((5,), 2)},
        "batch_stats": {"mean": normal((5,), 3), "var": 1 + normal((5,), 4) ** 2},
    }


@pytest.mark.parametrize("train", [True, False])
def test_values_gradients_and_statistics_equal_flax(variables, train):
    x, weights = 2 + 3 * normal((4, 6, 10, 5)), normal((4, 6, 10, 5), 5)

    def outcome(apply):
        def loss(params, x):
            y, updates = apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return (weights * y).sum(), (y, updates)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)

    ours = outcome(lambda v, x, **options: BatchNorm().apply(v, x, train, **options))
    theirs = outcome(nn.BatchNorm(use_running_average=not train, momentum=0.95).apply)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_closed_form():
    """Channel values 1 and 3: mean 2, variance 1, so -1 and 1, here times 2 plus 5."""
    x = jnp.array([1.0, 3.0]).reshape(1, 2, 1, 1)
    variables = {
        "params": {"scale": jnp.array([2.0]), "bias": jnp.array([5.0])},
        "batch_stats": {"mean": jnp.array([10.0]), "var": jnp.array([4.0])},
    }
    y, updates = BatchNorm(momentum=0.5, epsilon=0.0).apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.ravel(), [3, 7], rtol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], [6.0])
    np.testing.assert_allclose(updates["batch_stats"]["var"], [2.5])


def test_initial_values_equal_flax():
    x = normal((2, 4, 4, 3))
    ours = BatchNorm().init(jax.random.key(0), x, True)
    theirs = nn.BatchNorm(use_running_average=False).init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_in_bfloat16_statistics_are_float32():
    x = (100 + normal((4, 16, 16, 2))).astype(jnp.bfloat16)
    variables = BatchNorm().init(jax.random.key(0), x, True)
    y, updates = BatchNorm(dtype=jnp.bfloat16).apply(variables, x, True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updates))} == {jnp.dtype("float32")}
    expected = 0.05 * np.asarray(x, np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(updates["batch_stats"]["mean"], expected, rtol=1e-5)


def test_spread_is_the_transpose_of_summing():
    x, values = normal((2, 3, 4, 5)), normal((5,), 1)
    np.testing.assert_array_equal(spread(values, x.shape), np.broadcast_to(values, x.shape))
    np.testing.assert_allclose(channel_mean(x), np.asarray(x).mean((0, 1, 2)), rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda v: (x * spread(v, x.shape)).sum())(values)
    np.testing.assert_allclose(gradient, np.asarray(x).sum((0, 1, 2)), rtol=1e-5, atol=1e-5)
