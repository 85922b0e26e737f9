"""Windows cover slices of any size, and their weighted mean is a mean."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from msl_jax.inference import windows


@pytest.mark.parametrize(
    ("length", "window", "expected"),
    [
        (8, 8, [0]),
        (9, 8, [0, 1]),
        (12, 8, [0, 4]),
        (13, 8, [0, 2, 5]),
        (16, 8, [0, 4, 8]),
        (512, 256, [0, 128, 256]),
        (110, 64, [0, 23, 46]),  # nnU-Net's own example
    ],
)
def test_windows_are_evenly_spaced_with_half_overlap(length, window, expected):
    assert windows.starts(length, window) == expected


@given(st.integers(1, 40), st.integers(0, 200))
def test_windows_cover_an_axis_to_its_ends(window, more):
    starts = windows.starts(window + more, window)
    assert starts[0] == 0 and starts[-1] == more
    assert all(0 <= step <= window / 2 + 1 for step in np.diff(starts))


def test_weights_are_a_gaussian_about_the_middle():
    """With 17 pixels of standard deviation 17/8, the end is 8 pixels from the middle, and the next one 7."""
    y, x = windows.weights((17, 8)), windows.weights((17, 8))[8]
    np.testing.assert_allclose(y[:2, 3] / y[8, 3], np.exp(-0.5 * (np.array([8, 7]) * 8 / 17) ** 2), rtol=1e-6)
    np.testing.assert_allclose(x, np.exp(-0.5 * (np.arange(8) - 3.5) ** 2), rtol=1e-6)
    assert windows.weights((512, 512)).min() >= 0.99 * np.exp(-16)
    np.testing.assert_array_equal(y, y[::-1, ::-1])


@pytest.mark.parametrize("shape", [(8, 6), (9, 6), (20, 31), (3, 30), (30, 3), (5, 5)])
def test_windows_as_they_are_merge_to_the_slices(shape):
    """A network that returns its input: weights add up to 1 in every pixel, and padding is cut off again."""
    images = np.random.default_rng(0).random((3, *shape, 2), np.float32)
    padded = windows.pad(images, (8, 6))
    merged = windows.merge(windows.split(padded, (8, 6)), padded.shape[1:3])
    np.testing.assert_allclose(windows.cut(merged, shape), images, rtol=1e-5)


def test_a_single_window_is_not_weighted():
    images = np.random.default_rng(0).random((3, 8, 6, 2), np.float32)
    np.testing.assert_array_equal(windows.merge(windows.split(images, (8, 6)), (8, 6)), images)


def test_merging_is_a_weighted_mean_of_windows_of_the_same_slice():
    """Windows of 8 at 0 and 4: in pixels 4 to 7 their distances from the middles are 0.5 .. 3.5 and 3.5 .. 0.5."""
    values = np.zeros((4, 8, 1, 1), np.float32)
    values[1], values[3] = 1, 5  # the second window of each of two slices
    merged = windows.merge(values, (12, 1))[..., 0, 0]
    near, far = np.exp(-0.5 * np.array([0.5, 1.5, 2.5, 3.5]) ** 2), np.exp(-0.5 * np.array([3.5, 2.5, 1.5, 0.5]) ** 2)
    expected = np.concatenate([np.zeros(4), far / (near + far), np.ones(4)])
    np.testing.assert_allclose(merged, [expected, 5 * expected], rtol=1e-5)


def test_padding_is_zero_and_has_its_smaller_half_before():
    padded = windows.pad(np.ones((1, 3, 9, 1), np.float32), (8, 6))
    assert padded.shape == (1, 8, 9, 1)
    np.testing.assert_array_equal(padded[0, :, 0, 0], [0, 0, 1, 1, 1, 0, 0, 0])


def test_batches_are_full_with_zeros_at_the_end():
    first, last = windows.batches(np.ones((5, 2, 2, 1), np.float32), 3)
    assert first.all() and last[:2].all() and not last[2].any()
