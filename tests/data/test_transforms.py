import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import ndimage
import tensorflow as tf

from msl_jax.data import transforms
from msl_jax.labels import UNLABELED

OFF = dict(flip=False, rotation=0.0, zoom=0.0, gamma=0.0, contrast=0.0)
FILL_VALUES = {"label": 0, "weak_label": UNLABELED}
SIZE = (24, 30)


def augment(image, labels, seed, **changes):
    """Runs transforms.augment on (y, x) arrays."""
    labels = {name: tf.constant(label[..., None], tf.int32) for name, label in labels.items()}
    image = tf.constant(image[..., None], tf.float32)
    image, labels = transforms.augment(image, labels, FILL_VALUES, tf.constant([7, seed]), **{**OFF, **changes})
    return image.numpy()[..., 0], {name: label.numpy()[..., 0] for name, label in labels.items()}


def noise(size=SIZE):
    """Multiples of 1/256, so that the contrast arithmetic is exact."""
    return np.random.default_rng(0).integers(0, 257, size).astype(np.float32) / 256


def classes(size=SIZE):
    y, x = np.indices(size)
    return 1 * (abs(y - 9) < 7) + 1 * (abs(x - 16) < 9) + 1 * ((y - 9) ** 2 + (x - 13) ** 2 < 16)


def test_normalize_maps_the_range_to_0_and_1_and_clips():
    image = tf.constant([-9.0, 2, 4, 7, 12, 99])
    np.testing.assert_allclose(transforms.normalize(image, 2.0, 12.0), [0, 0, 0.2, 0.5, 1, 1], rtol=1e-6)


def test_a_constant_volume_becomes_0():
    np.testing.assert_array_equal(transforms.normalize(tf.fill([3], 5.0), 5.0, 5.0), np.zeros(3))


@pytest.mark.parametrize(
    "before, size, after",
    [
        ([[0, 4]], (1, 4), [[0, 1, 3, 4]]),
        ([[0, 1, 6, 7]], (1, 2), [[0.5, 6.5]]),
        ([[0], [4]], (4, 1), [[0], [1], [3], [4]]),
        ([[0, 4], [8, 12]], (2, 2), [[0, 4], [8, 12]]),
        ([[0, 4], [8, 12]], (4, 4), [[0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10], [8, 9, 11, 12]]),
    ],
)
def test_images_are_resized_linearly_between_pixel_centres(before, size, after):
    resized = transforms.resize_image(tf.constant(before, tf.float32)[..., None], size)
    np.testing.assert_allclose(resized[..., 0], np.array(after, np.float32), rtol=1e-6)


@pytest.mark.parametrize(
    "before, size, after",
    [
        ([[3, 255]], (1, 4), [[3, 3, 255, 255]]),
        ([[1], [2]], (4, 1), [[1], [1], [2], [2]]),
        ([[1, 2, 3, 4, 5, 6]], (1, 2), [[2, 5]]),
        ([[1, 2, 3, 4]], (1, 2), [[2, 4]]),
        ([[1, 2], [3, 4]], (4, 4), [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]),
    ],
)
def test_labels_are_resized_by_nearest_neighbour_and_stay_integers(before, size, after):
    resized = transforms.resize_labels(tf.constant(before, tf.int32)[..., None], size)
    assert resized.dtype == tf.int32
    np.testing.assert_array_equal(resized[..., 0], after)


@pytest.mark.parametrize("seed", range(3))
def test_with_everything_off_nothing_changes(seed):
    image, transformed = augment(noise(), {"label": classes(), "weak_label": classes()}, seed)
    np.testing.assert_array_equal(image, noise())
    assert all((label == classes()).all() for label in transformed.values())


def test_each_axis_is_flipped_in_half_of_the_cases():
    mirrors = [(), (0,), (1,), (0, 1)]
    found = []
    for seed in range(60):
        image, transformed = augment(noise(), {"label": classes()}, seed, flip=True)
        found += [axes for axes in mirrors if np.array_equal(image, np.flip(noise(), axes))]
        np.testing.assert_array_equal(transformed["label"], np.flip(classes(), found[-1]))
    assert len(found) == 60 and all(found.count(axes) >= 5 for axes in mirrors)


def fitted_transform(seed, **changes):
    """The transform of one seed, fitted to the source of each pixel: scale, angle in degrees, shift of the centre."""
    size = (41, 41)
    _, transformed = augment(np.zeros(size), {"label": 1 + np.arange(41 * 41).reshape(size)}, seed, **changes)
    inside = transformed["label"] > 0
    source = np.stack(np.divmod(transformed["label"][inside] - 1, 41), -1) - 20.0
    target = np.argwhere(inside) - 20.0
    design = np.concatenate([target, np.ones((len(target), 1))], 1)
    matrix = np.linalg.lstsq(design, source, rcond=None)[0]
    assert abs(design @ matrix - source).max() < 0.75  # nearest neighbour: half a pixel, plus the error of the fit
    linear = matrix[:2].T
    scale = math.sqrt(abs(np.linalg.det(linear)))
    np.testing.assert_allclose(linear @ linear.T, scale**2 * np.eye(2), atol=0.02)
    return 1 / scale, math.degrees(math.atan2(linear[1, 0], linear[0, 0])), matrix[2]


def test_angles_and_factors_cover_their_ranges():
    scales, angles, shifts = zip(*(fitted_transform(seed, rotation=30.0, zoom=0.2) for seed in range(40)), strict=True)
    assert abs(np.asarray(shifts)).max() < 0.1
    assert -30.5 < min(angles) < -20 and 20 < max(angles) < 30.5
    assert 1 / 1.21 < min(scales) < 0.88 and 1.14 < max(scales) < 1.21


def test_rotation_and_zoom_are_independent():
    rotated, zoomed = (
        [fitted_transform(seed, **changes)[:2] for seed in range(5)] for changes in ({"rotation": 30}, {"zoom": 0.2})
    )
    assert (
        all(scale == pytest.approx(1, abs=0.01) for scale, _ in rotated) and len({angle for _, angle in rotated}) == 5
    )
    assert all(angle == pytest.approx(0, abs=0.3) for _, angle in zoomed) and len({scale for scale, _ in zoomed}) == 5


def test_pixels_from_outside_are_black_background_and_unlabelled():
    """A square rotated by about 45 degrees keeps an octagon, 2 sqrt(2) - 2 of its area."""
    ones = np.ones((41, 41))
    rotated = [augment(ones, {"label": ones, "weak_label": ones}, seed, rotation=90.0) for seed in range(20)]
    image, transformed = min(rotated, key=lambda result: result[1]["label"].sum())
    assert transformed["label"].mean() == pytest.approx(2 * math.sqrt(2) - 2, abs=0.01)
    outside = transformed["label"] == 0
    assert set(transformed["label"].ravel()) == {0, 1}
    np.testing.assert_array_equal(transformed["weak_label"], np.where(outside, UNLABELED, 1))
    assert outside[[0, 0, -1, -1], [0, -1, 0, -1]].all() and not outside[20, 20]
    deep_outside, deep_inside = (ndimage.binary_erosion(part, np.ones((3, 3))) for part in (outside, ~outside))
    assert not image[deep_outside].any() and image[deep_inside] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(10))
def test_labels_are_transformed_like_their_image(seed):
    changes = dict(flip=True, rotation=40.0, zoom=0.3)
    labels = np.kron(classes(), np.ones((2, 2)))
    image, transformed = augment(labels / 4, {"label": labels, "weak_label": labels}, seed, **changes)
    label, weak_label = transformed["label"], transformed["weak_label"]
    around = dict(size=5, mode="constant", cval=-1)
    inner = ndimage.maximum_filter(weak_label, **around) == ndimage.minimum_filter(weak_label, **around)
    assert inner.mean() > 0.3 and {1, 2, 3} <= set(label[inner])
    np.testing.assert_array_equal(weak_label[weak_label != UNLABELED], label[weak_label != UNLABELED])
    np.testing.assert_allclose(image[inner] * 4, label[inner], atol=1e-4)


def test_gamma_raises_every_pixel_to_the_same_power():
    exponents = []
    for seed in range(40):
        image, _ = augment(np.array([[0, 0.25, 0.5, 1]]), {}, seed, gamma=0.5)
        exponents.append(-math.log2(image[0, 2]))
        np.testing.assert_allclose(image[0], [0, 0.25 ** exponents[-1], 0.5 ** exponents[-1], 1], atol=1e-6)
    assert 1 / 1.5 <= min(exponents) < 0.75 and 1.33 < max(exponents) <= 1.5


def test_contrast_scales_about_one_half_and_clips():
    factors = []
    for seed in range(40):
        image, _ = augment(np.array([[0, 0.4, 0.5, 0.6, 1]]), {}, seed, contrast=0.2)
        factors.append((image[0, 3] - 0.5) / 0.1)
        ends = [max(0, 0.5 - 0.5 * factors[-1]), min(1, 0.5 + 0.5 * factors[-1])]
        np.testing.assert_allclose(image[0], [ends[0], 0.5 - 0.1 * factors[-1], 0.5, image[0, 3], ends[1]], atol=1e-6)
    assert 0.8 - 1e-6 <= min(factors) < 0.85 and 1.15 < max(factors) <= 1.2 + 1e-6


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    seed=st.integers(0, 2**31 - 1),
    flip=st.booleans(),
    rotation=st.floats(0, 180),
    zoom=st.floats(0, 2),
    gamma=st.floats(0, 2),
    contrast=st.floats(0, 1),
)
def test_shapes_ranges_and_label_values_are_kept(size, seed, **changes):
    label = np.random.default_rng(seed).choice([0, 1, 3], size)
    weak_label = np.where(label == 1, UNLABELED, label)
    image, transformed = augment(noise(size), {"label": label, "weak_label": weak_label}, seed, **changes)
    assert image.shape == size and image.dtype == np.float32
    assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1
    assert all(labels.shape == size and labels.dtype == np.int32 for labels in transformed.values())
    assert set(transformed["label"].ravel()) <= {0, *label.ravel()}
    assert set(transformed["weak_label"].ravel()) <= {UNLABELED, *weak_label.ravel()}
    known = transformed["weak_label"] != UNLABELED
    np.testing.assert_array_equal(transformed["weak_label"][known], transformed["label"][known])


def test_the_result_depends_only_on_the_seed():
    changes = dict(flip=True, rotation=30.0, zoom=0.2, gamma=0.3, contrast=0.2)
    first, repeated, other = (augment(noise(), {}, seed, **changes)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, repeated)
    assert not np.array_equal(first, other)
