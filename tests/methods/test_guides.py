"""Guides' targets, from networks simple enough for closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msl_jax.labels import UNLABELED
from msl_jax.methods.guides import (
    AVERAGE,
    CERTAIN_AVERAGE,
    CLEANED,
    CONFIDENT,
    ENSEMBLE,
    PROPOSALS,
    RELIABLE,
    Asked,
    overridden,
)

IMAGES = jnp.linspace(-1.0, 1.0, 24).reshape(2, 3, 2, 2, 1)
"""Two groups of three images."""
KEY = jax.random.key(0)
NOTHING = jnp.full((2, 3, 2, 2), UNLABELED, jnp.int32)


def asked(predict, key=KEY, progress=1.0, weak_label=None, **settings):
    return Asked(predict, {"image": IMAGES, "weak_label": weak_label}, key, jnp.float32(progress), **settings)


def two_classes(images, key, train=False, branches=("teacher",)):
    """Logits: 0 and the image."""
    return {branch: jnp.concatenate([jnp.zeros_like(images), images], -1) for branch in branches}


def random_in_training(images, key, train=False):
    """Class 1 with full confidence; in training a random class per image."""
    logits = 20.0 * jnp.concatenate([-jnp.ones_like(images), jnp.ones_like(images)], -1)
    sign = jax.random.rademacher(key, (*images.shape[:2], 1, 1, 1), jnp.float32)
    return {"teacher": logits * sign if train else logits}


@pytest.mark.parametrize("guide", [AVERAGE, CERTAIN_AVERAGE, PROPOSALS, CLEANED, RELIABLE, CONFIDENT, ENSEMBLE])
def test_names_and_shapes_of_targets(guide):
    networks = {"others": [two_classes], "trained": two_classes}
    targets = guide.targets(asked(two_classes, weak_label=NOTHING, noise=0.1, passes=4, **networks))
    assert tuple(targets) == guide.target_names
    for array in targets.values():
        assert array.shape[:4] == IMAGES.shape[:4]


def test_an_average_gives_its_probabilities_and_is_certain_everywhere():
    targets = AVERAGE.targets(asked(two_classes))
    np.testing.assert_allclose(targets["target"][..., 1:], jax.nn.sigmoid(IMAGES), rtol=1e-6)
    assert not targets["certain"].any()


def test_noise_is_bounded_by_two_deviations_and_a_function_of_the_key():
    def noise(key):
        target = AVERAGE.targets(asked(two_classes, key, noise=0.1))["target"][..., 1:]
        return jnp.log(target) - jnp.log1p(-target) - IMAGES

    assert 0.05 < float(jnp.abs(noise(KEY)).max()) <= 0.2 + 1e-5
    np.testing.assert_array_equal(noise(KEY), noise(KEY))
    assert not np.array_equal(noise(KEY), noise(jax.random.key(1)))


def test_varying_predictions_are_uncertain():
    """16 random signs are almost never all equal, and rarely balanced enough for an entropy of log 2."""
    targets = CERTAIN_AVERAGE.targets(asked(random_in_training, progress=math.exp(-5), passes=16))
    uncertain = targets["certain"] == UNLABELED
    assert uncertain.any() and set(np.unique(targets["certain"])) <= {0, UNLABELED}
    np.testing.assert_allclose(targets["target"][..., 1], 1.0, rtol=1e-6)


@pytest.mark.parametrize(("ramp", "certain"), [(0.0, False), (1.0, True)])
def test_the_threshold_rises_from_three_quarters_of_the_largest_entropy_to_all_of_it(ramp, certain):
    """The entropy of (0.3, 0.7) is 0.88 log 2."""

    def constant(images, key, train=False):
        logits = jnp.log(jnp.array([0.3, 0.7])).reshape(1, 1, 1, 1, 2)
        return {"teacher": jnp.broadcast_to(logits, (*images.shape[:4], 2))}

    targets = CERTAIN_AVERAGE.targets(asked(constant, progress=ramp, passes=3))
    assert (targets["certain"] == (0 if certain else UNLABELED)).all()


def test_proposals_are_the_most_probable_class():
    proposal = PROPOSALS.targets(asked(two_classes))["proposal"]
    assert proposal.dtype == jnp.int32
    np.testing.assert_array_equal(proposal, IMAGES[..., 0] > 0)


def test_annotations_override_guesses_of_which_the_largest_component_is_left():
    """In an image of 2 x 3, class 1 at three pixels in a row is kept; one in the corner of another goes."""
    guess = jnp.array([[[1, 1, 1], [0, 0, 0]], [[1, 0, 1], [1, 0, 0]]], jnp.int32)[None]
    images = jnp.where(guess == 1, 1.0, -1.0)[..., None]
    weak_label = jnp.full(guess.shape, UNLABELED, jnp.int32).at[0, 0, 0, 0].set(0).at[0, 1, 0, 2].set(1)
    for labels, expected in (
        (jnp.full_like(guess, UNLABELED), [[1, 1, 1], [0, 0, 0]]),
        (weak_label, [[0, 1, 1], [0] * 3]),
    ):
        arrays = {"image": images, "weak_label": labels}
        proposal = CLEANED.targets(Asked(two_classes, arrays, KEY, jnp.float32(1)))["proposal"]
        assert proposal.dtype == jnp.int32 and proposal[0, 0].tolist() == expected
        assert proposal[0, 1].tolist() == [[1, 0, int(labels is weak_label)], [1, 0, 0]]


def test_unconfident_guesses_are_left_out_and_annotations_override_them():
    """The most probable class has probability sigmoid(|image|), at least 0.7 where |image| is at least 0.847."""
    weak_label = NOTHING.at[0, 0, 0, 0].set(1).at[0, 1, 0, 0].set(0)
    proposal = CONFIDENT.targets(asked(two_classes, weak_label=weak_label, confidence=0.7))["proposal"]
    expected = np.where(np.abs(IMAGES) >= 0.847, IMAGES > 0, UNLABELED)[..., 0]
    expected[0, 0, 0, 0], expected[0, 1, 0, 0] = 1, 0
    assert set(np.unique(expected)) == {0, 1, UNLABELED}
    np.testing.assert_array_equal(proposal, expected)


def test_reliable_guesses_are_certain_in_the_mean_of_both_branches_and_in_the_largest_component():
    """The entropy of (0.01, 0.99) is 0.081 log 2, that of (0.02, 0.98) 0.141 log 2; the threshold is 0.1 log 2."""
    of_teacher = jnp.array([[0.99, 0.99, 0.98, 0.99], [0.01, 0.01, 0.01, 0.02], [0.01, 0.01, 0.01, 0.99]])[None, None]
    of_student = of_teacher.at[0, 0, 1, 0].set(0.05)  # 0.03 in the mean

    def predict(images, key, branches):
        probabilities = {"teacher": of_teacher, "student": of_student}
        return {b: jnp.log(jnp.stack([1 - probabilities[b], probabilities[b]], -1)) for b in branches}

    weak_label = jnp.full(of_teacher.shape, UNLABELED).at[0, 0, 0, 2].set(1).at[0, 0, 2, 0].set(1)
    arrays = {"image": of_teacher[..., None], "weak_label": weak_label}
    proposal = RELIABLE.targets(Asked(predict, arrays, KEY, jnp.float32(1)))["proposal"]
    u = UNLABELED
    assert proposal.dtype == jnp.int32
    assert proposal[0, 0].tolist() == [[1, 1, 1, u], [u, 0, 0, u], [1, 0, 0, u]]


def test_of_a_unions_classes_the_guess_selects_one():
    """254 is background or 1: a guess of 2 and no guess leave it, 0 and 1 replace it. 253 is any class."""
    guess = jnp.array([[[[0, 1, 2, UNLABELED, 2, 1, 0]]]], jnp.int32)
    weak_label = jnp.array([[[[254, 254, 254, 254, 253, 2, UNLABELED]]]], jnp.int32)
    given = Asked(two_classes, {"weak_label": weak_label}, KEY, jnp.float32(1), unions=((0, 1), (0, 1, 2)))
    assert overridden(guess, given)[0, 0, 0].tolist() == [0, 1, 254, 254, 2, 2, 0]
