"""Checks of affines, and the distance between two grids.

An affine is float (4, 4), (x, y, slice, 1) -> (right, anterior, superior, 1) in mm.
"""

from collections.abc import Sequence
import itertools
import math
import pathlib

import numpy as np

from msl_jax.errors import InputError

SAME_SIZE = 1e-3
"""Largest relative difference between two sizes given for the same voxel."""
SAME_PLACE = 0.1
"""Voxels that two grids may be apart and still count as one, since files round their origins."""
SKEW = 1.0
"""Degrees that axes may be off perpendicular without a remark."""


def check(path: pathlib.Path, affine: np.ndarray, sizes: Sequence[float], names: tuple[str, str]) -> tuple[str, ...]:
    """Checks a file's geometry.

    Args:
      path: the file, for the message.
      affine: its affine.
      sizes: of a voxel along (x, y, slice), as the file gives them beside the affine.
      names: what the file calls these sizes, and what the affine.

    Returns:
      What looks odd, one sentence each.

    Raises:
      InputError: a number is not finite, the affine is singular, or its voxels are of other sizes.
    """
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: its affine holds NaN or infinite values; export it again.")
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        axes = affine[:3, :3] / lengths
        volume = abs(np.linalg.det(axes))  # of a box with edges of 1: 1 where they are perpendicular
    if not volume > 1e-3:  # NaN where an axis is none
        raise InputError(
            f"{path}: its {names[1]} is singular, it does not span three dimensions; export the file again."
        )
    if not np.allclose(lengths, sizes, rtol=SAME_SIZE, atol=0):
        given, other = ("(" + ", ".join(f"{size:.6g}" for size in three) + ")" for three in (sizes, lengths))
        raise InputError(
            f"{path}: its header contradicts itself, voxels are of {given} mm by its {names[0]} and of {other} mm by "
            f"its {names[1]}; correct the one that is wrong, or export the file again."
        )
    cosine = max(abs(axes[:, i] @ axes[:, j]) for i, j in itertools.combinations(range(3), 2))
    skew = math.degrees(math.asin(min(cosine, 1)))
    if skew <= SKEW:
        return ()
    return (
        f"{path}: its axes are {skew:.1f} degrees off perpendicular, and distances are measured as if they were "
        "perpendicular; resample it where that matters.",
    )


def apart(affine: np.ndarray, other: np.ndarray, shape: tuple[int, int, int]) -> float:
    """How far apart two affines put the corners of a grid of `shape` (x, y, slice), at most, in voxels of the first.

    >>> apart(np.eye(4), np.diag([1, 1, 1.5, 1]), (4, 4, 5))  # from -0.5 to 4.5, and from -0.75 to 6.75
    2.25
    """
    corners = np.array([(*corner, 1) for corner in itertools.product(*((-0.5, n - 0.5) for n in shape))])
    with np.errstate(all="ignore"):
        shifts = np.linalg.solve(affine[:3, :3], (other - affine)[:3] @ corners.T)
    return float(abs(shifts).max())


def first_voxel(affine: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The voxel (x, y, slice) of the first grid, rounded to whole numbers, on which the other grid's first one lies."""
    with np.errstate(all="ignore"):
        return np.rint(np.linalg.solve(affine[:3, :3], (other - affine)[:3, 3]))


def moved(affine: np.ndarray, voxel: np.ndarray) -> np.ndarray:
    """The affine of a grid whose first voxel is this one, (x, y, slice), of the given grid."""
    shifted = affine.copy()
    with np.errstate(all="ignore"):
        shifted[:3, 3] += affine[:3, :3] @ voxel
    return shifted
