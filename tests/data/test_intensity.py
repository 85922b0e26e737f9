import numpy as np
import pytest
import tensorflow as tf

from msl_jax.data import intensity
from msl_jax.data.pipeline import Preparation

RAMP = (np.arange(101, dtype=np.float32)[:, None] * np.float32([1, -10]))[None, None]
"""Two channels of 101 pixels, 0 to 100 and 0 to -1000."""


def normalized(name, image=RAMP):
    preparation = Preparation((8, 8), name, percentiles=(10.0, 90.0), window=(-40.0, 60.0), values=(0, 1))
    statistics = intensity.measure(image)
    return preparation.normalize(image, {key: tf.constant(value) for key, value in statistics.items()}).numpy()


def test_percentiles_are_of_each_channel():
    low, high = normalized("percentiles")[0, 0].T
    np.testing.assert_allclose(low, np.clip((np.arange(101) - 10) / 80, 0, 1), atol=1e-6)
    np.testing.assert_allclose(high, 1 - low, atol=1e-6)


def test_a_window_is_of_intensities_as_stored():
    first, second = normalized("window")[0, 0].T
    np.testing.assert_allclose(first, np.clip((np.arange(101) + 40) / 100, 0, 1), atol=1e-6)
    np.testing.assert_allclose(second, np.clip((40 - 10 * np.arange(101)) / 100, 0, 1), atol=1e-6)


def test_a_zscore_maps_three_deviations_around_the_mean():
    first, _ = normalized("zscore")[0, 0].T
    deviation = np.sqrt((101**2 - 1) / 12)
    np.testing.assert_allclose(first, 0.5 + (np.arange(101) - 50) / deviation / 6, atol=1e-6)


@pytest.mark.parametrize("name", intensity.NORMALIZATIONS)
def test_statistics_stand_for_the_volume(name):
    image = np.random.default_rng(0).normal(100, 30, (3, 5, 7, 2)).astype(np.float32)
    out = normalized(name, image)
    assert out.shape == image.shape and out.dtype == np.float32 and 0 <= out.min() <= out.max() <= 1
