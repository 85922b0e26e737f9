"""The types that readers return and the rest uses: the source of a data set, its cases, the interface of a reader."""

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
"""The roles of patients in an experiment."""


def in_case(value: int) -> int:
    """The value in a case for a structure's value in a file: 254 for 255 (UNLABELED in a case), else the same."""
    return UNLABELED - 1 if value == UNLABELED else value


@dataclasses.dataclass(frozen=True)
class Source:
    """The location of a data set, and settings that its files do not contain.

    Attributes:
      layout: a key of builder.READERS.
      path: the data set's folder; for the phantom, the number of patients and the seed.
      labels: name -> value of every structure; empty if the layout defines it.
      unlabeled: the value of unlabelled pixels in masks and annotations, unless the layout defines it.
      patient: a regular expression; its first group is the patient in the name of a case. "" if every case is a
        separate patient, or if the layout maps cases to patients.
      axis: the axis of the files' arrays (x, y, z) perpendicular to the slices: 2 for z; None for the coarsest one.
    """

    layout: str
    path: str
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unlabeled: int = UNLABELED
    patient: str = ""
    axis: int | None = 2

    def patient_of(self, case: str) -> str:
        """The patient of a case; raises InputError if the pattern finds none."""
        if not self.patient:
            return case
        match = re.search(self.patient, case)
        if not match or not match.groups() or not match[1]:
            raise InputError(
                f"config.data.patient: the first group of '{self.patient}' finds nothing in '{case}'; correct it."
            )
        return match[1]


class HasUnits(Protocol):
    """Anything with a voxel size: a case, its entry in the data set, a volume."""

    @property
    def units(self) -> str:
        """The unit of the voxel size, "mm" or "voxel"."""

    @property
    def directions(self) -> Any:
        """Axis directions; None if unknown."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One volume of one patient.

    Attributes:
      name: unique within the data set; the name of its files, without ending.
      patient: the patient's name. All cases of a patient are in the same part of a split.
      image: float32 (slice, y, x, channel), intensities as stored.
      mask: uint8 (slice, y, x), the data set's label values or UNLABELED; None without a mask.
      annotation: uint8 (slice, y, x), label values or UNLABELED, drawn by a person; None without one.
      spacing: size of a voxel along (slice, y, x), in `units`.
      units: "mm", or "voxel" if the file's header has no unit.
      directions: axis directions, as defined in orientation.py; None if unknown.
      group: stratum of the patient (in ACDC the disease); splits are stratified by group.
      phase: "ED", "ES", or "" if the data set has no phases.
      frame: index of the frame in the patient's series, 0 without a series.
      role: the patient's role in the data set's layout, one of ROLES; "" if the layout defines none.
      remarks: oddities of its files that do not prevent reading them, one sentence each.
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
    """The case with its axes permuted and flipped."""
    return dataclasses.replace(
        case,
        spacing=turn.spacing(case.spacing),
        directions=None if case.directions is None else turn.directions(case.directions),
        image=turn.apply(case.image),
        mask=None if case.mask is None else turn.apply(case.mask),
        annotation=None if case.annotation is None else turn.apply(case.annotation),
    )


def shared_unit(cases: Iterable[HasUnits]) -> str:
    """The unit of the mean distance over some cases.

    A file without a unit, with voxels of size 1 and with known directions counts as mm if the others are in mm.

    Raises:
      InputError: some cases have voxel sizes and some do not.
    """
    cases = list(cases)
    units = {case.units for case in cases}
    if len(units) > 1 and any(case.units == "voxel" and case.directions is None for case in cases):
        raise InputError(
            "Some cases have voxel sizes and some do not, so distances cannot be averaged; give all of them sizes, or "
            "evaluate them separately."
        )
    return "mm" if "mm" in units else "voxel"


Load = Callable[[], Case]
"""Reads one case; raises InputError if one of its files is invalid."""


def load_all(loads: Iterable[Load]) -> Iterator[Case]:
    """Yields cases up to the first invalid one, then only checks the remaining ones.

    Raises:
      InputError: after the last case, with one line for each invalid case.
    """
    problems: list[str] = []
    first = None
    for load in loads:
        try:
            case = load()
        except InputError as error:
            problems.append(str(error))
            continue
        first = first or case
        channels, expected = case.image.shape[-1], first.image.shape[-1]
        if channels != expected:
            problems.append(f"{case.name}: has {channels} channels, but {first.name} has {expected}; they must agree.")
        if not problems:
            yield case
    raise_all(list(dict.fromkeys(problems)))


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads data sets of one layout.

    Attributes:
      labels: source -> name -> value of every structure that masks may contain, without background (0).
      fingerprint: source -> text that changes whenever the data change.
      read: source -> for each case, a function that reads it, with slices along the files' last axis. The order depends
        only on the source.
      images: finds images for `predict`: folder -> name of a case, including its subfolder -> its files, one for each
        channel or one for all.
      read_image: those files -> the image, on the grid of the label map to write.
      oriented: whether its files can contain an orientation.
      modalities: source -> the name of every channel, such as "CT"; empty if the layout has no names.
    """

    labels: Callable[[Source], Mapping[str, int]]
    fingerprint: Callable[[Source], str]
    read: Callable[[Source], Iterator[Load]]
    images: Callable[[pathlib.Path], Mapping[str, tuple[pathlib.Path, ...]]]
    read_image: Callable[[Sequence[pathlib.Path]], volumes.Volume] = volumes.read_channels
    oriented: bool = False
    modalities: Callable[[Source], Sequence[str]] = lambda source: ()


def hash_of(files: Iterable[tuple[str, pathlib.Path]]) -> str:
    """SHA-256 of the names and contents of files, in this order."""
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(f"{name}:{path.stat().st_size}:".encode(errors="surrogateescape"))
        digest.update(path.read_bytes())
    return digest.hexdigest()
