"""The HDF5 files of WSL4MIS (Luo et al., MICCAI 2022), a volume each.

    ACDC_training_volumes/patient001_frame01.h5    image, label, scribble: (slice, y, x)

Another folder of such files (MSCMR_training_volumes) may be given itself; files of single slices are not read. Without
`label` a case has no mask, without `scribble` no annotation. config.data.labels are ACDC's unless given. A voxel nobody
annotated has the value config.data.unlabeled and, in a scribble, also 4, unless a structure has it. Names like
patient001_frame01 are frames of patient001; any other is a patient of its own, unless config.data.patient says whose it
is. Voxel sizes were lost: units are voxels.
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
MOST_RATIO = 1100
"""The most bytes of voxels a byte of the file is believed to hold; DEFLATE gets to 1032."""


def labels(source: Source) -> dict[str, int]:
    """Name -> value of every structure: config.data.labels, or else ACDC's."""
    found = dict(source.labels) or acdc.LABELS
    layouts.check_labels("config.data.labels", found, source.unlabeled)
    return found


def fingerprint(source: Source) -> str:
    """SHA-256 over names and contents of every file."""
    return hash_of((path.name, path) for path in _files(source).values())


def read(source: Source) -> Iterator[Load]:
    """Yields what reads every volume, in the order of their names.

    Raises:
      InputError: a file is damaged or names another file, its arrays differ in shape, a label has an unknown value, or
        a scribble leaves no voxel open.
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
                f"{path}: its scribble leaves no voxel open by the value {source.unlabeled}; say which value does, by "
                "--config.data.unlabeled=VALUE."
            )
        number = int(frame[2]) if frame else 0
        return Case(name, patient, mask=mask, annotation=annotation, frame=number, **layouts.of_image(image))

    return (functools.partial(load, *file) for file in _files(source).items())


def _files(source: Source) -> dict[str, pathlib.Path]:
    root = layouts.folder(source)
    root = root / VOLUMES if (root / VOLUMES).is_dir() else root
    files = layouts.by_name(root, (".h5",))
    if not files:
        raise InputError(f"{root}: holds no files that end in .h5; give the folder of WSL4MIS that holds {VOLUMES}.")
    return files


def _read(path: pathlib.Path) -> dict[str, volumes.Volume]:
    """The arrays of a file by their names."""
    with needed(path, "h5py", "wsl4mis"):
        import h5py
    try:
        with h5py.File(path, "r") as file:
            names = [name for name in (IMAGE, MASK, SCRIBBLE) if name in file or name == IMAGE]
            return {name: volumes.Volume(path, _array(path, file, name)) for name in names}
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: is no readable HDF5 file ({error}); fetch it again.") from error


def _array(path: pathlib.Path, file: "h5py.File", name: str) -> np.ndarray:
    """A dataset's voxels, once it is known to lie in this file and to be no larger than that can hold."""
    import h5py

    link = file.get(name, getlink=True)
    if link is None:
        raise InputError(f"{path}: has no '{name}'; give files of WSL4MIS.")
    dataset = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise InputError(
            f"{path}: its '{name}' is no array of its own or lies in another file; copy the array into this one."
        )
    if dataset.dtype.kind not in "iuf" or dataset.ndim != 3:
        raise InputError(
            f"{path}: its '{name}' has type {dataset.dtype} and shape {dataset.shape}; numbers with three axes "
            "(slice, y, x) are needed."
        )
    if not 0 < dataset.nbytes <= MOST_RATIO * path.stat().st_size:
        raise InputError(
            f"{path}: its '{name}' promises {dataset.nbytes} bytes, none or more than the file can hold; "
            "fetch it again."
        )
    return dataset[()]


READER = Reader(labels=labels, fingerprint=fingerprint, read=read, images=volumes.single_files)
