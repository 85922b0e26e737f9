"""3D Slicer's segmentations (.seg.nrrd), NRRD files with extra fields, as label maps.

Segments that do not overlap are values of one label map. Overlapping segments are in separate layers along the first
axis. The fields SegmentN_Layer and SegmentN_LabelValue give a segment's layer and value; files of Slicer before 4.11
have neither, and one layer for each segment. The file may be cropped to the segments' extent.
"""

from collections.abc import Mapping
import pathlib
import re

import numpy as np

from msl_jax.errors import InputError

ENDING = ".seg.nrrd"
FIELD = re.compile(r"Segment(?:ation_|\d+_)")
"""Matches the names of fields that only segmentations have."""
FIX = "in Slicer, export it as a label map"


def fields(metadata: Mapping[str, str]) -> dict[str, str]:
    """Slicer's fields among those of a file; empty if the file is not a segmentation."""
    return {key: value for key, value in metadata.items() if FIELD.match(key)}


def label_map(path: pathlib.Path, voxels: np.ndarray, metadata: Mapping[str, str]) -> np.ndarray:
    """The segments as one label map.

    Args:
      path: the file, for the message.
      voxels: (slice, y, x), or (slice, y, x, layer).
      metadata: the file's `fields`.

    Returns:
      (slice, y, x).

    Raises:
      InputError: voxels are fractions, layers overlap, or segments share a value.
    """
    if any(
        "fractional" in metadata.get(f"Segmentation_{key}Representation", "").lower() for key in ("Source", "Master")
    ):
        raise InputError(f"{path}: is a segmentation with fractions of voxels; {FIX}.")
    if voxels.ndim == 3:
        return voxels
    layers = np.moveaxis(voxels, -1, 0)
    what = f"{path}: is a segmentation of {len(layers)} layers"
    if (np.count_nonzero(layers, axis=0) > 1).any():
        raise InputError(f"{what} that overlap; {FIX} with one value for each voxel.")
    ids = [match[1] for key in metadata if (match := re.fullmatch(r"Segment(\d+)_ID", key))]
    given = [metadata.get(f"Segment{number}_LabelValue", "1") for number in ids]
    present = [value for layer in layers for value in np.unique(layer) if value]
    if len(set(given)) < len(given) or len(set(present)) < len(present):
        raise InputError(f"{what} with segments of the same value; {FIX} with a separate value for each segment.")
    return layers.max(0)


def uncropped(labels: np.ndarray, first: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray | None:
    """A cropped label map on the whole grid.

    Args:
      labels: (slice, y, x).
      first: position of the first voxel, whole numbers (slice, y, x); below 0 if it is outside.
      shape: shape of the whole grid, (slice, y, x).

    Returns:
      Labels of that shape, 0 outside of the crop; None if a labelled voxel is outside of the grid.
    """
    whole = np.zeros(shape, labels.dtype)
    begin, end = np.maximum(first, 0), np.minimum(first + labels.shape, shape)
    if (begin >= end).any():
        return None if labels.any() else whole
    target = tuple(map(slice, begin.astype(int), end.astype(int)))
    source = tuple(map(slice, (begin - first).astype(int), (end - first).astype(int)))
    whole[target] = labels[source]
    return whole if np.count_nonzero(whole) == np.count_nonzero(labels) else None
