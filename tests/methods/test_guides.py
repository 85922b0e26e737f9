"""Guides' targets, from networks simple enough for closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msl_jax.labels import UNLABELED
from msl_jax.methods.guides import AVERAGE, CERTAIN_AVERAGE, PROPOSALS

IMAGES = jnp.linspace(-1.0, 1.0, 24).reshape(2, 3, 2, 2, 1)
"""Two groups of three images."""
KEY, RAMP = jax.random.key(0), jnp.float32(1.0)


def two_classes(images, key, train):
    """Logits: 0 and the image."""
    return jnp.concatenate([jnp.zeros_like(images), images], -1)


def random_in_training(images, key, train):
    """Class 1 with full confidence; in training a random class per image."""
    logits = 20.0 * jnp.concatenate([-jnp.ones_like(images), jnp.ones_like(images)], -1)
    sign = jax.random.rademacher(key, (*images.shape[:2], 1, 1, 1), jnp.float32)
    return logits * sign if train else logits


@pytest.mark.parametrize("guide", [AVERAGE, CERTAIN_AVERAGE, PROPOSALS])
def test_names_and_shapes_of_targets(guide):
    targets = guide.targets(two_classes, IMAGES, KEY, RAMP, 0.1, 4)
    assert tuple(targets) == guide.target_names
    for array in targets.values():
        assert array.shape[:4] == IMAGES.shape[:4]


def test_an_average_gives_its_probabilities_and_is_certain_everywhere():
    targets = AVERAGE.targets(two_classes, IMAGES, KEY, RAMP, 0.0, None)
    np.testing.assert_allclose(targets["target"][..., 1:], jax.nn.sigmoid(IMAGES), rtol=1e-6)
    assert not targets["certain"].any()


def test_noise_is_bounded_by_two_deviations_and_a_function_of_the_key():
    def noise(key):
        target = AVERAGE.targets(two_classes, IMAGES, key, RAMP, 0.1, None)["target"][..., 1:]
        return jnp.log(target) - jnp.log1p(-target) - IMAGES

    assert 0.05 < float(jnp.abs(noise(KEY)).max()) <= 0.2 + 1e-5
    np.testing.assert_array_equal(noise(KEY), noise(KEY))
    assert not np.array_equal(noise(KEY), noise(jax.random.key(1)))


def test_varying_predictions_are_uncertain():
    """16 random signs are almost never all equal, and rarely balanced enough for an entropy of log 2."""
    targets = CERTAIN_AVERAGE.targets(random_in_training, IMAGES, KEY, jnp.float32(math.exp(-5)), 0.0, 16)
    uncertain = targets["certain"] == UNLABELED
    assert uncertain.any() and set(np.unique(targets["certain"])) <= {0, UNLABELED}
    np.testing.assert_allclose(targets["target"][..., 1], 1.0, rtol=1e-6)


@pytest.mark.parametrize(("ramp", "certain"), [(0.0, False), (1.0, True)])
def test_the_threshold_rises_from_three_quarters_of_the_largest_entropy_to_all_of_it(ramp, certain):
    """The entropy of (0.3, 0.7) is 0.88 log 2."""

    def constant(images, key, train):
        return jnp.broadcast_to(jnp.log(jnp.array([0.3, 0.7])).reshape(1, 1, 1, 1, 2), (*images.shape[:4], 2))

    targets = CERTAIN_AVERAGE.targets(constant, IMAGES, KEY, jnp.float32(ramp), 0.0, 3)
    assert (targets["certain"] == (0 if certain else UNLABELED)).all()


def test_proposals_are_the_most_probable_class():
    proposal = PROPOSALS.targets(two_classes, IMAGES, KEY, RAMP, None, None)["proposal"]
    assert proposal.dtype == jnp.int32
    np.testing.assert_array_equal(proposal, IMAGES[..., 0] > 0)
