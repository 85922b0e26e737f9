"""Connected components of label maps."""

from collections.abc import Collection

import numpy as np
from scipy import ndimage

NEIGHBOURS = np.ones((3, 3, 3))
"""A voxel and its 26 neighbours."""


def largest_components(label_map: np.ndarray, labels: Collection[int] = range(1, 256)) -> np.ndarray:
    """Removes all but the largest 26-connected component of some labels; of equally large ones, the first is kept.

    Args:
      label_map: uint8 (slice, y, x).
      labels: the labels, by default all but 0.

    Returns:
      A copy, where voxels of the other components are 0.
    """
    kept = label_map.copy()
    for label, box in enumerate(ndimage.find_objects(label_map), start=1):
        if box is not None and label in labels:
            components, _ = ndimage.label(label_map[box] == label, NEIGHBOURS)
            sizes = np.bincount(components.ravel())
            sizes[0] = 0
            kept[box][(components > 0) & (components != sizes.argmax())] = 0
    return kept
