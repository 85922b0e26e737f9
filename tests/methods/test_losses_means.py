"""What losses average over: labelled pixels, weighted classes, structures and images."""

import math

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maps import CLASSES, LABELLED, QUICK, label_maps, labels_of, logit_maps, logits_of, value
from msl_jax.labels import UNLABELED
from msl_jax.methods.losses import (
    DICE_SUMS,
    MEANS,
    Classes,
    cross_entropy,
    dice,
    has_structure,
    union_label,
    weigh,
)

# Means of a cross-entropy


def test_means_closed_form():
    """Two images of two pixels: -log p is log 2 and log 4 in the first, log 8 and unlabelled in the second."""
    p = jnp.array([[0.5, 0.5], [0.25, 0.75], [0.125, 0.875], [0.5, 0.5]], jnp.float32)
    logits, labels = jnp.log(p).reshape(2, 1, 2, 2), jnp.array([0, 0, 0, UNLABELED], jnp.int32).reshape(2, 1, 2)
    expected = {"labelled": (1 + 2 + 3) / 3, "pixels": (1 + 2 + 3) / 4, "images": ((1 + 2) / 2 + 3) / 2}
    assert set(expected) == set(MEANS)
    for mean, value_in_bits in expected.items():
        assert float(cross_entropy(logits, labels, mean)) == pytest.approx(value_in_bits * math.log(2), rel=1e-6)


@pytest.mark.parametrize("mean", MEANS)
def test_an_image_without_labels_is_ignored_unless_all_pixels_count(mean):
    generator = np.random.default_rng(0)
    logits = jnp.array(generator.normal(size=(3, 4, 4, 2)), jnp.float32)
    labels = jnp.array(generator.integers(0, 2, (3, 4, 4)), jnp.int32).at[2].set(UNLABELED)
    whole, without = cross_entropy(logits, labels, mean), cross_entropy(logits[:2], labels[:2], mean)
    factor = 2 / 3 if mean == "pixels" else 1
    assert float(whole) == pytest.approx(factor * float(without), rel=1e-6)
    nothing = jnp.full_like(labels, UNLABELED)
    value, gradient = jax.value_and_grad(cross_entropy)(logits, nothing, mean)
    assert value == 0 and not gradient.any()


@QUICK
@given(LABELLED)
def test_all_means_are_equal_if_every_pixel_is_labelled(pair):
    logits, labels = (jnp.asarray(a) for a in pair)
    labels = jnp.where(labels == UNLABELED, 0, labels)
    for weights in ((), (0.5, 2.0, 0.25, 4.0)[: logits.shape[-1]]):
        values = [float(cross_entropy(logits, labels, mean, Classes(weights))) for mean in ("labelled", "pixels")]
        assert values[1] == pytest.approx(values[0], rel=1e-4, abs=1e-6)
    values = [float(cross_entropy(logits, labels, mean)) for mean in MEANS]
    assert values == pytest.approx([values[0]] * len(values), rel=1e-4, abs=1e-6)


# Class weights


def test_class_weights_closed_form():
    """Weights: background 1, structure 3. First image: log 2 (background), log 4 (structure); second: log 8."""
    p = jnp.array([[0.5, 0.5], [0.75, 0.25], [0.875, 0.125], [0.5, 0.5]], jnp.float32)
    logits, labels = jnp.log(p).reshape(2, 1, 2, 2), jnp.array([0, 1, 1, UNLABELED], jnp.int32).reshape(2, 1, 2)
    total = 1 * 1 + 3 * 2 + 3 * 3
    expected = {"labelled": total / 7, "pixels": total / 8, "images": ((1 * 1 + 3 * 2) / 4 + 3) / 2}
    assert set(expected) == set(MEANS)
    for mean, value_in_bits in expected.items():
        result = cross_entropy(logits, labels, mean, Classes((1.0, 3.0)))
        assert float(result) == pytest.approx(value_in_bits * math.log(2), rel=1e-6), mean


WEIGHTS = (0.02, 0.0, 3.0, 0.5)


@QUICK
@given(st.tuples(logit_maps(4), label_maps(4)))
def test_a_weighted_mean_follows_its_formula(pair):
    """sum v[y] ce / sum v[y] over labelled pixels, also if the weights add up to less than 1."""
    logits, labels = pair
    labelled = labels != UNLABELED
    safe = np.where(labelled, labels, 0)
    ce = -np.take_along_axis(np.asarray(jax.nn.log_softmax(jnp.asarray(logits))), safe[..., None], -1)[..., 0]
    v = np.where(labelled, np.array(WEIGHTS)[safe], 0)
    expected = (v * ce).sum() / v.sum() if v.sum() else 0.0
    result = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), "labelled", Classes(WEIGHTS))
    assert float(result) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("mean", MEANS)
def test_weights_of_1_are_no_weights(mean):
    generator = np.random.default_rng(0)
    logits = jnp.array(generator.normal(size=(3, 4, 4, 3)), jnp.float32)
    labels = jnp.array(generator.choice([0, 1, 2, UNLABELED], (3, 4, 4)), jnp.int32)
    assert cross_entropy(logits, labels, mean, Classes((1.0, 1.0, 1.0))) == cross_entropy(logits, labels, mean)
    if mean != "pixels":  # there, unlabelled pixels have weight 1
        weighted = [cross_entropy(logits, labels, mean, Classes([c * w for w in (1, 2, 5)])) for c in (1.0, 0.001)]
        assert float(weighted[0]) == pytest.approx(float(weighted[1]), rel=1e-5)


@pytest.mark.parametrize("mean", MEANS)
def test_a_class_of_weight_0_has_no_gradient(mean):
    generator = np.random.default_rng(0)
    logits = jnp.array(generator.normal(size=(3, 4, 4, 3)), jnp.float32)
    labels = jnp.array(generator.integers(0, 2, (3, 4, 4)), jnp.int32)
    loss, gradient = jax.value_and_grad(cross_entropy)(logits, labels, mean, Classes((0.0, 0.0, 1.0)))
    assert loss == 0 and not gradient.any()
    if mean != "pixels":
        one = jnp.where(labels == 1, 1, UNLABELED)
        near = pytest.approx(float(cross_entropy(logits, one, mean)), rel=1e-5)
        assert float(cross_entropy(logits, labels, mean, Classes((0.0, 2.0, 1.0)))) == near


@pytest.mark.parametrize("weights", [(), (0.1, 2.0, 0.0)])
@pytest.mark.parametrize("mean", MEANS)
def test_the_divisor_of_a_batch_is_the_sum_over_its_parts(mean, weights):
    generator = np.random.default_rng(0)
    labels = jnp.array(generator.choice([0, 1, 2, UNLABELED], (4, 3, 3), p=[0.1, 0.1, 0.1, 0.7]), jnp.int32)
    parts = [weigh(labels[i : i + 2], mean, Classes(weights))[1] for i in (0, 2)]
    assert float(weigh(labels, mean, Classes(weights))[1]) == pytest.approx(float(sum(parts)), rel=1e-6) != 0


# Dice


def test_dice_closed_form():
    """Structure probabilities 0.9, 0.2, 0.4, the first two pixels labelled as structure: 1 - 2 * 1.1 / (1.5 + 2)."""
    logits = logits_of((0.1, 0.9), (0.8, 0.2), (0.6, 0.4))
    assert value(dice, logits, labels_of(1, 1, 0)) == pytest.approx(1 - 2.2 / 3.5, rel=1e-5)
    assert value(dice, logits, labels_of(1, 1, UNLABELED)) == pytest.approx(1 - 2.2 / 3.1, rel=1e-5)


def test_dice_gradient():
    """For 1 - 2 I / S with I = sum p y, S = sum p + y: d/dp = -2 (y S - I) / S^2, d/dlogit = d/dp p (1 - p)."""
    p, y = np.array([0.9, 0.2, 0.4]), np.array([1, 1, 0])
    i, s = (p * y).sum(), (p + y).sum()
    gradient = jax.grad(dice)(logits_of(*((1 - q, q) for q in p)), labels_of(*y))[0, 0]
    np.testing.assert_allclose(gradient[:, 1], -2 * (y * s - i) / s**2 * p * (1 - p), atol=1e-6)
    np.testing.assert_allclose(gradient[:, 0], -gradient[:, 1], atol=1e-7)


def test_an_absent_structure_has_no_loss():
    """Three classes, the last one absent: the mean is over the other structure only."""
    p = [(0.1, 0.6, 0.3), (0.5, 0.2, 0.3)]
    assert value(dice, logits_of(*p), labels_of(1, 0)) == pytest.approx(1 - 1.2 / 1.8, rel=1e-5)
    both = 1 - (1.2 / 1.8 + 0.6 / 1.6) / 2
    assert value(dice, logits_of(*p), labels_of(1, 2)) == pytest.approx(both, rel=1e-5)


PAIR = jnp.stack([logits_of((0.5, 0.5), (0.5, 0.5))[0], logits_of((0.1, 0.9), (0.2, 0.8))[0]])
"""Logits of two images of two pixels."""


def test_dice_of_images_is_a_mean_over_those_with_a_structure():
    labels = jnp.stack([labels_of(0, 1)[0], labels_of(1, 1)[0]])
    first, second = 1 - 1 / 2, 1 - 3.4 / 3.7
    assert value(dice, PAIR, labels, sums="images") == pytest.approx((first + second) / 2, rel=1e-5)
    empty = jnp.stack([labels_of(0, 1)[0], labels_of(0, 0)[0]])
    assert value(dice, PAIR, empty, sums="images") == pytest.approx(first, rel=1e-5)
    assert value(dice, PAIR, labels.at[1].set(UNLABELED), sums="images") == pytest.approx(first, rel=1e-5)


def test_dice_of_a_batch_sums_over_its_images():
    labels = jnp.stack([labels_of(0, 1)[0], labels_of(1, 1)[0]])
    overlap, both = 0.5 + 0.9 + 0.8, 0.5 + 0.5 + 0.9 + 0.8 + 3
    assert value(dice, PAIR, labels) == pytest.approx(1 - 2 * overlap / both, rel=1e-5)
    background = jnp.stack([labels_of(0, 1)[0], labels_of(0, 0)[0]])
    assert value(dice, PAIR, background) == pytest.approx(1 - 2 * 0.5 / (0.5 + 0.5 + 0.9 + 0.8 + 1), rel=1e-5)
    assert value(dice, PAIR, labels.at[1].set(UNLABELED)) == pytest.approx(1 - 1 / 2, rel=1e-5)


@QUICK
@given(LABELLED)
def test_dice_of_a_batch_is_that_of_its_images_side_by_side(sample):
    logits, labels = sample
    image = np.concatenate([*logits], axis=1)[None], np.concatenate([*labels], axis=1)[None]
    assert value(dice, logits, labels) == pytest.approx(value(dice, *image, sums="images"), rel=1e-5, abs=1e-6)


def test_dice_of_a_perfect_and_of_a_wrong_prediction():
    labels = labels_of(0, 1, 2, 2, UNLABELED)
    sure = 1e4 * jax.nn.one_hot(jnp.where(labels == UNLABELED, 0, labels), 3)
    assert value(dice, sure, labels) == 0.0
    assert value(dice, jnp.roll(sure, 1, axis=-1), labels) == 1.0


@pytest.mark.parametrize("sums", DICE_SUMS)
@pytest.mark.parametrize("label", [0, UNLABELED])
def test_without_a_structure_dice_is_exactly_zero_with_zero_gradient(label, sums):
    logits = jnp.array(np.random.default_rng(0).normal(0, 5, (2, 3, 3, 4)), jnp.float32)
    loss, gradient = jax.value_and_grad(dice)(logits, jnp.full((2, 3, 3), label, jnp.int32), sums)
    assert float(loss) == 0.0 and not gradient.any()


@QUICK
@given(CLASSES.flatmap(lambda c: st.tuples(logit_maps(c, 1e4), label_maps(c))), st.sampled_from([*DICE_SUMS]))
def test_dice_is_finite_bounded_and_ignores_unlabelled_pixels(sample, sums):
    logits, labels = sample
    loss, gradient = jax.value_and_grad(dice)(jnp.asarray(logits), jnp.asarray(labels), sums)
    assert -1e-6 <= loss <= 1 + 1e-6 and jnp.isfinite(gradient).all()
    unlabelled = labels == UNLABELED
    assert not np.asarray(gradient)[unlabelled].any()
    assert value(dice, np.where(unlabelled[..., None], -logits[..., ::-1], logits), labels, sums=sums) == float(loss)


@QUICK
@given(LABELLED)
def test_dice_of_images_is_the_weighted_mean_of_its_parts(sample):
    """The weight of a part is its number of images with a structure."""
    logits, labels = sample
    present = np.asarray(has_structure(jnp.asarray(labels), "images"))
    parts = [value(dice, logits[i : i + 1], labels[i : i + 1], sums="images") for i in range(2)]
    assert present.tolist() == [bool(((image > 0) & (image != UNLABELED)).any()) for image in labels]
    expected = np.dot(parts, present) / max(present.sum(), 1)
    assert value(dice, logits, labels, sums="images") == pytest.approx(expected, rel=1e-5, abs=1e-6)


# Unions: labels that stand for several classes


UNIONS = Classes(unions=((0, 2), (0, 1, 2)))


def test_a_union_has_the_probability_of_its_classes():
    """p = (1/2, 1/4, 1/8, 1/8): classes 0 and 2 have 5/8 together, 0, 1 and 2 have 7/8; the mean is over all pixels."""
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.5, 0.25, 0.125, 0.125])), (1, 1, 4, 4))
    labels = labels_of(union_label(0), union_label(1), 1, UNLABELED)
    expected = (math.log(8 / 5) + math.log(8 / 7) + math.log(4)) / 3
    assert float(cross_entropy(logits, labels, classes=UNIONS)) == pytest.approx(expected, rel=1e-6)
    gradient = jax.grad(lambda x: cross_entropy(x, labels, classes=UNIONS))(logits)[0, 0, 0]
    np.testing.assert_allclose(gradient, (np.array([0.5, 0.25, 0.125, 0.125]) - [0.8, 0, 0.2, 0]) / 3, atol=1e-6)


def test_a_union_has_the_weight_of_background():
    logits, labels = jnp.zeros((1, 1, 2, 4)), labels_of(union_label(0), 3)
    weighted = cross_entropy(logits, labels, classes=UNIONS._replace(weights=(2.0, 5.0, 5.0, 3.0)))
    assert float(weighted) == pytest.approx((2 * math.log(2) + 3 * math.log(4)) / 5, rel=1e-6)


@QUICK
@given(LABELLED)
def test_a_union_of_background_alone_is_background(pair):
    logits, labels = (jnp.asarray(array) for array in pair)
    classes = Classes((0.5, 2.0, 0.25, 4.0)[: logits.shape[-1]], unions=((0,),))
    relabelled = jnp.where(labels == 0, union_label(0), labels)
    for mean in MEANS:
        expected = cross_entropy(logits, labels, mean, classes)
        found = cross_entropy(logits, relabelled, mean, classes)
        assert float(found) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
    for sums in DICE_SUMS:
        expected = dice(logits, labels, sums)
        assert float(dice(logits, relabelled, sums, classes)) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)
        assert (has_structure(relabelled, sums, classes) == has_structure(labels, sums)).all()


def test_pixels_of_a_union_count_in_the_dice_of_the_other_structures_only():
    """Class 1 is known at all four pixels: 1 - 2 p / (4 p + 1). Class 2 is unknown at that of the union."""
    logits = jnp.zeros((1, 1, 4, 3))
    labels = labels_of(1, 2, 0, union_label(0))
    of_1, of_2 = 2 / 3 / (4 / 3 + 1), 2 / 3 / (3 / 3 + 1)
    assert float(dice(logits, labels, classes=UNIONS)) == pytest.approx(1 - (of_1 + of_2) / 2, rel=1e-6)
    assert float(dice(logits, labels_of(0, 0, 0, union_label(1)), classes=UNIONS)) == 0
