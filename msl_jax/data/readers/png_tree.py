"""Slices as PNG files, in the folders of the papers' authors (their repository MSL-student-becomes-master).

    trainFull/Img/patient0001_01_1.png                  slice 1 of the volume patient0001_01
    trainFull/GT/patient0001_01_1.png                   its mask
    trainFull/WeaklyAnnotations/patient0001_01_1.png    its annotation
    trainSemi/ val/ test/                               the same; each is optional, as are GT and annotations

Files are paired by name. The number after the last "_" is the slice number; slices with the same stem form a volume. A
file without a number is a volume of one slice. Patients of trainFull are strong, those of trainSemi weak. Volumes like
patient0001_01 are frames of patient0001; any other is a separate patient, unless config.data.patient is set.

config.data.labels has the grey values of structures (LV=255); cases number them 1, 2, 3 from the darkest. In
WeaklyAnnotations unlabelled pixels are 0, as in the authors' partial cross-entropy. If config.data.unlabeled is not
255, it is their value instead, in masks as well. If only some slices of a volume have a mask or annotation, the others
are unlabelled. PNGs have no voxel size: units are voxels.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import io
import itertools
import math
import pathlib
import re
import warnings

import numpy as np
from PIL import Image

from msl_jax.data.case import Case, Load, Reader, Source, hash_of
from msl_jax.data.formats import DEFLATE_RATIO, nifti, volumes
from msl_jax.data.readers import layouts
from msl_jax.errors import InputError
from msl_jax.labels import UNLABELED

ROLES = {"trainFull": "strong", "trainSemi": "weak", "val": "validation", "test": "test"}
"""Folder -> role of its patients."""
IMAGES, MASKS, ANNOTATIONS = KINDS = ("Img", "GT", "WeaklyAnnotations")
PNG = ".png"
IMAGE_MODES = {"L": "grey", "I;16": "grey of 16 bits", "RGB": "RGB"}
LABEL_MODES = {"L": "grey", "1": "black and white"}
"""Pillow's modes of supported PNGs -> their names in messages."""
MAX_PIXELS_PER_BYTE = 8 * DEFLATE_RATIO
"""Maximum number of pixels per byte of a file: black and white pixels have one bit."""


def labels(source: Source) -> dict[str, int]:
    """Name -> value of every structure in a case: 1, 2, 3 in the order of their grey values."""
    greys = layouts.configured_labels(source)
    layouts.check_labels("config.data.labels", greys, *_unlabeled(source), kept=False)
    return {name: 1 + sorted(greys.values()).index(grey) for name, grey in greys.items()}


def fingerprint(source: Source) -> str:
    """SHA-256 over names and contents of all PNGs."""
    root = layouts.folder(source)
    paths = (path for kinds in _tree(root).values() for files in kinds.values() for path in files.values())
    return hash_of((path.relative_to(root).as_posix(), path) for path in paths)


def read(source: Source) -> Iterator[Load]:
    """Yields a loader for each volume, folder by folder, in the order of names.

    Raises:
      InputError: a mask or annotation has no image or another size, a volume's slices differ in size or a number is
        missing, a patient is in two folders, a file is damaged, or a label is unknown.
    """
    values = _values(source)
    folder_of: dict[str, str] = {}

    def load(folder: str, kinds: Mapping[str, Mapping[str, pathlib.Path]], name: str, slices: list[str]) -> Case:
        frame = re.fullmatch(r"(patient\d+)_\d+", name)
        patient = frame[1] if frame and not source.patient else source.patient_of(name)
        if folder_of.setdefault(patient, folder) != folder:
            raise InputError(
                f"{kinds[IMAGES][slices[0]]}: {patient} is also in {folder_of[patient]}; keep it in one folder."
            )
        planes = [_read(kinds[IMAGES][key], IMAGE_MODES) for key in slices]
        image = _stacked(planes)
        mask, annotation = (
            _label_map(planes, [kinds[kind].get(key) for key in slices], values[kind]) for kind in (MASKS, ANNOTATIONS)
        )
        return Case(name, patient, mask=mask, annotation=annotation, role=ROLES[folder], **layouts.of_image(image))

    return (
        functools.partial(load, folder, kinds, *volume)
        for folder, kinds in _tree(layouts.folder(source)).items()
        for volume in _slices(kinds[IMAGES]).items()
    )


def _unlabeled(source: Source) -> tuple[int, ...]:
    """The grey value in config.data.unlabeled; empty if it is the default."""
    return () if source.unlabeled == UNLABELED else (source.unlabeled,)


def _values(source: Source) -> dict[str, dict[int, int]]:
    """Kind of label map -> grey value -> value in a case."""
    classes = labels(source)
    known = {0: 0} | {grey: classes[name] for name, grey in source.labels.items()}
    unlabeled = dict.fromkeys(_unlabeled(source), UNLABELED)
    return {MASKS: known | unlabeled, ANNOTATIONS: known | (unlabeled or {0: UNLABELED})}


def _tree(root: pathlib.Path) -> dict[str, dict[str, dict[str, pathlib.Path]]]:
    """Folder -> kind -> name -> file."""
    tree = {
        folder: {kind: layouts.by_name(root / folder / kind, (PNG,)) for kind in KINDS}
        for folder in ROLES
        if (root / folder).is_dir()
    }
    for kinds in tree.values():
        for kind in (MASKS, ANNOTATIONS):
            layouts.check_have_images(kinds[IMAGES], kinds[kind])
    if not any(kinds[IMAGES] for kinds in tree.values()):
        raise InputError(f"{root}: contains no {'/Img, '.join(ROLES)}/Img with PNG files; give the folder that does.")
    return tree


def _slices(files: Mapping[str, pathlib.Path]) -> dict[str, list[str]]:
    """Name of a volume -> names of its slices' files, in order."""
    numbered: dict[str, dict[int, str]] = {}
    for name, path in files.items():
        match = re.fullmatch(r"(.+)_([0-9]+)", name, re.DOTALL)
        volume, number = (match[1], int(match[2])) if match else (name, 0)
        slices = numbered.setdefault(volume, {})
        if number in slices:
            raise InputError(f"{path}: is slice {number} of {volume}, like {slices[number]}.png; keep one of them.")
        slices[number] = name
    for volume, slices in numbered.items():
        for before, after in itertools.pairwise(sorted(slices)):
            if after != before + 1:
                path = files[slices[after]]
                raise InputError(f"{path}: {volume} has no slice {before + 1}; add it, or renumber its slices.")
    return {volume: [slices[number] for number in sorted(slices)] for volume, slices in numbered.items()}


def _read(path: pathlib.Path, modes: Mapping[str, str]) -> volumes.Volume:
    """A PNG as a volume of one slice: (1, y, x), or (1, y, x, 3) for RGB."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            contents = path.read_bytes()
            Image.open(io.BytesIO(contents), formats=["PNG"]).verify()
            with Image.open(io.BytesIO(contents), formats=["PNG"]) as png:
                mode, declared = png.mode, math.prod(png.size)
                if declared > MAX_PIXELS_PER_BYTE * len(contents):
                    raise ValueError(f"its header declares {declared} pixels, too many for {len(contents)} bytes")
                voxels = np.asarray(png.convert("L") if mode == "1" else png)[None]
    except Exception as error:  # Pillow raises many types for invalid files
        raise InputError(f"{path}: is not a readable PNG ({error}); export it again.") from error
    if mode not in modes:
        raise InputError(f"{path}: is a PNG of mode {mode}; save it as {' or '.join(modes.values())}.")
    return volumes.Volume(path, voxels)


def _stacked(planes: list[volumes.Volume]) -> volumes.Volume:
    """The image of these slices."""
    first = planes[0]
    for plane in planes:
        if plane.voxels.shape != first.voxels.shape:
            raise InputError(
                f"{plane.path}: its size or colours differ from those of {first.path}; resample or rename one of them."
            )
    return volumes.as_image(volumes.Volume(first.path, np.concatenate([plane.voxels for plane in planes])))


def _label_map(
    planes: list[volumes.Volume], files: list[pathlib.Path | None], values: Mapping[int, int]
) -> np.ndarray | None:
    """Mask or annotation of a volume, UNLABELED in slices without a file; None if no slice has a file."""
    if not any(files):
        return None
    slices = [
        layouts.label_map(plane, _read(path, LABEL_MODES), values)
        if path
        else np.full(plane.voxels.shape[:3], UNLABELED, np.uint8)
        for plane, path in zip(planes, files, strict=True)
    ]
    return np.concatenate(slices)


def images(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, ...]]:
    """Volumes of PNG slices below a folder, except masks and annotations, and other volumes' files."""
    found = dict(volumes.single_files(folder))
    for parent in sorted({path.parent for path in folder.rglob("*") if path.suffix.lower() == PNG} | {folder}):
        if {MASKS, ANNOTATIONS}.isdisjoint(parent.relative_to(folder).parts):
            paths = sorted(path for path in parent.iterdir() if path.suffix.lower() == PNG)
            files = {path.stem: path for path in paths if path.name[0] != "."}
            for volume, slices in _slices(files).items():
                found[(parent.relative_to(folder) / volume).as_posix()] = tuple(files[name] for name in slices)
    return found


def read_image(files: Sequence[pathlib.Path]) -> volumes.Volume:
    """Reads an image of PNG slices, whose segmentation is NIfTI without geometry, or another volume's file."""
    if files[0].suffix.lower() != PNG:
        return volumes.read_channels(files)
    image = _stacked([_read(path, IMAGE_MODES) for path in files])
    return dataclasses.replace(image, file=nifti.without_geometry())


READER = Reader(labels=labels, fingerprint=fingerprint, read=read, images=images, read_image=read_image)
