"""Checks of affines and distances between grids.

An affine is float (4, 4), (x, y, slice, 1) -> (right, anterior, superior, 1) in mm.
"""

from collections.abc import Sequence
import itertools
import math
import pathlib

import numpy as np

from msl_jax.errors import InputError

SIZE_TOLERANCE = 1e-3
"""Largest relative difference between the voxel sizes that a file gives twice."""
GRID_TOLERANCE = 0.1
"""Largest distance, in voxels, between grids that count as equal, because files round their origins."""
MAX_SKEW = 1.0
"""Largest deviation from perpendicular axes, in degrees, without a warning."""


def check(path: pathlib.Path, affine: np.ndarray, sizes: Sequence[float], names: tuple[str, str]) -> tuple[str, ...]:
    """Checks a file's geometry.

    Args:
      path: the file, for the message.
      affine: its affine.
      sizes: the voxel size along (x, y, slice) that the file gives in addition to the affine.
      names: the file's names of these sizes and of the affine, for the message.

    Returns:
      One warning for each unusual property.

    Raises:
      InputError: a number is not finite, the affine is singular, or its voxel sizes differ from `sizes`.
    """
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: its affine contains NaN or infinite values; export it again.")
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        axes = affine[:3, :3] / lengths
        volume = abs(np.linalg.det(axes))  # 1 if the axes are perpendicular
    if not volume > 1e-3:  # or NaN, if an axis has length 0
        raise InputError(
            f"{path}: its {names[1]} is singular: its axes do not span three dimensions; export the file again."
        )
    if not np.allclose(lengths, sizes, rtol=SIZE_TOLERANCE, atol=0):
        given, other = ("(" + ", ".join(f"{size:.6g}" for size in three) + ")" for three in (sizes, lengths))
        raise InputError(
            f"{path}: its header contradicts itself: the voxel size is {given} mm in its {names[0]}, but {other} mm in "
            f"its {names[1]}; correct the wrong one, or export the file again."
        )
    cosine = max(abs(axes[:, i] @ axes[:, j]) for i, j in itertools.combinations(range(3), 2))
    skew = math.degrees(math.asin(min(cosine, 1)))
    if skew <= MAX_SKEW:
        return ()
    return (
        f"{path}: its axes are {skew:.1f} degrees off perpendicular, but distances are measured as if they were "
        "perpendicular; resample the file if that matters.",
    )


def corner_distance(affine: np.ndarray, other: np.ndarray, shape: tuple[int, int, int]) -> float:
    """Largest corner distance of two grids of `shape` (x, y, slice), in voxels of the first affine.

    >>> corner_distance(np.eye(4), np.diag([1, 1, 1.5, 1]), (4, 4, 5))  # from -0.5 to 4.5, and from -0.75 to 6.75
    2.25
    """
    corners = np.array([(*corner, 1) for corner in itertools.product(*((-0.5, n - 0.5) for n in shape))])
    with np.errstate(all="ignore"):
        shifts = np.linalg.solve(affine[:3, :3], (other - affine)[:3] @ corners.T)
    return float(abs(shifts).max())


def first_voxel(affine: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The voxel (x, y, slice) of the first grid nearest to the other grid's first voxel, as float whole numbers."""
    with np.errstate(all="ignore"):
        return np.rint(np.linalg.solve(affine[:3, :3], (other - affine)[:3, 3]))


def with_origin_at(affine: np.ndarray, voxel: np.ndarray) -> np.ndarray:
    """The affine of the grid whose first voxel is this voxel, (x, y, slice), of the given one."""
    shifted = affine.copy()
    with np.errstate(all="ignore"):
        shifted[:3, 3] += affine[:3, :3] @ voxel
    return shifted
