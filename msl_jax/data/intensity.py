"""Which intensities become 0 and 1: of a volume's statistics, so that a slice needs nothing of its neighbours.

A normalisation is a row of NORMALIZATIONS. Each is one clip, per volume and channel, to a range that is then mapped to
[0, 1], where augmentation works.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

QUANTILES = 1001
"""A volume carries this many equidistant quantiles: any percentile in steps of 0.1."""
SHAPES = {"quantiles": (QUANTILES, None), "mean": (None,), "deviation": (None,)}
"""Name -> shape of what is measured, float32; None stands for the channels."""
DEVIATIONS = 3.0
"""How far from the mean "zscore" clips, in standard deviations."""

Statistics = Mapping[str, Any]


def measure(image: np.ndarray) -> dict[str, np.ndarray]:
    """The statistics of a volume, float32 (slice, y, x, channel), as SHAPES lists them."""
    values = image.reshape(-1, image.shape[-1])
    return {
        "quantiles": np.quantile(values, np.linspace(0, 1, QUANTILES), axis=0).astype(np.float32),
        "mean": values.mean(0, dtype=np.float64).astype(np.float32),
        "deviation": values.std(0, dtype=np.float64).astype(np.float32),
    }


def _percentiles(statistics: Statistics, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    return tuple(statistics["quantiles"][round(p / 100 * (QUANTILES - 1))] for p in settings["percentiles"])


def _window(statistics: Statistics, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    return tuple(np.float32(bound) for bound in settings["window"])


def _zscore(statistics: Statistics, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    reach = DEVIATIONS * statistics["deviation"]
    return statistics["mean"] - reach, statistics["mean"] + reach


def _minmax(statistics: Statistics, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    return statistics["quantiles"][0], statistics["quantiles"][-1]


NORMALIZATIONS: Mapping[str, Callable[[Statistics, Mapping[str, Any]], tuple[Any, Any]]] = {
    "percentiles": _percentiles,
    "window": _window,
    "zscore": _zscore,
    "minmax": _minmax,
}
"""Name -> (statistics of a volume, {"percentiles", "window"}) -> the intensities that become 0 and 1, float32 scalars
or (channels,); arrays of NumPy or TensorFlow, as the statistics are. "percentiles" suits intensities without a unit, as
of MRI, "window" those that have one (Hounsfield units of CT), "zscore" is mean and standard deviation,
"minmax" the whole range, as in the papers' 8-bit PNGs."""
