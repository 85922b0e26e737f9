"""Which intensities become 0 and 1: of a volume's statistics, so that a slice needs nothing of its neighbours.

A normalisation is a row of NORMALIZATIONS. Each is one clip, per volume and channel, to a range that is then mapped to
[0, 1], where augmentation works. A range in which nothing of the volume could be told apart is widened (`limits`).
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

QUANTILES = 1001
"""A volume carries this many equidistant quantiles: any percentile in steps of 0.1."""
SHAPES = {"quantiles": (QUANTILES, None), "mean": (None,), "deviation": (None,)}
"""Name -> shape of what is measured, float32; None stands for the channels."""
NARROW = 0.01
"""The least share of one range in another below which neither tells intensities apart."""
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


def percentiles(statistics: Statistics, percents: Sequence[float]) -> list[Any]:
    """Of each channel, (channels,), for percents in steps of 0.1."""
    return [statistics["quantiles"][round(p / 100 * (QUANTILES - 1))] for p in percents]


def _percentiles(statistics: Statistics, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    low, high = percentiles(statistics, settings["percentiles"])
    return low, high


def _window(statistics: Statistics, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    low, high = (np.float32(bound) for bound in settings["window"])
    return low, high


def _zscore(statistics: Statistics, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    reach = DEVIATIONS * statistics["deviation"]
    return statistics["mean"] - reach, statistics["mean"] + reach


def _minmax(statistics: Statistics, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    return statistics["quantiles"][0], statistics["quantiles"][-1]


@dataclasses.dataclass(frozen=True)
class Normalization:
    """A row of NORMALIZATIONS.

    Attributes:
      limits: (statistics of a volume, {"percentiles", "window"}) -> the intensities that become 0 and 1.
      given: whether they come from the settings alone, so that a narrow range is meant.
    """

    limits: Callable[[Statistics, Mapping[str, Any]], tuple[Any, Any]]
    given: bool = False


NORMALIZATIONS: Mapping[str, Normalization] = {
    "percentiles": Normalization(_percentiles),
    "window": Normalization(_window, given=True),
    "zscore": Normalization(_zscore),
    "minmax": Normalization(_minmax),
}
"""Name -> how the range is found. "percentiles" suits intensities without a unit, as of MRI, "window" those that have
one (Hounsfield units of CT), "zscore" is mean and standard deviation, "minmax" the whole range, as in the papers' 8-bit
PNGs."""


def limits(name: str, statistics: Statistics, settings: Mapping[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
    """The intensities of a volume that become 0 and 1.

    They are the normalisation's, or where those `collapse` the range of all but the outermost 0.1 % of the voxels at
    either end, or of all voxels where the rest is one value.

    Args:
      name: a key of NORMALIZATIONS.
      statistics: of the volume, as `measure` gives them; NumPy's or TensorFlow's.
      settings: "percentiles" and "window".

    Returns:
      float32 (channels,), twice.
    """
    low, high = NORMALIZATIONS[name].limits(statistics, settings)
    collapsed, (least, most) = collapse(name, statistics, settings), _held(statistics)
    return tf.where(collapsed, least, low), tf.where(collapsed, most, high)


def collapse(name: str, statistics: Statistics, settings: Mapping[str, Any]) -> tf.Tensor:
    """Bool (channels,): where a normalisation would make a volume all but one value; arguments as of `limits`.

    Its range is less than NARROW of what the volume holds, as percentiles of an image that is 0 but for a vessel. Or
    what the volume holds is less than NARROW of the range, as in a window for Hounsfield units that is laid on
    intensities from 0 to 1, or in the whole range where one voxel is a million. A range that is given may be meant for
    a few voxels, so there every voxel counts.
    """
    low, high = NORMALIZATIONS[name].limits(statistics, settings)
    least, most = _held(statistics)
    given = NORMALIZATIONS[name].given
    ends = (statistics["quantiles"][0], statistics["quantiles"][-1]) if given else (least, most)
    first, last = (tf.clip_by_value(end, low, high) for end in ends)
    narrow = tf.logical_and(high - low < NARROW * (most - least), not given)
    return tf.logical_or(narrow, last - first < NARROW * (high - low))


def _held(statistics: Statistics) -> tuple[tf.Tensor, tf.Tensor]:
    """What a volume holds, each (channels,): from the first to the last 0.1 %, or all where that is one value."""
    quantiles = statistics["quantiles"]
    one_value = quantiles[1] == quantiles[-2]
    return tf.where(one_value, quantiles[0], quantiles[1]), tf.where(one_value, quantiles[-1], quantiles[-2])
