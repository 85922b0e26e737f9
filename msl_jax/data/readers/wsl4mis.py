"""The HDF5 files of WSL4MIS (Luo et al., MICCAI 2022), one for each volume.

    ACDC_training_volumes/patient001_frame01.h5    image, label, scribble: (slice, y, x)

The source may also be a folder of such files itself (MSCMR_training_volumes); files of single slices are not supported.
Without `label` a case has no mask, without `scribble` no annotation. config.data.labels defaults to ACDC's labels. The
value of unlabelled voxels is config.data.unlabeled and, in scribbles, also 4 if no structure has it. Names like
patient001_frame01 are frames of patient001; any other is a separate patient, unless config.data.patient is set. The
files do not store voxel sizes: units are voxels.
"""

from collections.abc import Iterator
import functools
import pathlib
import re
from typing import TYPE_CHECKING

import numpy as np

from msl_jax.data.case import Case, Load, Reader, Source, hash_of
from msl_jax.data.formats import volumes
from msl_jax.data.readers import acdc, layouts
from msl_jax.errors import InputError
from msl_jax.labels import UNLABELED
from msl_jax.system.optional import needed

if TYPE_CHECKING:
    import h5py

VOLUMES = "ACDC_training_volumes"
IMAGE, MASK, SCRIBBLE = ("image", "label", "scribble")
SCRIBBLE_UNLABELED = 4
MAX_RATIO = 1100
"""Maximum accepted compression ratio; DEFLATE reaches 1032."""


def labels(source: Source) -> dict[str, int]:
    """Name -> value of every structure: config.data.labels, or ACDC's if that is empty."""
    structures = dict(source.labels) or acdc.LABELS
    layouts.check_labels("config.data.labels", structures, source.unlabeled)
    return structures


def fingerprint(source: Source) -> str:
    """SHA-256 over names and contents of all files."""
    return hash_of((path.name, path) for path in _files(source).values())


def read(source: Source) -> Iterator[Load]:
    """Yields a loader for each volume, in the order of names.

    Raises:
      InputError: a file is damaged or refers to another file, its arrays differ in shape, a label is unknown, or a
        scribble has no unlabelled voxel.
    """
    structures = labels(source)
    values = layouts.values(structures, source.unlabeled)
    scribbled = values | {SCRIBBLE_UNLABELED: values.get(SCRIBBLE_UNLABELED, UNLABELED)}

    def load(name: str, path: pathlib.Path) -> Case:
        frame = re.fullmatch(r"(patient\d+)_frame(\d+)", name)
        patient = frame[1] if frame and not source.patient else source.patient_of(name)
        arrays = _read(path)
        image = volumes.as_image(arrays[IMAGE])
        mask, annotation = (
            layouts.label_map(image, volumes.as_labels(arrays[key]), known) if key in arrays else None
            for key, known in ((MASK, values), (SCRIBBLE, scribbled))
        )
        if annotation is not None and not (annotation == UNLABELED).any():
            raise InputError(
                f"{path}: no voxel of its scribble has the value {source.unlabeled} of unlabelled voxels; give their "
                "value with --config.data.unlabeled=VALUE."
            )
        number = int(frame[2]) if frame else 0
        return Case(name, patient, mask=mask, annotation=annotation, frame=number, **layouts.of_image(image))

    return (functools.partial(load, *file) for file in _files(source).items())


def _files(source: Source) -> dict[str, pathlib.Path]:
    root = layouts.folder(source)
    root = root / VOLUMES if (root / VOLUMES).is_dir() else root
    files = layouts.by_name(root, (".h5",))
    if not files:
        raise InputError(f"{root}: contains no files that end in .h5; give the folder of WSL4MIS with {VOLUMES}.")
    return files


def _read(path: pathlib.Path) -> dict[str, volumes.Volume]:
    """Name -> array of a file."""
    with needed(path, "h5py", "wsl4mis"):
        import h5py
    try:
        with h5py.File(path, "r") as file:
            names = [name for name in (IMAGE, MASK, SCRIBBLE) if name in file or name == IMAGE]
            return {name: volumes.Volume(path, _array(path, file, name)) for name in names}
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is not a readable HDF5 file ({error}); download it again.") from error


def _array(path: pathlib.Path, file: "h5py.File", name: str) -> np.ndarray:
    """A dataset's voxels; raises InputError unless it is stored in this file with a plausible size."""
    import h5py

    link = file.get(name, getlink=True)
    if link is None:
        raise InputError(f"{path}: has no '{name}'; give files of WSL4MIS.")
    dataset = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise InputError(f"{path}: its '{name}' is not an array stored in this file; copy the array into it.")
    if dataset.dtype.kind not in "iuf" or dataset.ndim != 3:
        raise InputError(
            f"{path}: its '{name}' has type {dataset.dtype} and shape {dataset.shape}; give numbers with three axes "
            "(slice, y, x)."
        )
    if not 0 < dataset.nbytes <= MAX_RATIO * path.stat().st_size:
        raise InputError(
            f"{path}: its '{name}' declares {dataset.nbytes} bytes, none or more than the file can contain; "
            "download it again."
        )
    return dataset[()]


READER = Reader(labels=labels, fingerprint=fingerprint, read=read, images=volumes.single_files)
