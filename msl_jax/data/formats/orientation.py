"""Which way volumes lie: permuted and flipped, never resampled, so that the slices of all of them lie alike.

Directions are float64 (3, 3): for each axis of an array (slice, y, x) the unit vector along which its index grows, in
(right, anterior, superior). Volumes are compared by the angles between their axes, not by axis codes: short-axis
stacks of two hearts may have the codes "LSP" and "PSR" and yet lie 15 degrees apart.
"""

from collections.abc import Iterable, Sequence
import dataclasses

import nibabel as nib
import numpy as np
from scipy.optimize import linear_sum_assignment

FAR = 30.0
"""Degrees by which axes may differ after turning before that is worth a sentence; augmentation rotates up to 30."""


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
        """Turns a volume of three axes, with or without channels behind them; a view of it."""
        return np.transpose(volume, (*self.axes, *range(3, volume.ndim)))[self._flipped()]

    def undo(self, volume: np.ndarray) -> np.ndarray:
        """The inverse of `apply`."""
        return np.transpose(volume[self._flipped()], (*np.argsort(self.axes).tolist(), *range(3, volume.ndim)))

    def spacing(self, spacing: Sequence[float]) -> tuple[float, float, float]:
        """The voxel's size along the axes of the turned volume."""
        z, y, x = (spacing[axis] for axis in self.axes)
        return z, y, x

    def directions(self, directions: np.ndarray) -> np.ndarray:
        """Those of the turned volume."""
        return directions[list(self.axes)] * np.where(self.flips, -1.0, 1.0)[:, None]

    def affine(self, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """That of the turned volume.

        Args:
          affine: float (4, 4), (x, y, slice, 1) of the volume -> RAS.
          shape: of the volume, (slice, y, x).
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
    """(z, y, x) of a file with axes (x, y, z) -> (slice, row, column), slices being across `axis` of the file."""
    first = 2 - axis
    second, third = (i for i in range(3) if i != first)
    return Turn((first, second, third))


def directions_of(affine: np.ndarray) -> np.ndarray:
    """The directions of a volume (slice, y, x) whose affine (4, 4) takes (x, y, slice, 1) to RAS."""
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return columns.T[::-1]


def codes(directions: np.ndarray) -> str:
    """Where the axes (x, y, slice) of a volume point to, like "LPS"."""
    affine = np.eye(4)
    affine[:3, :3] = directions[::-1].T
    return "".join(nib.aff2axcodes(affine))


def nearest(directions: np.ndarray, target: np.ndarray) -> tuple[Turn, float]:
    """The turn after which a volume lies as nearly as can be like another.

    Args:
      directions: of the volume.
      target: of the other.

    Returns:
      The turn, and the largest angle in degrees that is left between an axis and its target.
    """
    cosines = target @ directions.T
    axes = linear_sum_assignment(-np.abs(cosines))[1]
    matched = cosines[np.arange(3), axes]
    angle = np.degrees(np.arccos(np.clip(np.abs(matched).min(), 0.0, 1.0)))
    return Turn(tuple(axes.tolist()), tuple((matched < 0).tolist())), float(angle)


def turn_of(directions: np.ndarray | None, target: np.ndarray | None, axis: int) -> tuple[Turn, float | None]:
    """How a file (slice, y, x) is turned for a network.

    Args:
      directions: of the file; None where they are not known.
      target: of the slices that the network was trained on.
      axis: of the file's (x, y, z), across which slices are cut where either is not known.

    Returns:
      The turn, and the largest angle in degrees that is left between axes; None where either is not known.
    """
    if directions is None or target is None:
        return turn_across(axis), None
    return nearest(directions, target)


def commonest(directions: Iterable[np.ndarray]) -> np.ndarray | None:
    """The directions of the first of the largest group of volumes that lie alike; None where there are none.

    Volumes lie alike where turning would not bring one nearer to the first of its group.
    """
    groups: list[list[np.ndarray]] = []
    for found in directions:
        group = next((group for group in groups if nearest(found, group[0])[0] == UNTURNED), None)
        if group is None:
            groups.append([found])
        else:
            group.append(found)
    return max(groups, key=len)[0] if groups else None
