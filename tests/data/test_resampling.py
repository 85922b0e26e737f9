from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from msl_jax.data import intensity, resampling
from msl_jax.data.preparation import Preparation
from msl_jax.labels import UNLABELED


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
    resized = resampling.resize_image(np.array(before, np.float32)[..., None], size, antialias=False)
    np.testing.assert_allclose(resized[..., 0], np.array(after, np.float32), rtol=1e-6)


def test_antialiasing_averages_over_the_pixels_that_a_new_one_covers():
    """Halving weights four neighbours 1/8, 3/8, 3/8, 1/8; at the border the remaining weights are normalised."""
    row = np.array([0, 8, 16, 24, 0, 0], np.float32)[None, :, None]
    resized = resampling.resize_image(row, (1, 3), antialias=True)[0, :, 0]
    np.testing.assert_allclose(resized, [(0 * 3 + 8 * 3 + 16) / 7, (8 + 3 * 16 + 3 * 24) / 8, 24 / 7], rtol=1e-5)
    np.testing.assert_allclose(
        resampling.resize_image(row, (1, 12), antialias=True), resampling.resize_image(row, (1, 12), antialias=False)
    )


@pytest.mark.parametrize(
    "before, size, after",
    [
        ([[3, 255]], (1, 4), [[3, 3, 255, 255]]),
        ([[1], [2]], (4, 1), [[1], [1], [2], [2]]),
        ([[1, 2, 3, 4, 5, 6]], (1, 2), [[2, 5]]),
        ([[1, 2], [3, 4]], (4, 4), [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]),
    ],
)
def test_nearest_neighbour_keeps_integers(before, size, after):
    resized = resampling.resize_nearest(np.array(before, np.int32), size)
    assert resized.dtype == np.int32
    np.testing.assert_array_equal(resized, after)


@pytest.mark.parametrize(
    "before, size, after",
    [
        ([[1, 1, 1, 2, 2, 2]], (1, 3), [[1, 1, 2]]),  # the middle pixel is half 1, half 2: the lower class
        ([[2, 0, 0, 0, 0, 1]], (1, 3), [[0, 0, 0]]),
        ([[255, 255, 3, 3]], (1, 2), [[255, 3]]),
        ([[1, 2]], (1, 4), [[1, 1, 2, 2]]),
    ],
)
def test_a_mask_takes_the_class_with_the_largest_share(before, size, after):
    resized = resampling.resize_mask(np.array([before], np.int32), size)
    assert resized.dtype == np.int32
    np.testing.assert_array_equal(resized[0], after)


@given(size=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 99))
def test_resized_masks_have_only_the_values_of_the_mask(size, seed):
    mask = np.random.default_rng(seed).choice([0, 2, UNLABELED], (2, 5, 7)).astype(np.int32)
    resized = resampling.resize_mask(mask, size)
    assert resized.shape == (2, *size)
    for before, after in zip(mask, resized, strict=True):
        assert set(after.ravel()) <= set(before.ravel())


def preparation_of(spacing, size=(4, 6)):
    return Preparation(size, spacing, "window", (1.0, 99.0), (0.0, 1.0), (0, 1))


@pytest.mark.parametrize(
    "spacing, grid",
    [("native", (10, 20)), ("stretch", (4, 6)), ((2.0, 2.0), (5, 20)), ((0.5, 4.0), (20, 10)), ((99.0, 99.0), (1, 1))],
)
def test_a_grid_keeps_the_extent_in_mm(spacing, grid):
    assert preparation_of(spacing).grid((10, 20), (1.0, 2.0)) == grid


def test_native_slices_keep_every_bit():
    image = np.random.default_rng(0).random((2, 5, 7, 1), np.float32)
    mask = np.random.default_rng(1).choice([0, 1, UNLABELED], (2, 5, 7)).astype(np.uint8)
    preparation, spacing = preparation_of("native"), (8.0, 1.5, 1.5)
    np.testing.assert_array_equal(preparation.images(image, intensity.measure(image), spacing), image)
    np.testing.assert_array_equal(preparation.mask(mask, spacing), mask)
