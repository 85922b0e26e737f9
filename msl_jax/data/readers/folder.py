"""A plain folder of volumes, paired by name.

    images/a.nii.gz         image, with a fourth axis for several channels
    masks/a.nii.gz          mask, optional
    annotations/a.nii.gz    scribble, points or any other annotation, optional

Each file may have any format of volumes.FORMATS; masks and annotations may also be 3D Slicer segmentations
(a.seg.nrrd). `config.data.labels` has the values of structures. `config.data.unlabeled` is the value of unlabelled
voxels in masks and annotations. `config.data.patient` maps cases to patients.
"""

from collections.abc import Iterator
import functools
import pathlib

from msl_jax.data.case import Case, Load, Reader, Source, hash_of
from msl_jax.data.formats import volumes
from msl_jax.data.readers import layouts
from msl_jax.errors import InputError

IMAGES, MASKS, ANNOTATIONS = FOLDERS = ("images", "masks", "annotations")


def labels(source: Source) -> dict[str, int]:
    """Name -> value of every structure, from config.data.labels."""
    structures = layouts.configured_labels(source)
    layouts.check_labels("config.data.labels", structures, source.unlabeled)
    return structures


def fingerprint(source: Source) -> str:
    """SHA-256 over names and contents of every file in the three folders."""
    return hash_of(
        (f"{folder}/{path.name}", path)
        for folder, files in zip(FOLDERS, _files(source), strict=True)
        for path in files.values()
    )


def read(source: Source) -> Iterator[Load]:
    """Yields a loader for each image with its mask and annotation, in the order of names.

    Raises:
      InputError: a mask or annotation has no image or another grid, a file is damaged, or a label is unknown.
    """
    values = layouts.values(labels(source), source.unlabeled)
    images, masks, annotations = _files(source)

    def load(name: str) -> Case:
        image = volumes.read_image(images[name])
        mask, annotation = (layouts.read_label_map(image, files.get(name), values) for files in (masks, annotations))
        return Case(name, source.patient_of(name), mask=mask, annotation=annotation, **layouts.of_image(image))

    return (functools.partial(load, name) for name in images)


def images(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, ...]]:
    """All volumes below the folder, except in folders of masks or annotations."""
    return volumes.single_files(folder, exclude_folders=(MASKS, ANNOTATIONS))


def _files(source: Source) -> tuple[dict[str, pathlib.Path], ...]:
    """Name -> file, for images, masks and annotations."""
    root = layouts.folder(source, IMAGES)
    images = layouts.by_name(root / IMAGES)
    others = [layouts.by_name(root / folder, volumes.LABEL_ENDINGS) for folder in (MASKS, ANNOTATIONS)]
    if not images:
        raise InputError(f"{root / IMAGES}: contains no images; add files that end in {', '.join(volumes.ENDINGS)}.")
    for files in others:
        layouts.check_have_images(images, files)
    return images, *others


READER = Reader(labels=labels, fingerprint=fingerprint, read=read, images=images, oriented=True)
