"""What guides make, of networks simple enough to follow by hand."""

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
    """Logits 0 and the image."""
    return jnp.concatenate([jnp.zeros_like(images), images], -1)


def undecided_in_training(images, key, train):
    """Sure of class 1; in training as sure of either, by a coin for every image."""
    sure = 20.0 * jnp.concatenate([-jnp.ones_like(images), jnp.ones_like(images)], -1)
    coin = jax.random.rademacher(key, (*images.shape[:2], 1, 1, 1), jnp.float32)
    return sure * coin if train else sure


@pytest.mark.parametrize("guide", [AVERAGE, CERTAIN_AVERAGE, PROPOSALS])
def test_they_make_what_they_say_one_for_every_pixel(guide):
    made = guide.targets(two_classes, IMAGES, KEY, RAMP, 0.1, 4)
    assert tuple(made) == guide.makes
    for array in made.values():
        assert array.shape[:4] == IMAGES.shape[:4]


def test_an_average_gives_its_probabilities_and_is_certain_everywhere():
    made = AVERAGE.targets(two_classes, IMAGES, KEY, RAMP, 0.0, None)
    np.testing.assert_allclose(made["target"][..., 1:], jax.nn.sigmoid(IMAGES), rtol=1e-6)
    assert not made["certain"].any()


def test_noise_is_bounded_by_two_deviations_and_a_function_of_the_key():
    def moved(key):
        target = AVERAGE.targets(two_classes, IMAGES, key, RAMP, 0.1, None)["target"][..., 1:]
        return jnp.log(target) - jnp.log1p(-target) - IMAGES

    difference = moved(KEY)
    assert 0.05 < float(jnp.abs(difference).max()) <= 0.2 + 1e-5
    np.testing.assert_array_equal(difference, moved(KEY))
    assert not np.array_equal(difference, moved(jax.random.key(1)))


def test_who_changes_his_mind_is_uncertain():
    """16 coins are as good as never all equal, and rarely near even enough to pass for log 2."""
    made = CERTAIN_AVERAGE.targets(undecided_in_training, IMAGES, KEY, jnp.float32(math.exp(-5)), 0.0, 16)
    uncertain = made["certain"] == UNLABELED
    assert uncertain.any() and set(np.unique(made["certain"])) <= {0, UNLABELED}
    np.testing.assert_allclose(made["target"][..., 1], 1.0, rtol=1e-6)


@pytest.mark.parametrize(("ramp", "certain"), [(0.0, False), (1.0, True)])
def test_the_threshold_rises_from_three_quarters_of_the_greatest_entropy_to_all_of_it(ramp, certain):
    """Entropy of (0.3, 0.7) is 0.88 of log 2."""

    def rather_sure(images, key, train):
        return jnp.broadcast_to(jnp.log(jnp.array([0.3, 0.7])).reshape(1, 1, 1, 1, 2), (*images.shape[:4], 2))

    made = CERTAIN_AVERAGE.targets(rather_sure, IMAGES, KEY, jnp.float32(ramp), 0.0, 3)
    assert (made["certain"] == (0 if certain else UNLABELED)).all()


def test_proposals_are_the_likeliest_class():
    made = PROPOSALS.targets(two_classes, IMAGES, KEY, RAMP, None, None)["proposal"]
    assert made.dtype == jnp.int32
    np.testing.assert_array_equal(made, IMAGES[..., 0] > 0)
