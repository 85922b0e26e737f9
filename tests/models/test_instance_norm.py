from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from msl_jax.models.dual_branch import DualBranchUNet
from msl_jax.models.initial import init_variables
from msl_jax.models.instance_norm import InstanceNorm


def normal(*shape, seed=0):
    return jnp.array(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_closed_form():
    """Two images of one channel: values 1 and 3, and 10 and 30; each becomes -1 and 1, here times 2 plus 5."""
    x = jnp.array([1.0, 3.0, 10.0, 30.0]).reshape(2, 2, 1, 1)
    variables = {"params": {"scale": jnp.array([2.0]), "bias": jnp.array([5.0])}}
    for train in (True, False):
        y = InstanceNorm(epsilon=0.0).apply(variables, x, train)
        np.testing.assert_allclose(y.ravel(), [3, 7, 3, 7], rtol=1e-6)


def test_values_and_gradients_equal_flax():
    x, weights = 2 + 3 * normal(4, 6, 10, 5), normal(4, 6, 10, 5, seed=1)
    params = {"scale": 1 + 0.3 * normal(5, seed=2), "bias": normal(5, seed=3)}

    def outcome(apply):
        return jax.value_and_grad(lambda params, x: (weights * apply({"params": params}, x)).sum(), (0, 1))(params, x)

    ours = outcome(lambda variables, x: InstanceNorm().apply(variables, x, True))
    theirs = outcome(nn.InstanceNorm(epsilon=1e-5).apply)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_no_image_changes_the_logits_of_another():
    model = DualBranchUNet(width=2, depth=2, norm="instance")
    variables = init_variables(model, (16, 16), ("teacher",), seed=0)
    assert variables["batch_stats"] == {}

    def logits(images):
        outputs = model.apply(variables, {"all": images}, {"teacher": ("all",)}, train=True, mutable=["batch_stats"])
        return outputs[0]["teacher"]["all"]

    images = normal(1, 3, 16, 16, 1)
    changed = logits(images.at[:, 1].multiply(-5.0))
    np.testing.assert_allclose(changed[:, ::2], logits(images)[:, ::2], rtol=1e-5, atol=1e-5)
    assert not np.allclose(changed[:, 1], logits(images)[:, 1])
