from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msl_jax.models.dual_branch import DualBranchUNet
from msl_jax.models.initial import init_variables
from msl_jax.models.unet import NORMS, Block, Decoder, Encoder, Upsample, max_pool

KEY = jax.random.key(0)


def normal(shape, seed=0):
    return jnp.array(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_encoder_halves_the_plane_and_doubles_the_channels():
    encoder = Encoder(width=3, depth=4)
    levels = jax.eval_shape(lambda x: encoder.init_with_output(KEY, x, False)[0], jnp.zeros((2, 16, 32, 1)))
    assert [level.shape for level in levels] == [(2, 16, 32, 3), (2, 8, 16, 6), (2, 4, 8, 12), (2, 2, 4, 24)]


def test_upsample_is_a_transposed_convolution():
    """Its kernel (c, 2, 2, features) is that of nn.ConvTranspose (2, 2, c, features), flipped along both axes.

    lax.conv_transpose does not flip the kernel.
    """
    x = normal((2, 3, 5, 4))
    params = Upsample(6).init(KEY, x)["params"]
    kernel, bias = normal(params["DenseGeneral_0"]["kernel"].shape, 1), normal(params["bias"].shape, 2)
    assert kernel.shape == (4, 2, 2, 6)
    ours = Upsample(6).apply({"params": {"DenseGeneral_0": {"kernel": kernel}, "bias": bias}}, x)
    theirs = nn.ConvTranspose(6, (2, 2), strides=(2, 2)).apply(
        {"params": {"kernel": kernel.transpose(1, 2, 0, 3)[::-1, ::-1], "bias": bias}}, x
    )
    assert ours.shape == (2, 6, 10, 6)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_upsample_closed_form():
    """A pixel of value 2 becomes twice the kernel at its place, plus a bias of 1 everywhere."""
    kernel = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    params = {"DenseGeneral_0": {"kernel": kernel}, "bias": jnp.ones(1)}
    x = jnp.zeros((1, 2, 2, 1)).at[0, 1, 0, 0].set(2.0)
    expected = np.ones((4, 4))
    expected[2:, :2] = [[3, 5], [7, 9]]
    np.testing.assert_array_equal(Upsample(1).apply({"params": params}, x)[0, ..., 0], expected)


def test_block_uses_batch_statistics_in_training_only():
    x = 3 + 5 * normal((4, 8, 8, 2))
    variables = Block(3).init(KEY, x, False)
    _, updates = Block(3).apply(variables, x, True, mutable=["batch_stats"])
    first = updates["batch_stats"]["BatchNorm_0"]
    conv = nn.Conv(3, (3, 3), use_bias=False).apply({"params": variables["params"]["Conv_0"]}, x)
    mean, var = conv.mean((0, 1, 2)), conv.var((0, 1, 2))
    share = (first["mean"] * mean).sum() / (mean * mean).sum()  # of this batch in the running statistics
    assert 0.01 < share < 0.5
    np.testing.assert_allclose(first["mean"], share * mean, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(first["var"], 1 - share + share * var, rtol=1e-3)
    alone = Block(3).apply(variables, x[:1], False)
    np.testing.assert_allclose(Block(3).apply(variables, x, False)[:1], alone, atol=1e-5)


class Instance(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return NORMS["instance"](jnp.float32)(x, train)


def test_instance_norm_closed_form():
    """Two images of one channel: values 1 and 3, and 10 and 30; each becomes -1 and 1, here times 2 plus 5."""
    x = jnp.array([1.0, 3.0, 10.0, 30.0]).reshape(2, 2, 1, 1)
    params = {"InstanceNorm_0": {"scale": jnp.array([2.0]), "bias": jnp.array([5.0])}}
    for train in (True, False):
        y = Instance().apply({"params": params}, x, train)
        np.testing.assert_allclose(y.ravel(), [3, 7, 3, 7], rtol=1e-4)


def test_with_instance_norm_no_image_changes_the_logits_of_another():
    model = DualBranchUNet(width=2, depth=2, norm="instance")
    variables = init_variables(model, (16, 16), ("teacher",), seed=0)
    assert variables["batch_stats"] == {}

    def logits(images):
        outputs = model.apply(variables, {"all": images}, {"teacher": ("all",)}, train=True, mutable=["batch_stats"])
        return outputs[0]["teacher"]["all"]

    images = normal((1, 3, 16, 16, 1))
    changed = logits(images.at[:, 1].multiply(-5.0))
    np.testing.assert_allclose(changed[:, ::2], logits(images)[:, ::2], rtol=1e-5, atol=1e-5)
    assert not np.allclose(changed[:, 1], logits(images)[:, 1])


def test_decoder_depends_on_every_level():
    levels = [normal((1, 16 // 2**level, 16 // 2**level, 4 * 2**level), level) for level in range(3)]
    decoder = Decoder(classes=2)
    variables = decoder.init(KEY, levels, False)
    out = decoder.apply(variables, levels, False)
    assert out.shape == (1, 16, 16, 2)
    gradients = jax.grad(lambda levels: (decoder.apply(variables, levels, False) * normal(out.shape, 9)).sum())(levels)
    for gradient in gradients:
        assert (jnp.abs(gradient).max((0, 1, 2)) > 0).mean() > 0.5


@pytest.mark.parametrize("module", [lambda dtype: Encoder(2, 2, dtype=dtype), lambda dtype: Block(2, dtype)])
def test_bfloat16_applies_to_the_computation_only(module):
    x = jnp.zeros((1, 8, 8, 1), jnp.bfloat16)
    out, variables = jax.eval_shape(lambda x: module(jnp.bfloat16).init_with_output(KEY, x, True), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype("bfloat16")}


def test_dropout_acts_on_the_coarsest_level_in_training_only():
    x = normal((2, 8, 8, 1))
    encoder = Encoder(4, 2, dropout=0.5)
    variables = encoder.init(KEY, x, False)

    def run(train, key):
        return encoder.apply(variables, x, train, rngs={"dropout": key}, mutable=["batch_stats"])[0]

    one, other = (run(True, jax.random.key(k)) for k in (1, 2))
    np.testing.assert_array_equal(one[0], other[0])
    assert (one[1] != other[1]).any()
    for a, b in zip(run(False, jax.random.key(1)), run(False, jax.random.key(2)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_max_pool_and_its_gradient_after_a_relu_equal_those_of_flax():
    x, g = jax.random.normal(jax.random.key(0), (2, 6, 8, 3)), jax.random.normal(jax.random.key(1), (2, 3, 4, 3))
    ours, pull = jax.vjp(lambda x: max_pool(nn.relu(x)), x)
    plain, pull_plain = jax.vjp(lambda x: nn.max_pool(nn.relu(x), (2, 2), (2, 2)), x)
    np.testing.assert_array_equal(ours, plain)
    np.testing.assert_array_equal(pull(g)[0], pull_plain(g)[0])


def test_the_gradient_does_not_depend_on_how_xla_rounds_recomputed_values():
    """Without optimisations XLA recomputes features with different rounding than in the forward pass."""
    encoder, x = Encoder(width=2, depth=2), jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
    variables = encoder.init(jax.random.key(1), x, train=False)

    def loss(params):
        levels, _ = encoder.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sin(levels[-1]).sum()

    plain, optimised = (
        jax.jit(jax.grad(loss), compiler_options={"xla_backend_optimization_level": level})(variables["params"])
        for level in ("0", "3")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), plain, optimised)
