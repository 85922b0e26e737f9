"""What a reader hands over: one 3-D volume with its mask, and the words for it."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses

import numpy as np

UNLABELED = 255
"""A pixel nobody annotated, in every label map of this package."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One volume of one patient.

    Attributes:
      name: unique within the data set; what its files are called, without ending.
      patient: whose volume it is; a split never divides a patient.
      group: stratum of the patient (in ACDC the disease); splits are drawn within groups.
      phase: "ED", "ES", or "" where the data set knows no phases.
      frame: number of the frame within the patient's series, 0 where there is none.
      image: float32 (slice, y, x), intensities as stored.
      mask: uint8 (slice, y, x), the data set's own label values.
      annotation: uint8 (slice, y, x), label values or UNLABELED, as drawn by a person; None without one.
      spacing: size of a voxel along (slice, y, x), in `units`.
      units: "mm", or "voxel" where the file's header says nothing.
    """

    name: str
    patient: str
    group: str
    phase: str
    frame: int
    image: np.ndarray
    mask: np.ndarray
    annotation: np.ndarray | None
    spacing: tuple[float, float, float]
    units: str


@dataclasses.dataclass(frozen=True)
class Reader:
    """A data set's layout, as the builder wants it.

    Attributes:
      labels: name -> value of every structure a mask may hold; 0 is background and not named.
      fingerprint: source -> text that changes whenever the data do.
      read: source -> its cases, in an order that depends on the source alone.
      not_images: how the names of files end that lie among the images and are none; `predict` passes them over.
    """

    labels: Mapping[str, int]
    fingerprint: Callable[[str], str]
    read: Callable[[str], Iterator[Case]]
    not_images: tuple[str, ...] = ()
