"""Preprocessing of slices, the same in training and inference."""

import dataclasses

import numpy as np
import tensorflow as tf

from msl_jax.data import intensity, transforms
from msl_jax.data.case import in_case
from msl_jax.data.intensity import Statistics
from msl_jax.labels import UNLABELED


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Settings of the preprocessing.

    Attributes:
      size: (y, x) of the network's images.
      normalization: a key of intensity.NORMALIZATIONS.
      percentiles: limits of "percentiles", in percent.
      window: limits of "window", intensities as stored.
      values: label value of each class in the data set; values[0] is background, as are all other values.
    """

    size: tuple[int, int]
    normalization: str
    percentiles: tuple[float, float]
    window: tuple[float, float]
    values: tuple[int, ...]

    def normalize(self, image: tf.Tensor, statistics: Statistics) -> tf.Tensor:
        """Maps intensities as stored to [0, 1] by the statistics of their volume; float32 (..., y, x, channel)."""
        low, high = intensity.limits(self.normalization, statistics, dataclasses.asdict(self))
        return transforms.normalize(image, low, high)

    def collapsed(self, statistics: Statistics) -> np.ndarray:
        """Bool (channels,): where the normalisation would leave almost no contrast, so another range is used."""
        return intensity.collapse(self.normalization, statistics, dataclasses.asdict(self)).numpy()

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
