import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from msl_jax.experiments.opening import open_experiment
from msl_jax.models import released, unet
from msl_jax.models.dual_branch import NETWORKS, DualBranchUNet
from msl_jax.models.initial import init_variables
from msl_jax.settings.objects import model_of
from msl_jax.training.state import init_state
from msl_jax.training.step import make_train_step
from trees import paths, unequal

SIZES = {2: 18, 3: 44, 4: 92, 5: 188}
"""Depth -> the smallest side, derived by hand."""


def logits(model, size):
    images = dict.fromkeys(("one", "other"), jax.ShapeDtypeStruct((1, 1, *size, 1), jnp.float32))
    sets = {"teacher": ("one",), "student": ("one", "other")}
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, sets, train=False)[0], images)


@pytest.mark.parametrize(("depth", "smallest"), SIZES.items())
def test_the_smallest_image_and_larger_ones_work(depth, smallest):
    model = DualBranchUNet(width=2, depth=depth, network="released")
    assert f"give {smallest} or more" in released.wrong_size(smallest - 1, depth)
    for size in itertools.product((smallest, smallest + 7), repeat=2):
        assert not any(released.wrong_size(side, depth) for side in size)
        assert logits(model, size)["teacher"]["one"].shape == (1, 1, *size, 2)
    with pytest.raises((ValueError, ZeroDivisionError, TypeError)):
        logits(model, (smallest - 1, smallest))


def test_depth_1_is_invalid():
    assert "model.depth of at least 2" in released.wrong_size(64, 1)


@pytest.mark.parametrize(("old", "new"), [(5, 8), (9, 4), (6, 6)])
def test_resizing_is_linear_between_pixel_centres(old, new):
    """New pixel i samples at (i + 0.5) old / new - 0.5, clamped to the centres of the first and last pixel."""
    row = np.random.default_rng(0).uniform(size=old).astype(np.float32)
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    expected = np.interp(at, np.arange(old), row)
    resized = unet.resize(jnp.broadcast_to(row[None, None, :, None], (1, 3, old, 1)), (3, new))
    np.testing.assert_allclose(resized[0, :, :, 0], np.broadcast_to(expected, (3, new)), atol=1e-6)


def test_a_training_step_updates_it(tiny_config):
    config = tiny_config("method=kl_ent")
    config.model.name, config.model.depth, config.data.size = "released", 2, 18
    experiment = open_experiment(config)
    assert experiment.config.model.dropout == 0.5
    optimizer = optax.adam(1e-3)
    before = init_state(experiment.config, experiment.method, optimizer)
    model, key = model_of(experiment.config), jax.random.key(0)
    step = make_train_step(apply_fn=model.apply, optimizer=optimizer, method=experiment.method, devices=1, key=key)
    generator = np.random.default_rng(0)
    images = generator.uniform(size=(2, 18, 18, 1)).astype(np.float32)
    labels = generator.integers(0, 2, (2, 18, 18)).astype(np.int32)
    batch = {"image": images, "weak_label": labels}
    after = jax.jit(step)(before, {"strong": {**batch, "label": labels}, "weak": batch})
    changed = unequal((before.params, before.batch_stats), (after.params, after.batch_stats))
    everything = paths((before.params, before.batch_stats))
    biases = {path for path in everything if "['Conv_" in path and path.endswith("['bias']")}
    assert everything - changed <= biases  # batch norm cancels a preceding bias


def test_every_feature_map_matters():
    model = DualBranchUNet(width=8, depth=3, network="released")
    parts = NETWORKS["released"]
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 44, 44, 1)), jnp.float32)
    variables = init_variables(model, (44, 44), ("student",), seed=0)
    part = lambda name: {kind: variables[kind][name] for kind in variables}  # noqa: E731
    levels = jax.jit(lambda x: parts.encoder(8, 3).apply(part("encoder"), x, train=False))(images)
    decode = jax.jit(lambda levels: parts.decoder(2).apply(part("student"), levels, train=False))
    full = decode(levels)
    assert len(levels) == 3
    for i in range(len(levels)):
        without = [jnp.zeros_like(level) if j == i else level for j, level in enumerate(levels)]
        assert abs(decode(without) - full).max() > 1e-3
