"""Builds a data set once into the TFDS cache and opens it from there.

The cache stores every slice at its native size with the masks' original values. Splits, classes, weak labels and image
sizes are settings of a run and are not stored. The name of a build contains a hash of the source's contents and of the
code that reads it: if either changes, the data set is built again.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import io
import pathlib
import sys
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from msl_jax.data import case as case_lib
from msl_jax.data.case import Case, Reader, Source
from msl_jax.data.formats import geometry, itk, nifti, orientation, slicer, volumes
from msl_jax.data.readers import READERS, layouts
from msl_jax.errors import InputError
from msl_jax.labels import UNLABELED

DEFAULT_CACHE = "~/tensorflow_datasets"
"""TFDS's default folder for built data sets."""
SPLIT = "slices"
READY = "ready"
"""Folder beside a build's versions."""
FOREGROUND = (0.5, 99.5)
"""Percentiles of intensities in structures, as in nnU-Net's fingerprint (Isensee et al., Nature Methods 2021)."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One case: the position of its slices in the records, and its metadata.

    Fields not listed are those of Case.

    Attributes:
      first: the case's first record; its slices are records `first` to `first + slices - 1`, in the volume's order.
      slices: number of slices.
      shape: (y, x) of every slice.
      lowest: the smallest intensity of each channel.
      foreground: the percentiles FOREGROUND of each channel in the structures of mask and annotation, (2, channels);
        None if neither has a structure.
      masked: whether its mask labels at least one voxel.
      full: whether its mask labels every voxel.
      values: the values in its mask.
      annotated: whether it has a drawn annotation.
      axis_codes: directions of the file's axes (x, y, z), like "LPS"; "" if unknown.
      turned: whether its axes were permuted or flipped to match the other cases.
      directions: axis directions after that, as defined in orientation.py; None if unknown.
    """

    name: str
    patient: str
    group: str
    phase: str
    frame: int
    role: str
    first: int
    slices: int
    shape: tuple[int, int]
    lowest: tuple[float, ...]
    foreground: tuple[tuple[float, ...], ...] | None
    masked: bool
    full: bool
    values: tuple[int, ...]
    annotated: bool
    spacing: tuple[float, float, float]
    units: str
    axis_codes: str
    turned: bool
    directions: tuple[tuple[float, ...], ...] | None
    remarks: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in the cache: its cases, and random access to its slices.

    Attributes:
      name: of the build, unique for its contents.
      labels: name -> value of every structure.
      channels: number of channels of every image.
      contents: a hash of the source's contents, independent of its path.
      modalities: the name of every channel, such as "CT"; empty if the layout has no names.
      axis: the axis of the files' (x, y, z) that the slices are perpendicular to.
      directions: axis directions of all cases, as defined in orientation.py; None if no file has any.
      ready: local folder for cases that are ready for training (ready.py).
      entries: the cases, in the reader's order.
      records: index -> serialized slice, read from disk.
      features: the TFDS features that parse a record, in eager and in graph mode.
    """

    name: str
    labels: Mapping[str, int]
    channels: int
    contents: str
    modalities: tuple[str, ...]
    axis: int
    directions: np.ndarray | None
    ready: pathlib.Path
    entries: tuple[Entry, ...]
    records: Any
    features: tfds.features.FeaturesDict

    def groups(self) -> dict[str, str]:
        """Patient -> group."""
        return {entry.patient: entry.group for entry in self.entries}

    def masked(self, *, full: bool) -> list[str]:
        """The patients with a mask for each case; with `full`, masks must label every voxel."""
        without = {entry.patient for entry in self.entries if not (entry.full if full else entry.masked)}
        return [patient for patient in self.groups() if patient not in without]

    def roles(self) -> dict[str, str]:
        """Patient -> role, for patients whose role the data set's layout defines."""
        return {entry.patient: entry.role for entry in self.entries if entry.role}

    def of_patients(self, patients: list[str]) -> list[Entry]:
        """The cases of these patients, in order."""
        return [entry for entry in self.entries if entry.patient in set(patients)]

    def case(self, entry: Entry) -> Case:
        """Reads a whole case: the data its reader returned, with axes permuted and flipped as in the build."""
        indices = range(entry.first, entry.first + entry.slices)
        slices = [self.features.deserialize_example_np(record) for record in self.records.__getitems__(list(indices))]
        volumes = {key: np.stack([s[key] for s in slices]) for key in ("image", "mask", "annotation")}
        return Case(
            name=entry.name,
            patient=entry.patient,
            image=volumes["image"],
            mask=volumes["mask"] if entry.masked else None,
            annotation=volumes["annotation"] if entry.annotated else None,
            spacing=entry.spacing,
            units=entry.units,
            directions=None if entry.directions is None else np.asarray(entry.directions),
            group=entry.group,
            phase=entry.phase,
            frame=entry.frame,
            role=entry.role,
            remarks=entry.remarks,
        )


class MslSlices(tfds.core.GeneratorBasedBuilder):
    """TFDS builder over one reader: one example per slice, in the reader's order."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, source: Source, name: str, **kwargs: Any):
        """Builds from `source` into the folder of the config `name`; further arguments go to TFDS."""
        self._source = source
        super().__init__(config=name, **kwargs)

    def _create_builder_config(self, builder_config, version):
        return tfds.core.BuilderConfig(name=builder_config, version=self.VERSION)

    def _info(self) -> tfds.core.DatasetInfo:
        def plane(dtype, *channels):
            shape = (None, None, *channels)
            return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=tfds.features.Encoding.ZLIB)

        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": plane(np.float32, None),
                    "mask": plane(np.uint8),
                    "annotation": plane(np.uint8),
                }
            ),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(entries=[], channels=0, axis=orientation.LAST, directions=None),
        )

    def _split_generators(self, dl_manager):
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        reader, first = READERS[self._source.layout], 0
        axis, directions = _axis_and_directions(reader, self._source)
        self.info.metadata["axis"] = axis
        self.info.metadata["directions"] = None if directions is None else directions.tolist()
        for original in case_lib.load_all(reader.read(self._source)):
            turn, _ = orientation.turn_of(original.directions, directions, axis)
            case = case_lib.turned(original, turn)
            masked = case.mask is not None and bool(np.any(case.mask != UNLABELED))
            yield from ((first + z, example) for z, example in enumerate(_slices(case)))
            entry = Entry(
                name=case.name,
                patient=case.patient,
                group=case.group,
                phase=case.phase,
                frame=case.frame,
                role=case.role,
                first=first,
                slices=len(case.image),
                shape=case.image.shape[1:3],
                lowest=tuple(case.image.min((0, 1, 2)).tolist()),
                foreground=_foreground(case),
                masked=masked,
                full=masked and not np.any(case.mask == UNLABELED),
                values=() if case.mask is None or not masked else tuple(np.unique(case.mask).tolist()),
                annotated=case.annotation is not None,
                spacing=case.spacing,
                units=case.units,
                axis_codes="" if original.directions is None else orientation.codes(original.directions),
                turned=turn != orientation.turn_across(axis),
                directions=None if case.directions is None else case.directions.tolist(),
                remarks=case.remarks,
            )
            self.info.metadata["channels"] = case.image.shape[-1]
            self.info.metadata["entries"].append(dataclasses.asdict(entry))
            first += entry.slices


def build(source: Source, cache: str | None = None) -> Dataset:
    """Opens a data set; builds it first if it is not in the cache.

    Args:
      source: its layout, folder and reading settings.
      cache: TFDS's data_dir; None for TFDS's default.

    Raises:
      InputError: the layout is unknown, the reader cannot read the source, or its images differ in channels.
    """
    layout = source.layout
    if layout not in READERS:
        raise InputError(f"config.data.layout: is '{layout}'; give one of {', '.join(READERS)}.")
    tfds.disable_progress_bar()

    contents = short_hash(READERS[layout].fingerprint(source).encode())
    settings = repr(dataclasses.replace(source, path=contents)).encode()
    name = f"{layout}_{short_hash(settings, *_code(layout))}"

    def new_builder() -> MslSlices:
        return MslSlices(source=source, name=name, data_dir=cache, file_format="array_record")

    builder = new_builder()
    if not pathlib.Path(builder.data_dir).exists():
        print(f"Building the data set from {source.path} into {builder.data_dir} ...", file=sys.stderr, flush=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except FileExistsError:  # another process finished the same build first
        builder = new_builder()
    metadata = builder.info.metadata
    records = builder.as_data_source(SPLIT, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    return Dataset(
        name=name,
        labels=READERS[layout].labels(source),
        channels=metadata["channels"],
        contents=contents,
        modalities=tuple(READERS[layout].modalities(source)),
        axis=metadata["axis"],
        directions=None if metadata["directions"] is None else np.asarray(metadata["directions"]),
        ready=_local(builder.data_dir).parent / READY,
        entries=tuple(Entry(**{key: _tuple(value) for key, value in entry.items()}) for entry in metadata["entries"]),
        records=records,
        features=builder.info.features,
    )


def _local(folder: str) -> pathlib.Path:
    """The folder; for a remote one, that of the same build in TFDS's default folder on this machine."""
    if "://" not in folder:
        return pathlib.Path(folder)
    return pathlib.Path(DEFAULT_CACHE, *pathlib.PurePath(folder).parts[-3:]).expanduser()


def _axis_and_directions(reader: Reader, source: Source) -> tuple[int, np.ndarray | None]:
    """The axis that slices are perpendicular to, and the most common axis directions; None if no file has any.

    Reads every case once. If the source names no axis, it is the coarsest one by the median voxel size.
    """
    if not reader.oriented:
        return orientation.LAST if source.axis is None else source.axis, None
    headers = [(case.directions, case.spacing) for case in case_lib.load_all(reader.read(source))]
    common = orientation.commonest(directions for directions, _ in headers if directions is not None)
    axis = source.axis
    if axis is None:
        turns = [orientation.turn_of(directions, common, orientation.LAST)[0] for directions, _ in headers]
        sizes = [turn.spacing(spacing) for turn, (_, spacing) in zip(turns, headers, strict=True)]
        axis = orientation.coarsest(np.median(sizes, axis=0).tolist())
    return axis, None if common is None else orientation.turn_across(axis).directions(common)


def _foreground(case: Case) -> tuple[tuple[float, ...], ...] | None:
    """The field of an Entry."""
    labels = [labels for labels in (case.mask, case.annotation) if labels is not None]
    inside = np.any([(label != 0) & (label != UNLABELED) for label in labels], axis=0)
    if not inside.any():
        return None
    return _tuple(np.percentile(case.image[inside], FOREGROUND, axis=0).tolist())


def _tuple(value: Any) -> Any:
    """Converts lists from JSON to tuples, at every depth."""
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _slices(case: Case) -> Iterator[dict[str, Any]]:
    unlabelled = np.full(case.image.shape[:-1], UNLABELED, np.uint8)
    for image, mask, annotation in zip(
        case.image,
        unlabelled if case.mask is None else case.mask,
        unlabelled if case.annotation is None else case.annotation,
        strict=True,
    ):
        yield {"image": image, "mask": mask, "annotation": annotation}


def _code(layout: str) -> list[bytes]:
    """The source code that determines the contents of a build."""
    shared = (sys.modules[__name__], case_lib, geometry, itk, layouts, nifti, orientation, slicer, volumes)
    return [*map(code_of, shared), source_code(READERS[layout].read)]


def code_of(module: ModuleType) -> bytes:
    """The source code of a module."""
    return pathlib.Path(inspect.getfile(module)).read_bytes()


def source_code(function: Callable[..., Any]) -> bytes:
    """The source code of a function's module, or of the function if the module has no file (a notebook)."""
    while isinstance(function, functools.partial):
        function = function.func
    file = getattr(sys.modules.get(function.__module__), "__file__", None)
    return pathlib.Path(file).read_bytes() if file else inspect.getsource(function).encode()


def short_hash(*parts: bytes) -> str:
    """16 hexadecimal digits of a SHA-256."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]
