import numpy as np
import pytest

from msl_jax.data import intensity
from msl_jax.data.preparation import Preparation

RAMP = (np.arange(101, dtype=np.float32)[:, None] * np.float32([1, -10]))[None, None]
"""Two channels of 101 pixels, 0 to 100 and 0 to -1000."""


def normalized(name, image=RAMP):
    preparation = Preparation((8, 8), "native", name, percentiles=(10.0, 90.0), window=(-40.0, 60.0), values=(0, 1))
    return preparation.normalize(image, intensity.measure(image))


def test_statistics_are_those_of_the_whole_volume():
    image = np.random.default_rng(0).normal(100, 30, (3, 5, 7, 1)).astype(np.float32)
    statistics = intensity.measure(image)
    assert statistics["mean"] == pytest.approx(image.mean(), rel=1e-5)
    assert statistics["deviation"] == pytest.approx(image.std(), rel=1e-5)
    for percent in (0, 1, 50, 99.5, 100):
        quantile = statistics["quantiles"][round(percent * 10)]
        assert quantile == pytest.approx([np.percentile(image, percent)], rel=1e-6)


def test_percentiles_are_per_channel():
    low, high = normalized("percentiles")[0, 0].T
    np.testing.assert_allclose(low, np.clip((np.arange(101) - 10) / 80, 0, 1), atol=1e-6)
    np.testing.assert_allclose(high, 1 - low, atol=1e-6)


def test_a_window_applies_to_intensities_as_stored():
    first, second = normalized("window")[0, 0].T
    np.testing.assert_allclose(first, np.clip((np.arange(101) + 40) / 100, 0, 1), atol=1e-6)
    np.testing.assert_allclose(second, np.clip((40 - 10 * np.arange(101)) / 100, 0, 1), atol=1e-6)


def test_a_zscore_maps_three_deviations_around_the_mean():
    first, _ = normalized("zscore")[0, 0].T
    deviation = np.sqrt((101**2 - 1) / 12)
    np.testing.assert_allclose(first, 0.5 + (np.arange(101) - 50) / deviation / 6, atol=1e-6)


@pytest.mark.parametrize("name", intensity.NORMALIZATIONS)
def test_a_volume_is_normalised_by_its_statistics(name):
    image = np.random.default_rng(0).normal(100, 30, (3, 5, 7, 2)).astype(np.float32)
    out = normalized(name, image)
    assert out.shape == image.shape and out.dtype == np.float32 and 0 <= out.min() <= out.max() <= 1


SPARSE = np.concatenate([np.zeros(1990), np.linspace(300, 400, 10)]).astype(np.float32).reshape(1, 20, 100, 1)
"""0.5 % of the voxels are not 0."""
SETTINGS = {"percentiles": (1.0, 99.0), "window": (-160.0, 240.0)}


def collapsed(name, image, **settings):
    return intensity.collapse(name, intensity.measure(image), SETTINGS | settings).tolist()


def limits(name, image, **settings):
    return [bound.tolist() for bound in intensity.limits(name, intensity.measure(image), SETTINGS | settings)]


@pytest.mark.parametrize(
    "image",
    [SPARSE, SPARSE + np.random.default_rng(0).random(SPARSE.shape, np.float32), -SPARSE],
    ids=["zeros", "noise", "negative"],
)
def test_percentiles_without_contrast_are_widened_to_those_of_one_thousandth(image):
    assert collapsed("percentiles", image) == [True]
    quantiles = np.quantile(image, (0.001, 0.999))
    np.testing.assert_allclose(np.ravel(limits("percentiles", image)), quantiles, rtol=1e-5, atol=1e-5)


def test_percentiles_are_widened_to_the_whole_range_if_all_but_a_thousandth_is_one_value():
    image = np.zeros((1, 100, 100, 1), np.float32)
    image[0, 0, :3, 0] = 5, 6, 7
    assert limits("percentiles", image) == [[0.0], [7.0]]


def test_a_window_outside_the_volumes_range_is_replaced_by_that_range():
    ramp = np.linspace(0, 1, 1001, dtype=np.float32).reshape(1, 7, 11, 13, 1)[0]
    for image in (ramp, ramp + 500, ramp - 1000):
        assert collapsed("window", image) == [True]
        low, high = np.ravel(limits("window", image))
        assert image.min() <= low < high <= image.max() and high - low == pytest.approx(0.998, abs=1e-3)


def test_each_channel_is_widened_separately():
    both = np.concatenate([SPARSE, np.linspace(0, 1, SPARSE.size, dtype=np.float32).reshape(SPARSE.shape)], -1)
    assert collapsed("percentiles", both) == [True, False]
    low, high = limits("percentiles", both)
    assert (low[0], low[1]) == (0.0, pytest.approx(0.01, abs=1e-3)) and high[1] == pytest.approx(0.99, abs=1e-3)


HOT = np.random.default_rng(0).normal(100, 30, (1, 40, 50, 1)).astype(np.float32)
HOT[0, 0, 0, 0] = 1e6


@pytest.mark.parametrize(
    ("name", "image", "settings"),
    [
        ("percentiles", RAMP, {}),
        ("percentiles", HOT, {}),
        ("percentiles", np.float32(RAMP > 50), {"percentiles": (0.0, 100.0)}),
        ("window", RAMP[..., :1], {"window": (30.0, 35.0)}),
        ("window", np.where(SPARSE > 0, 40, -1000).astype(np.float32), {}),
        ("zscore", SPARSE, {}),
        ("minmax", SPARSE, {}),
    ],
    ids=["a ramp", "one hot pixel", "two values", "a narrow window", "air and an organ", "zscore", "minmax"],
)
def test_a_range_with_contrast_is_kept_bit_for_bit(name, image, settings):
    assert not any(collapsed(name, image, **settings))
    settings = SETTINGS | settings
    statistics = intensity.measure(image)
    expected = intensity.NORMALIZATIONS[name].limits(statistics, settings)
    for bound, kept in zip(intensity.limits(name, statistics, settings), expected, strict=True):
        np.testing.assert_array_equal(np.broadcast_to(bound, np.shape(bound)), np.broadcast_to(kept, np.shape(bound)))


@pytest.mark.parametrize(
    ("name", "settings"), [("zscore", {}), ("minmax", {}), ("percentiles", {"percentiles": (0.0, 100.0)})]
)
def test_a_voxel_of_a_million_does_not_remove_the_contrast_of_the_others(name, settings):
    """Without that voxel, the intensities of HOT have mean 100 and standard deviation 30."""
    assert collapsed(name, HOT, **settings) == [True]
    (low, high) = limits(name, HOT, **settings)
    assert low[0] == pytest.approx(7, abs=10) and high[0] == pytest.approx(193, abs=10)


@pytest.mark.parametrize("name", intensity.NORMALIZATIONS)
def test_a_sparse_volume_does_not_become_constant(name):
    out = normalized(name, np.where(SPARSE > 0, SPARSE, np.float32(0)))
    assert np.ptp(out) > 0.5
