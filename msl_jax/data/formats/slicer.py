"""3D Slicer's segmentations (.seg.nrrd): NRRD files with fields of their own, as label maps.

Segments that do not overlap are values of one label map; of those that do, each lies in a layer of its own, along the
first axis. The fields SegmentN_Layer and SegmentN_LabelValue say where and by which value; files of Slicer before 4.11
have neither, and a layer for each segment. The file may be cut to the segments' extent.
"""

from collections.abc import Mapping
import pathlib
import re

import numpy as np

from msl_jax.errors import InputError

ENDING = ".seg.nrrd"
FIELD = re.compile(r"Segment(?:ation_|\d+_)")
"""How the fields are called that no other file has."""
CURE = "in Slicer, export it as a label map"


def fields(metadata: Mapping[str, str]) -> dict[str, str]:
    """Slicer's own fields among those of a file; none where the file is no segmentation."""
    return {key: value for key, value in metadata.items() if FIELD.match(key)}


def label_map(path: pathlib.Path, voxels: np.ndarray, metadata: Mapping[str, str]) -> np.ndarray:
    """The values of all segments.

    Args:
      path: the file, for the message.
      voxels: (slice, y, x), or (slice, y, x, layer).
      metadata: the file's `fields`.

    Returns:
      (slice, y, x).

    Raises:
      InputError: voxels are fractions, or layers overlap or share a value.
    """
    if any(
        "fractional" in metadata.get(f"Segmentation_{key}Representation", "").lower() for key in ("Source", "Master")
    ):
        raise InputError(f"{path}: is a segmentation by fractions of voxels; {CURE}.")
    if voxels.ndim == 3:
        return voxels
    layers = np.moveaxis(voxels, -1, 0)
    what = f"{path}: is a segmentation of {len(layers)} layers"
    if (np.count_nonzero(layers, axis=0) > 1).any():
        raise InputError(f"{what} that overlap; {CURE}, where each voxel has one value.")
    ids = [match[1] for key in metadata if (match := re.fullmatch(r"Segment(\d+)_ID", key))]
    given = [metadata.get(f"Segment{number}_LabelValue", "1") for number in ids]
    held = [value for layer in layers for value in np.unique(layer) if value]
    if len(set(given)) < len(given) or len(set(held)) < len(held):
        raise InputError(f"{what} with segments of one value; {CURE}, where each segment has its own.")
    return layers.max(0)


def placed(labels: np.ndarray, first: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray | None:
    """Labels cut to their extent, back in their place.

    Args:
      labels: (slice, y, x).
      first: where the first voxel belongs, whole numbers (slice, y, x), below 0 where that is outside.
      shape: of the whole, (slice, y, x).

    Returns:
      Labels of that shape, 0 where nothing was; None where a structure lies outside.
    """
    whole = np.zeros(shape, labels.dtype)
    begin, end = np.maximum(first, 0), np.minimum(first + labels.shape, shape)
    if (begin >= end).any():
        return None if labels.any() else whole
    there = tuple(map(slice, begin.astype(int), end.astype(int)))
    here = tuple(map(slice, (begin - first).astype(int), (end - first).astype(int)))
    whole[there] = labels[here]
    return whole if np.count_nonzero(whole) == np.count_nonzero(labels) else None
