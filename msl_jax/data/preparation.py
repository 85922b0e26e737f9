"""Preprocessing of slices, the same in training and inference."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from msl_jax.data import intensity, resampling
from msl_jax.data.case import in_case
from msl_jax.data.intensity import Statistics
from msl_jax.data.resampling import Size
from msl_jax.labels import UNLABELED

AUTO, NATIVE, STRETCH = SPACINGS = ("auto", "native", "stretch")
"""Values of config.data.spacing besides pixel sizes: the median pixel size of the data set's cases, resolved before
training; no resampling; and resizing every slice to the network's size, whatever its pixel size and aspect.
"""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Settings of the preprocessing.

    Attributes:
      size: (y, x) of the network's images: patches of the resampled slices.
      spacing: (y, x) of the resampled slices' pixels, in the files' unit; or STRETCH or NATIVE.
      normalization: a key of intensity.NORMALIZATIONS.
      percentiles: limits of "percentiles", in percent.
      window: limits of "window", intensities as stored.
      values: label value of each class in the data set; values[0] is background, as are all other values.
    """

    size: Size
    spacing: tuple[float, float] | str
    normalization: str
    percentiles: tuple[float, float]
    window: tuple[float, float]
    values: tuple[int, ...]

    def grid(self, shape: Sequence[int], spacing: Sequence[float]) -> Size:
        """(y, x) of a resampled slice, from the (y, x) of its pixels and of their size."""
        if self.spacing == STRETCH:
            return self.size
        target = spacing if isinstance(self.spacing, str) else self.spacing
        y, x = (max(1, round(n * old / new)) for n, old, new in zip(shape, spacing, target, strict=True))
        return y, x

    def images(self, slices: np.ndarray, statistics: Statistics, spacing: Sequence[float]) -> np.ndarray:
        """Normalised and resampled slices.

        Args:
          slices: float32 (slice, y, x, channel), intensities as stored; any slices of a volume.
          statistics: of the volume, from intensity.measure.
          spacing: of the volume, (slice, y, x).

        Returns:
          float32 (slice, *grid, channel) in [0, 1].
        """
        normalized = self.normalize(slices, statistics)
        grid = self.grid(slices.shape[1:3], spacing[1:])
        return resampling.resize_image(normalized, grid, antialias=self.spacing != STRETCH)

    def normalize(self, image: np.ndarray, statistics: Statistics) -> np.ndarray:
        """Maps intensities as stored to [0, 1] by the statistics of their volume; float32 (..., y, x, channel)."""
        low, high = intensity.limits(self.normalization, statistics, dataclasses.asdict(self))
        return intensity.normalize(image, low, high)

    def mask(self, mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        """Classes or UNLABELED of resampled slices: a case's uint8 mask (slice, y, x) -> int32 (slice, *grid)."""
        classes = self.class_of_value()[mask]
        grid = self.grid(mask.shape[1:], spacing[1:])
        if self.spacing == STRETCH:
            return resampling.resize_nearest(classes, grid)
        return resampling.resize_mask(classes, grid)

    def collapsed(self, statistics: Statistics) -> np.ndarray:
        """Bool (channels,): where the normalisation would leave almost no contrast, so another range is used."""
        return intensity.collapse(self.normalization, statistics, dataclasses.asdict(self))

    def class_of_value(self) -> np.ndarray:
        """int32 (256,): value in a case's label map -> class; UNLABELED is kept."""
        table = np.zeros(256, np.int32)
        table[[in_case(value) for value in self.values]] = np.arange(len(self.values))
        table[UNLABELED] = UNLABELED
        return table

    def reference(self, mask: np.ndarray) -> np.ndarray:
        """The classes of a case's mask, int32 of its shape; unlabelled pixels are background."""
        classes = self.class_of_value()[mask]
        return np.where(classes == UNLABELED, 0, classes)

    def value_of_class(self) -> np.ndarray:
        """uint8 (classes,): class -> value in files."""
        return np.asarray(self.values, np.uint8)
