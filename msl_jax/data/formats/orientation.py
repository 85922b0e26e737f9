"""Orientations: volumes are permuted and flipped, never resampled, so that all slices have the same orientation.

Directions are float64 (3, 3): for each axis of an array (slice, y, x) the unit vector of its growing index, in (right,
anterior, superior). Volumes are compared by the angles between their axes, not by axis codes: short-axis stacks of two
hearts may have the codes "LSP" and "PSR" but differ by only 15 degrees.
"""

from collections.abc import Iterable, Sequence
import dataclasses

import nibabel as nib
import numpy as np
from scipy.optimize import linear_sum_assignment

FAR = 30.0
"""Largest angle in degrees between axes after reorientation without a warning; augmentation rotates up to 30."""
COARSER = 2.0
"""A voxel is clearly larger along an axis if it is more than this many times its size along each other axis."""
LAST = 2
"""The axis of (x, y, z) that slices are perpendicular to if no other one is clearly coarser."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """A permutation and flips of the three axes of a volume.

    Attributes:
      axes: which axis of the volume becomes axis 0, 1 and 2.
      flips: which axes are reversed after that.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    def apply(self, volume: np.ndarray) -> np.ndarray:
        """Reorients a volume (slice, y, x[, channel]); returns a view."""
        return np.transpose(volume, (*self.axes, *range(3, volume.ndim)))[self._flipped()]

    def undo(self, volume: np.ndarray) -> np.ndarray:
        """The inverse of `apply`."""
        return np.transpose(volume[self._flipped()], (*np.argsort(self.axes).tolist(), *range(3, volume.ndim)))

    def spacing(self, spacing: Sequence[float]) -> tuple[float, float, float]:
        """The voxel size along the axes of the reoriented volume."""
        z, y, x = (spacing[axis] for axis in self.axes)
        return z, y, x

    def directions(self, directions: np.ndarray) -> np.ndarray:
        """The directions of the reoriented volume."""
        return directions[list(self.axes)] * np.where(self.flips, -1.0, 1.0)[:, None]

    def affine(self, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """The affine of the reoriented volume.

        Args:
          affine: float (4, 4), (x, y, slice, 1) of the volume -> RAS.
          shape: the volume's shape, (slice, y, x).
        """
        turned = affine.copy()
        for column, axis, flip in zip((2, 1, 0), self.axes, self.flips, strict=True):
            along = affine[:, 2 - axis]
            turned[:, column] = -along if flip else along
            turned[:, 3] += along * (shape[axis] - 1) * flip
        return turned

    def _flipped(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)


UNTURNED = Turn()


def turn_across(axis: int) -> Turn:
    """The turn of a file (z, y, x) whose slices become perpendicular to `axis` of its (x, y, z)."""
    first = 2 - axis
    second, third = (i for i in range(3) if i != first)
    return Turn((first, second, third))


def coarsest(spacing: Sequence[float]) -> int:
    """The axis of (x, y, z) along which voxels (z, y, x) are COARSER than along both others, else LAST.

    >>> coarsest((1.0, 1.0, 5.0)), coarsest((10.0, 1.5, 1.5)), coarsest((1.0, 1.2, 1.0)), coarsest((1.0, 3.0, 3.0))
    (0, 2, 2, 2)
    """
    second, largest = np.argsort(spacing)[1:].tolist()
    return 2 - largest if spacing[largest] > COARSER * spacing[second] else LAST


def directions_of(affine: np.ndarray) -> np.ndarray:
    """The directions of a volume (slice, y, x) with this affine (4, 4), (x, y, slice, 1) -> RAS."""
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return columns.T[::-1]


def codes(directions: np.ndarray) -> str:
    """The axis codes of (x, y, slice), such as "LPS"."""
    affine = np.eye(4)
    affine[:3, :3] = directions[::-1].T
    return "".join(nib.aff2axcodes(affine))


def nearest(directions: np.ndarray, target: np.ndarray) -> tuple[Turn, float]:
    """The turn that brings a volume's orientation nearest to a target.

    Args:
      directions: the volume's directions.
      target: the target's directions.

    Returns:
      The turn, and the largest angle in degrees that remains between an axis and its target.
    """
    cosines = target @ directions.T
    axes = linear_sum_assignment(-np.abs(cosines))[1]
    matched = cosines[np.arange(3), axes]
    angle = np.degrees(np.arccos(np.clip(np.abs(matched).min(), 0.0, 1.0)))
    return Turn(tuple(axes.tolist()), tuple((matched < 0).tolist())), float(angle)


def turn_of(directions: np.ndarray | None, target: np.ndarray | None, axis: int) -> tuple[Turn, float | None]:
    """How a file (slice, y, x) is reoriented for a network.

    Args:
      directions: the file's directions; None if unknown.
      target: the directions of the network's training slices; None if unknown.
      axis: the axis of the file's (x, y, z) that slices are perpendicular to if either is unknown.

    Returns:
      The turn, and the largest angle in degrees that remains between axes; None if either is unknown.
    """
    if directions is None or target is None:
        return turn_across(axis), None
    return nearest(directions, target)


def commonest(directions: Iterable[np.ndarray]) -> np.ndarray | None:
    """The directions of the first volume in the largest group of similar orientations; None without volumes.

    An orientation is similar to that of a group's first volume if no turn brings it nearer.
    """
    groups: list[list[np.ndarray]] = []
    for volume in directions:
        group = next((group for group in groups if nearest(volume, group[0])[0] == UNTURNED), None)
        if group is None:
            groups.append([volume])
        else:
            group.append(volume)
    return max(groups, key=len)[0] if groups else None
