"""Intensity normalisation by statistics of the volume.

A normalisation is a row of NORMALIZATIONS: a range for each volume and channel. Intensities are clipped to the range
and mapped to [0, 1], as augmentation needs. If that would leave almost no contrast, another range is used (`limits`).
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

QUANTILES = 1001
"""Number of equidistant quantiles of a volume: percentiles in steps of 0.1."""
NARROW = 0.01
"""Smallest ratio of two ranges; below it, `collapse` is true."""
DEVIATIONS = 3.0
"""Standard deviations from the mean at which "zscore" clips."""
Statistics = Mapping[str, np.ndarray]
"""float32: "quantiles" (QUANTILES, channels), "mean" (channels,) and "deviation" (channels,)."""


def measure(image: np.ndarray) -> dict[str, np.ndarray]:
    """The statistics of a volume, float32 (slice, y, x, channel).

    Besides the volume, it needs memory for one channel and one slice.
    """
    mean = image.mean((0, 1, 2), dtype=np.float64)
    variance = sum(np.square(plane - mean).mean((0, 1)) for plane in image) / len(image)
    return {
        "quantiles": np.stack([_quantiles(channel) for channel in np.moveaxis(image, -1, 0)], -1),
        "mean": mean.astype(np.float32),
        "deviation": np.sqrt(variance).astype(np.float32),
    }


def _quantiles(values: np.ndarray) -> np.ndarray:
    """QUANTILES equidistant quantiles, float32."""
    probabilities = np.linspace(0, 1, QUANTILES)
    return np.quantile(values.flatten(), probabilities, overwrite_input=True).astype(np.float32)


def percentiles(statistics: Statistics, percents: Sequence[float]) -> list[Any]:
    """Percentiles of each channel, (channels,), for percents in steps of 0.1."""
    return [statistics["quantiles"][round(p / 100 * (QUANTILES - 1))] for p in percents]


def _percentiles(statistics: Statistics, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    low, high = percentiles(statistics, settings["percentiles"])
    return low, high


def _window(statistics: Statistics, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    low, high = (np.float32(bound) for bound in settings["window"])
    return low, high


def _zscore(statistics: Statistics, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    half_range = DEVIATIONS * statistics["deviation"]
    return statistics["mean"] - half_range, statistics["mean"] + half_range


def _minmax(statistics: Statistics, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    return statistics["quantiles"][0], statistics["quantiles"][-1]


@dataclasses.dataclass(frozen=True)
class Normalization:
    """A row of NORMALIZATIONS.

    Attributes:
      limits: (statistics of a volume, {"percentiles", "window"}) -> the intensities that become 0 and 1.
      fixed: whether the limits depend only on the settings; a narrow range is then intended.
    """

    limits: Callable[[Statistics, Mapping[str, Any]], tuple[Any, Any]]
    fixed: bool = False


NORMALIZATIONS: Mapping[str, Normalization] = {
    "percentiles": Normalization(_percentiles),
    "window": Normalization(_window, fixed=True),
    "zscore": Normalization(_zscore),
    "minmax": Normalization(_minmax),
}
"""Name -> normalisation. "percentiles" is for intensities without a unit (MRI), "window" for those with one (Hounsfield
units of CT), "zscore" uses mean and standard deviation, "minmax" the whole range, as in the papers' 8-bit PNGs."""


def normalize(image: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Clips intensities (..., channel) to [low, high] and maps that range to [0, 1], float32; a constant becomes 0."""
    span = high - low
    return (np.clip(image, low, high) - low) / np.where(span > 0, span, 1)


def limits(name: str, statistics: Statistics, settings: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The intensities of a volume that become 0 and 1.

    These are the limits of the normalisation. Where they `collapse`, they are the 0.1 and 99.9 % percentiles, or the
    minimum and maximum if those are equal.

    Args:
      name: a key of NORMALIZATIONS.
      statistics: of the volume, from `measure`.
      settings: "percentiles" and "window".

    Returns:
      float32 (channels,), twice.
    """
    low, high = NORMALIZATIONS[name].limits(statistics, settings)
    collapsed, (least, most) = collapse(name, statistics, settings), _robust_range(statistics)
    return np.where(collapsed, least, low), np.where(collapsed, most, high)


def collapse(name: str, statistics: Statistics, settings: Mapping[str, Any]) -> np.ndarray:
    """Bool (channels,): where a normalisation would leave almost no contrast in a volume; arguments as in `limits`.

    Either its range is less than NARROW of the volume's, as for percentiles of an image that is 0 except in a vessel.
    Or the volume's range is less than NARROW of it, as for a window in Hounsfield units and intensities from 0 to 1, or
    for the whole range if one voxel is a million. The volume's range is between its 0.1 and 99.9 % percentiles. A fixed
    range can be intended for a few voxels: it may be narrow, and the volume's range then includes all voxels.
    """
    low, high = NORMALIZATIONS[name].limits(statistics, settings)
    least, most = _robust_range(statistics)
    fixed = NORMALIZATIONS[name].fixed
    ends = (statistics["quantiles"][0], statistics["quantiles"][-1]) if fixed else (least, most)
    first, last = (np.clip(end, low, high) for end in ends)
    narrow = np.logical_and(high - low < NARROW * (most - least), not fixed)
    return np.logical_or(narrow, last - first < NARROW * (high - low))


def _robust_range(statistics: Statistics) -> tuple[np.ndarray, np.ndarray]:
    """The 0.1 and 99.9 % percentiles, each (channels,), or minimum and maximum where these are equal."""
    quantiles = statistics["quantiles"]
    equal = quantiles[1] == quantiles[-2]
    return np.where(equal, quantiles[0], quantiles[1]), np.where(equal, quantiles[-1], quantiles[-2])
