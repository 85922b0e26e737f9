"""A data set's fingerprint: the medians that settings follow from (nnU-Net, Isensee et al., Nature Methods 2021)."""

import dataclasses

import numpy as np

from msl_jax.data.builder import Dataset

HOUNSFIELD = (-1024.0, 3071.0)
"""Range of 12-bit Hounsfield units."""
AIR = -500.0
"""Hounsfield units: a CT with air around or inside the body has voxels below."""


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Medians over all cases of a data set, whatever their roles, so that folds and seeds agree.

    Attributes:
      spacing: size of a voxel, (slice, y, x), in the files' unit.
      shape: pixels of a slice, (y, x).
      extent: length of a slice's sides, (y, x), in the files' unit.
      foreground: the smaller of the channels' 0.5 % and the larger of their 99.5 % percentiles of intensities in
        structures; None if no case has a structure.
      ct: why the images are CT; "" if they are not.
    """

    spacing: tuple[float, float, float]
    shape: tuple[float, float]
    extent: tuple[float, float]
    foreground: tuple[float, float] | None
    ct: str


def fingerprint_of(data: Dataset) -> Fingerprint:
    """The fingerprint of a data set, from its cases' entries; images are not read."""
    spacing = np.array([entry.spacing for entry in data.entries])
    shape = np.array([entry.shape for entry in data.entries])
    limits = [entry.foreground for entry in data.entries if entry.foreground is not None]
    lows, highs = np.median(limits, axis=0) if limits else ((), ())
    foreground = (float(min(lows)), float(max(highs))) if limits else None
    lowest = np.median([entry.lowest for entry in data.entries], axis=0)
    return Fingerprint(
        spacing=tuple(np.median(spacing, axis=0).tolist()),
        shape=tuple(np.median(shape, axis=0).tolist()),
        extent=tuple(np.median(shape * spacing[:, 1:], axis=0).tolist()),
        foreground=foreground,
        ct=_ct(data.modalities, float(lowest.max()), foreground),
    )


def _ct(modalities: tuple[str, ...], lowest: float, foreground: tuple[float, float] | None) -> str:
    """Why images are CT: dataset.json says so, or, if it names no channel, intensities look like Hounsfield units."""
    if modalities:
        return "dataset.json says CT" if {name.strip().upper() for name in modalities} == {"CT"} else ""
    low, high = foreground or (0.0, 0.0)
    if lowest < AIR and HOUNSFIELD[0] <= low and high <= HOUNSFIELD[1]:
        return f"intensities look like Hounsfield units (smallest {lowest:g})"
    return ""
