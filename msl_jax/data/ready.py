"""Cases ready for training, on disk: resampled and normalised, with masks as classes and weak labels.

Everything that does not change from step to step is computed once for a data set, a preparation and an annotator, and
shared by all runs that agree in them. Slices are read one by one, so a run keeps no case in memory.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import os
import pathlib
import shutil
import sys
import tempfile

import numpy as np
from tqdm import tqdm

from msl_jax.data import annotator as annotator_lib
from msl_jax.data import builder, intensity, resampling, weak_labels
from msl_jax.data import preparation as preparation_lib
from msl_jax.data.annotator import Annotator
from msl_jax.data.builder import Dataset, Entry
from msl_jax.data.case import Case
from msl_jax.data.preparation import STRETCH, Preparation
from msl_jax.data.weak_labels import RECIPES
from msl_jax.labels import UNLABELED

SLICES, CLASSES = "slices.npy", "classes.npy"
LABEL_MAPS = ("label", "weak_label")
"""Label maps of a ready case: the mask and the weak labels."""


@dataclasses.dataclass(frozen=True, eq=False)
class ReadyCase:
    """A case on disk, ready for training.

    Attributes:
      entry: the case in the data set.
      file: the NumPy file of its slices, a structured array (slice, y, x).
      offset: where the slices begin in the file, in bytes.
      shape: (slice, y, x) after resampling.
      dtype: its fields are "image", float16 (channels,) in [0, 1], and LABEL_MAPS, uint8, classes or UNLABELED.
      classes: label map -> bool (slice, class): which slices have a pixel of which class.
    """

    entry: Entry
    file: pathlib.Path
    offset: int
    shape: tuple[int, int, int]
    dtype: np.dtype
    classes: Mapping[str, np.ndarray]

    def slice(self, z: int) -> np.ndarray:
        """Reads a slice, (y, x) of `dtype`."""
        pixels = self.shape[1] * self.shape[2]
        offset = self.offset + z * pixels * self.dtype.itemsize
        return np.fromfile(self.file, self.dtype, pixels, offset=offset).reshape(self.shape[1:])


def make_ready(
    data: Dataset, entries: Iterable[Entry], preparation: Preparation, annotator: Annotator
) -> list[ReadyCase]:
    """Opens the ready cases of some entries; computes those that are missing.

    Raises:
      OSError: the cache is not writable.
    """
    entries, classes = list(entries), len(preparation.values)
    folders = [data.ready / _key(data, entry, preparation, annotator) for entry in entries]
    missing = [(entry, folder) for entry, folder in zip(entries, folders, strict=True) if not folder.exists()]
    for entry, folder in tqdm(missing, "Preparing cases", unit="case", disable=None if missing else True):
        _write(folder, *compute(data.case(entry), entry, preparation, annotator), classes)
    return [_open(entry, folder) for entry, folder in zip(entries, folders, strict=True)]


def compute(
    case: Case, entry: Entry, preparation: Preparation, annotator: Annotator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, masks and weak labels of a case, as training uses them before augmentation.

    Returns:
      float32 (slice, y, x, channel) in [0, 1]; int32 (slice, y, x), twice, classes or UNLABELED.
    """
    images = preparation.images(case.image, intensity.measure(case.image), case.spacing)
    label, weak_label = labels(case, entry, preparation, annotator)
    return images, label, weak_label


def labels(case: Case, entry: Entry, preparation: Preparation, annotator: Annotator) -> tuple[np.ndarray, np.ndarray]:
    """The label maps of `compute`.

    Masks that leave pixels unlabelled, like scribbles in a folder of masks, are resampled like annotations: by the
    largest share, thin lines would be lost.
    """
    unlabelled = np.full(case.image.shape[:3], UNLABELED, np.uint8)
    mask = unlabelled if case.mask is None else case.mask
    if entry.full:
        label = preparation.mask(mask, case.spacing)
    else:
        grid = preparation.grid(mask.shape[1:], case.spacing[1:])
        label = np.stack([weak_labels.resize(classes, grid) for classes in preparation.class_of_value()[mask]])
    annotation = preparation.class_of_value()[unlabelled if case.annotation is None else case.annotation]
    return label, np.stack([annotator(entry, z, label[z], annotation[z]) for z in range(len(label))])


def _write(folder: pathlib.Path, image: np.ndarray, label: np.ndarray, weak_label: np.ndarray, classes: int) -> None:
    """Writes a ready case, whole or not at all."""
    channels = image.shape[-1]
    fields = [("image", np.float16, (channels,)), *((name, np.uint8) for name in LABEL_MAPS)]
    slices = np.empty(image.shape[:3], fields)
    slices["image"], slices["label"], slices["weak_label"] = image, label, weak_label
    present = np.stack([[np.isin(np.arange(classes), labels) for labels in slices[name]] for name in LABEL_MAPS])
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
    try:
        _save(temporary / SLICES, slices)
        _save(temporary / CLASSES, present)
        os.chmod(temporary, 0o755)
        os.rename(temporary, folder)
    except OSError:
        if not folder.exists():  # else another process wrote the same case first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # nothing is left to remove after the renaming


def _save(path: pathlib.Path, array: np.ndarray) -> None:
    """As np.save, but an OSError has the number and the reason; np.save reports a full disk without them."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(np.ascontiguousarray(array).data)


def _open(entry: Entry, folder: pathlib.Path) -> ReadyCase:
    classes = np.load(folder / CLASSES)
    slices = np.load(folder / SLICES, mmap_mode="r")
    return ReadyCase(
        entry, folder / SLICES, slices.offset, slices.shape, slices.dtype, dict(zip(LABEL_MAPS, classes, strict=True))
    )


def _key(data: Dataset, entry: Entry, preparation: Preparation, annotator: Annotator) -> str:
    """A name that differs if anything that determines the ready case does, or the code that computes it."""
    recipe = annotator.recipe_of(entry.patient)
    if preparation.spacing != STRETCH:
        preparation = dataclasses.replace(preparation, size=(0, 0))  # without effect: patches are cut later
    settings = repr((entry, preparation, recipe, annotator.style))
    modules = (sys.modules[__name__], annotator_lib, intensity, preparation_lib, resampling, weak_labels)
    code = [builder.code_of(module) for module in modules]
    if recipe in RECIPES:
        code.append(builder.source_code(RECIPES[recipe]))
    return builder.short_hash(data.name.encode(), settings.encode(), *code)
