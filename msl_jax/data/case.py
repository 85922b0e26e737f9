"""What a reader is asked and what it hands over: volumes with their masks and annotations, and the words for them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import pathlib
import re
from typing import Any, Protocol

import numpy as np

from msl_jax.data.formats import volumes
from msl_jax.data.formats.orientation import Turn
from msl_jax.errors import InputError, raise_all
from msl_jax.labels import UNLABELED

ROLES = ("strong", "weak", "validation", "test")
"""What a patient can be for."""


def in_case(value: int) -> int:
    """What a case holds for a structure's value in a file: 254 for 255, which is UNLABELED there, else the same."""
    return UNLABELED - 1 if value == UNLABELED else value


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a data set lies, and what its files leave unsaid.

    Attributes:
      layout: a key of builder.READERS.
      path: the data set's folder; of the phantom, how many and which.
      labels: name -> value of every structure, where the layout does not say; elsewhere empty.
      unlabeled: the value in masks and annotations of a pixel nobody annotated, where the layout does not say.
      patient: a regular expression: what its first group finds in the name of a case is the patient. "" where every
        case is a patient of its own, or the layout says whose it is.
      axis: of the files' arrays (x, y, z), across which slices are cut: 2 for z.
    """

    layout: str
    path: str
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unlabeled: int = UNLABELED
    patient: str = ""
    axis: int = 2

    def patient_of(self, case: str) -> str:
        """Whose case this is; raises InputError where the pattern does not say."""
        if not self.patient:
            return case
        found = re.search(self.patient, case)
        if not found or not found.groups() or not found[1]:
            raise InputError(
                f"config.data.patient: the first group of '{self.patient}' finds nothing in '{case}'; correct it."
            )
        return found[1]


class Measured(Protocol):
    """What has voxels of a size: a case, its entry in the data set, a volume."""

    @property
    def units(self) -> str:
        """The unit of its size, "mm" or "voxel"."""

    @property
    def directions(self) -> Any:
        """Which way it lies; None where that is not known."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One volume of one patient.

    Attributes:
      name: unique within the data set; what its files are called, without ending.
      patient: whose volume it is; a split never divides a patient.
      image: float32 (slice, y, x, channel), intensities as stored.
      mask: uint8 (slice, y, x), the data set's own label values, UNLABELED where the mask leaves it open; None without.
      annotation: uint8 (slice, y, x), label values or UNLABELED, as drawn by a person; None without one.
      spacing: size of a voxel along (slice, y, x), in `units`.
      units: "mm", or "voxel" where the file's header says nothing.
      directions: which way it lies, as orientation.py has it; None where that is not known.
      group: stratum of the patient (in ACDC the disease); splits are drawn within groups.
      phase: "ED", "ES", or "" where the data set knows no phases.
      frame: number of the frame within the patient's series, 0 where there is none.
      role: what the data set's own layout says the patient is for, one of ROLES; "" where it says nothing.
      remarks: what looks odd about its files and does not stop them from being read, a sentence each.
    """

    name: str
    patient: str
    image: np.ndarray
    mask: np.ndarray | None
    annotation: np.ndarray | None
    spacing: tuple[float, float, float]
    units: str
    directions: np.ndarray | None = None
    group: str = ""
    phase: str = ""
    frame: int = 0
    role: str = ""
    remarks: tuple[str, ...] = ()


def turned(case: Case, turn: Turn) -> Case:
    """A case whose axes are permuted and flipped."""
    return dataclasses.replace(
        case,
        spacing=turn.spacing(case.spacing),
        directions=None if case.directions is None else turn.directions(case.directions),
        image=turn.apply(case.image),
        mask=None if case.mask is None else turn.apply(case.mask),
        annotation=None if case.annotation is None else turn.apply(case.annotation),
    )


def shared_unit(measured: Iterable[Measured]) -> str:
    """The unit in which the distances of some cases have a mean.

    A file without a unit whose voxels have size 1 and that says which way it lies is in mm where the others are.

    Raises:
      InputError: some have voxel sizes and some have none.
    """
    measured = list(measured)
    units = {one.units for one in measured}
    if len(units) > 1 and any(one.units == "voxel" and one.directions is None for one in measured):
        raise InputError(
            "Some cases have voxel sizes and some have none, so no mean distance exists; give all of them sizes, or "
            "evaluate them apart."
        )
    return "mm" if "mm" in units else "voxel"


Load = Callable[[], Case]
"""Reads one case; raises InputError where a file of it cannot be used."""


def load_all(loads: Iterable[Load]) -> Iterator[Case]:
    """Reads case by case up to the first that cannot be used, and then looks through the others for the like.

    Raises:
      InputError: after the last case, with what is wrong with each.
    """
    problems: list[str] = []
    first = None
    for load in loads:
        try:
            case = load()
        except InputError as refused:
            problems.append(str(refused))
            continue
        first = first or case
        channels, of_first = case.image.shape[-1], first.image.shape[-1]
        if channels != of_first:
            problems.append(f"{case.name}: has {channels} channels, {first.name} {of_first}; they must agree.")
        if not problems:
            yield case
    raise_all(list(dict.fromkeys(problems)))


@dataclasses.dataclass(frozen=True)
class Reader:
    """A data set's layout, as the builder wants it.

    Attributes:
      labels: source -> name -> value of every structure a mask may hold; 0 is background and not named.
      fingerprint: source -> text that changes whenever the data do.
      read: source -> what reads each of its cases, slices across the files' last axis, in an order that depends on the
        source alone.
      images: what `predict` finds: folder -> name of a case, its folder below that one included -> its files, one for
        each channel or one for all.
      read_image: those files -> the image, on the grid that a label map is to be written on.
      oriented: whether its files may say which way they lie.
    """

    labels: Callable[[Source], Mapping[str, int]]
    fingerprint: Callable[[Source], str]
    read: Callable[[Source], Iterator[Load]]
    images: Callable[[pathlib.Path], Mapping[str, tuple[pathlib.Path, ...]]]
    read_image: Callable[[Sequence[pathlib.Path]], volumes.Volume] = volumes.read_channels
    oriented: bool = False


def hash_of(files: Iterable[tuple[str, pathlib.Path]]) -> str:
    """SHA-256 over names and contents of files, in the order given."""
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(f"{name}:{path.stat().st_size}:".encode(errors="surrogateescape"))
        digest.update(path.read_bytes())
    return digest.hexdigest()
