"""The types between readers and the rest: a data set's source, its cases, and the interface of a reader."""

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
"""The roles that a patient can have in an experiment."""


def in_case(value: int) -> int:
    """What a case holds for a structure's value in a file: 254 for 255, which is UNLABELED there, else the same."""
    return UNLABELED - 1 if value == UNLABELED else value


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a data set lies, and what its files do not say.

    Attributes:
      layout: a key of builder.READERS.
      path: the data set's folder; for the phantom, the number of patients and the seed.
      labels: name -> value of every structure; empty if the layout says it.
      unlabeled: the value in masks and annotations of a pixel nobody annotated, where the layout does not say.
      patient: a regular expression whose first group finds the patient in the name of a case. "" if every case is a
        patient of its own, or if the layout maps cases to patients.
      axis: the axis of the files' arrays (x, y, z) that slices are perpendicular to: 2 for z.
    """

    layout: str
    path: str
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unlabeled: int = UNLABELED
    patient: str = ""
    axis: int = 2

    def patient_of(self, case: str) -> str:
        """The patient of a case; raises InputError if the pattern does not find one."""
        if not self.patient:
            return case
        found = re.search(self.patient, case)
        if not found or not found.groups() or not found[1]:
            raise InputError(
                f"config.data.patient: the first group of '{self.patient}' finds nothing in '{case}'; correct it."
            )
        return found[1]


class Measured(Protocol):
    """Anything with a voxel size: a case, its entry in the data set, a volume."""

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
      patient: whose volume it is. All cases of a patient are in the same part of a split.
      image: float32 (slice, y, x, channel), intensities as stored.
      mask: uint8 (slice, y, x), the data set's own label values, UNLABELED where nobody annotated; None without a mask.
      annotation: uint8 (slice, y, x), label values or UNLABELED, drawn by a person; None without one.
      spacing: size of a voxel along (slice, y, x), in `units`.
      units: "mm", or "voxel" where the file's header says nothing.
      directions: which way it lies, as orientation.py has it; None where that is not known.
      group: stratum of the patient (in ACDC the disease); splits are drawn within groups.
      phase: "ED", "ES", or "" where the data set knows no phases.
      frame: number of the frame within the patient's series, 0 where there is none.
      role: what the data set's own layout says the patient is for, one of ROLES; "" where it says nothing.
      remarks: what looks odd about its files but does not prevent reading them, one sentence each.
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
    """The unit of the mean distance over some cases.

    A file without a unit, with voxels of size 1 and with known directions counts as mm if the others are in mm.

    Raises:
      InputError: some cases have voxel sizes and some have none.
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
"""Reads one case; raises InputError if one of its files cannot be used."""


def load_all(loads: Iterable[Load]) -> Iterator[Case]:
    """Yields cases up to the first that cannot be used, then only checks the remaining ones.

    Raises:
      InputError: after the last case, with one line for each case that cannot be used.
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
    """How a data set of one layout is read.

    Attributes:
      labels: source -> name -> value of every structure a mask may hold; 0 is background and not named.
      fingerprint: source -> text that changes whenever the data change.
      read: source -> a function for each case that reads it, with slices along the files' last axis. The order depends
        on the source alone.
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
