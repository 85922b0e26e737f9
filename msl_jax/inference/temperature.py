"""Temperature scaling of probabilities (Guo, Pleiss, Sun and Weinberger, ICML 2017), fitted on validation cases.

With a temperature T, the probabilities p of a voxel become p_c^(1/T) / sum_k p_k^(1/T), which is softmax(logits / T) of
p = softmax(logits). Above 1 it makes a branch less certain, below 1 more. The most probable class stays. It is applied
on the volume's own grid, after windows are merged and slices resized, where there are no logits.
"""

from collections.abc import Iterable
import math
from typing import NamedTuple

import numpy as np
from scipy import optimize

from msl_jax.labels import UNLABELED

PROBABILITIES = 4_000_000
"""Numbers of all validation cases together that a temperature is fitted on: voxels times classes."""
RANGE = (0.1, 10.0)
"""Least and greatest temperature; if every voxel is right, the least one fits best."""


class Voxels(NamedTuple):
    """Some labelled voxels: float32 probabilities (n, classes), background first, and int classes (n,)."""

    probabilities: np.ndarray
    classes: np.ndarray


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities at a temperature.

    Args:
      probabilities: float32 (..., classes).
      temperature: above 0.

    Returns:
      float32, the same shape.

    >>> print(scaled(np.array([0.2, 0.8], np.float32), 0.5))  # squares, 1 : 16
    [0.05882353 0.9411765 ]
    """
    powers = probabilities ** np.float32(1 / temperature)
    return powers / powers.sum(-1, keepdims=True)


def draw(probabilities: np.ndarray, classes: np.ndarray, number: int, seed: tuple[int, ...]) -> Voxels:
    """At most this many voxels at random places.

    Args:
      probabilities: float32 (..., classes).
      classes: int (...), the reference's classes or UNLABELED, which is never drawn.
      number: the most voxels.
      seed: whole numbers; equal seeds draw equal voxels.
    """
    labelled = np.flatnonzero(classes != UNLABELED)
    if len(labelled) > number:
        labelled = np.random.default_rng(seed).choice(labelled, number, replace=False)
    return Voxels(probabilities.reshape(-1, probabilities.shape[-1])[labelled], classes.ravel()[labelled])


def fit(voxels: Iterable[Voxels]) -> float:
    """The temperature in RANGE with the least mean of -log p[class] over these voxels; 1 if there are none."""
    probabilities, classes = (np.concatenate(arrays) for arrays in zip(*voxels, strict=True))
    if not classes.size:
        return 1.0
    log_p = np.log(probabilities.clip(np.finfo(np.float32).tiny))
    of_class = np.take_along_axis(log_p, classes[:, None].astype(int), 1)[:, 0].mean(dtype=np.float64)

    def loss(log_temperature: float) -> float:
        beta = np.float32(math.exp(-log_temperature))
        return np.log(np.exp(beta * log_p).sum(-1)).mean(dtype=np.float64) - beta * of_class

    found = optimize.minimize_scalar(loss, bounds=[math.log(bound) for bound in RANGE], method="bounded")
    return math.exp(found.x)
