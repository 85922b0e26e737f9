"""What affines say: whether a file's makes sense, and how far apart two grids lie.

An affine is float (4, 4), (x, y, slice, 1) -> (right, anterior, superior, 1) in mm.
"""

from collections.abc import Sequence
import itertools
import math
import pathlib

import numpy as np

from msl_jax.errors import InputError

SAME_SIZE = 1e-3
"""By what part two sizes of one voxel may differ."""
SAME_PLACE = 0.1
"""By how many voxels two grids may lie apart and be one: files round their origins."""
SKEW = 1.0
"""By how many degrees axes may be off perpendicular without a remark."""


def check(path: pathlib.Path, affine: np.ndarray, sizes: Sequence[float], names: tuple[str, str]) -> tuple[str, ...]:
    """Looks through a file's geometry.

    Args:
      path: the file, for the message.
      affine: its affine.
      sizes: of a voxel along (x, y, slice), as the file gives them beside the affine.
      names: what the file calls these sizes, and what the affine.

    Returns:
      What looks odd, a sentence each.

    Raises:
      InputError: a number is not finite, the affine is singular, or its voxels are of other sizes.
    """
    if not np.isfinite(affine).all():
        raise InputError(f"{path}: its affine holds NaN or infinite values; export it anew.")
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        axes = affine[:3, :3] / lengths
        volume = abs(np.linalg.det(axes))  # of a box with edges of 1: 1 where they are perpendicular
    if not volume > 1e-3:  # NaN where an axis is none
        raise InputError(
            f"{path}: its {names[1]} is singular, it does not span three dimensions; export the file again."
        )
    if not np.allclose(lengths, sizes, rtol=SAME_SIZE, atol=0):
        given, other = ("(" + ", ".join(f"{size:.6g}" for size in said) + ")" for said in (sizes, lengths))
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
