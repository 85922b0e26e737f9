"""Weak annotations made from full masks, for experiments: which few pixels a hurried annotator would have drawn.

A recipe maps the label map of one slice, int (y, x) with classes 0 (background) to C - 1, to a weak label map of the
same shape: the class where the pixel is annotated, UNLABELED elsewhere. It never contradicts the mask.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

from msl_jax.data.case import UNLABELED

MAX_EROSIONS = 10


def erosion(mask: np.ndarray, *, background: bool) -> np.ndarray:
    """The innermost pixels of every structure (LIVIAETS/SizeLoss_WSS, to which the papers' authors point).

    Each structure is eroded with the full 3 x 3 element 10 times if something is left, else 9 times, and so on down to
    the structure itself. A pixel survives k erosions where its chessboard distance to the outside is above k, so one
    distance transform stands for all of them. What lies beyond the image counts as outside.

    Args:
      mask: int (y, x), classes 0 to C - 1.
      background: whether the background is eroded and annotated too.

    Returns:
      int32 (y, x), a class or UNLABELED.
    """
    weak = np.full(mask.shape, UNLABELED, np.int32)
    for label, box in enumerate(ndimage.find_objects(mask), start=1):
        if box:
            weak[box][_core(mask[box] == label)] = label
    if background and not mask.all():
        weak[_core(mask == 0)] = 0
    return weak


RECIPES: Mapping[str, Callable[..., np.ndarray]] = {"erosion": erosion}


def _core(structure: np.ndarray) -> np.ndarray:
    depth = ndimage.distance_transform_cdt(np.pad(structure, 1), metric="chessboard")[1:-1, 1:-1]
    return depth > min(MAX_EROSIONS, depth.max() - 1)
