"""Files of volumes in and out, whatever their format: (slice, y, x[, channel]) in memory.

A format is a module with `parse` and `save`, and a row of FORMATS. Spacing is in mm, or in voxels where a file does not
know; affines take (x, y, slice) to RAS in the same unit, so that files of two formats can be compared. Endings of names
are known in upper and lower case.
"""

from collections.abc import Mapping, Sequence, Set
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from msl_jax.data.formats import geometry, itk, nifti, orientation, slicer
from msl_jax.errors import InputError

FORMATS = {".nii.gz": nifti, ".nii": nifti, ".mha": itk, ".nrrd": itk}
"""Ending of a file's name -> what reads and writes it."""
ENDINGS = tuple(FORMATS)
LABEL_ENDINGS = (slicer.ENDING, *ENDINGS)
"""How names of label maps end; of images, all but the first."""
UNREAD = (".dcm", ".hdr", ".ima", ".mgh", ".mgz", ".mhd", ".mnc", ".nhdr", ".nii.bz2", ".nii.zst", ".gipl", ".gipl.gz")
"""How names of volumes end whose formats are not read here."""
MOST_CHANNELS = 8
"""An image of more may be a time series."""
LARGEST = 1e37
"""What no intensity comes to: programs write the largest float32, 3.4e38, where they know none."""
ROUNDING = 1e-3
"""By how much a label may be off a whole number: some programs scale what they store."""


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """One file's voxels and geometry.

    Attributes:
      path: where it was read.
      voxels: float32 (slice, y, x, channel) of an image, uint8 (slice, y, x) of a label map.
      spacing: size of a voxel along (slice, y, x), in `units`.
      units: "mm" or "voxel".
      affine: float (4, 4), (x, y, slice, 1) -> (right, anterior, superior, 1), in `units`.
      oriented: whether the file says so, or the affine's directions are made up.
      file: what the format keeps of the file to write another on its grid.
      remarks: what looks odd about the file and does not stop it from being read, a sentence each.
      segments: what 3D Slicer says of the segments of one of its segmentations; empty for any other file.
    """

    path: pathlib.Path
    voxels: np.ndarray
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    units: str = "voxel"
    affine: np.ndarray = dataclasses.field(default_factory=lambda: np.eye(4))
    oriented: bool = False
    file: Any = None
    remarks: tuple[str, ...] = ()
    segments: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def directions(self) -> np.ndarray | None:
        """Which way it lies, as orientation.py has it; None where that is not known."""
        return orientation.directions_of(self.affine) if self.oriented else None


def ending(path: os.PathLike | str, among: Sequence[str] = LABEL_ENDINGS) -> str:
    """How the file's name ends, one of `among`, spelled as it is there; "" where it ends otherwise."""
    name = os.path.basename(path)
    return next((name[-len(end) :] for end in among if name.lower().endswith(end)), "")


def stem(path: os.PathLike) -> str:
    """The file's name without folder and ending."""
    return os.path.basename(path).removesuffix(ending(path))


def shortened(name: str) -> str:
    """The beginning of a name, so that a file's name has room for more: file systems take 255 bytes."""
    return name.encode()[:200].decode(errors="ignore")


def is_image(path: os.PathLike) -> bool:
    """Whether the file's name is one that an image may have."""
    return ending(path).lower() in ENDINGS


def find(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """The file `name` + one of ENDINGS in `folder`, or None; raises InputError where there are several."""
    there = sorted(folder.iterdir()) if folder.is_dir() else ()
    found = [path for path in there if is_image(path) and stem(path) == name and path.is_file()]
    if len(found) > 1:
        raise InputError(f"{found[1]}: lies beside {found[0].name}; keep one of them.")
    return found[0] if found else None


def find_all(folder: pathlib.Path) -> list[pathlib.Path]:
    """Every volume's file below `folder`, through links as well, sorted by path; what is hidden is left out.

    Raises:
      OSError: a folder cannot be read.
      InputError: a name is none, as `check_name` says.
    """

    def fail(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        here = pathlib.Path(parent)
        # A link to a folder that it lies in leads nowhere new.
        folders[:] = [f for f in folders if f[0] != "." and not here.resolve().is_relative_to((here / f).resolve())]
        found += [here / name for name in names if ending(name) and name[0] != "."]
    for path in found:
        check_name(path)
    return sorted(found)


def check_name(path: pathlib.Path) -> None:
    """Raises InputError where a path is no text in UTF-8, and so could not be written into any table."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{str(path)!a}: its name is no text in UTF-8; rename it.") from error


def single_files(
    folder: pathlib.Path, but: tuple[str, ...] = (), outside: tuple[str, ...] = ()
) -> dict[str, tuple[pathlib.Path, ...]]:
    """What a folder holds of images that are a file each.

    Args:
      folder: where to look, and below.
      but: how names end, without the file's ending, that are no images'.
      outside: names of folders that hold no images.

    Returns:
      Name of a case, with its folder below `folder` -> its one file.

    Raises:
      InputError: two files have one name.
    """
    found: dict[str, tuple[pathlib.Path, ...]] = {}
    for path in find_all(folder):
        below = path.relative_to(folder)
        if not is_image(path) or stem(path).endswith(but or ("/",)) or not {*outside}.isdisjoint(below.parts[:-1]):
            continue
        name = below.with_name(stem(path)).as_posix()
        if name in found:
            raise InputError(f"{path}: lies beside {found[name][0].name}; keep one of them.")
        found[name] = (path,)
    return found


def read_image(path: os.PathLike) -> Volume:
    """Reads an image of one or more channels as float32; raises InputError unless all of it is a number."""
    return as_image(_read(path))


def read_channels(files: Sequence[os.PathLike]) -> Volume:
    """Reads an image from one file, or from several on the grid of the first, whose channels follow one another."""
    first, *others = map(read_image, files)
    others = [on_grid_of(first, other) for other in others]
    voxels = np.concatenate([image.voxels for image in (first, *others)], axis=-1)
    return dataclasses.replace(first, voxels=voxels, remarks=sum((image.remarks for image in (first, *others)), ()))


def read_labels(path: os.PathLike) -> Volume:
    """Reads a label map as uint8; raises InputError unless every value is a whole number from 0 to 255."""
    return as_labels(_read(path))


def as_image(volume: Volume) -> Volume:
    """Voxels (slice, y, x[, channel]) of any number type -> an image; raises InputError as `read_image` does."""
    if volume.segments:
        raise InputError(f"{volume.path}: is a segmentation by 3D Slicer and no image; give the image it was drawn on.")
    voxels = as_voxels(volume.voxels, volume.path)
    channels = voxels.shape[-1]
    odd = (f"{volume.path}: has {channels} channels{or_time_points(channels)}.",) if channels > MOST_CHANNELS else ()
    return dataclasses.replace(volume, voxels=voxels, remarks=(*volume.remarks, *odd))


def as_voxels(array: np.ndarray, name: object) -> np.ndarray:
    """An array (slice, y, x[, channel]) of any number type -> an image's voxels, float32 (slice, y, x, channel).

    Raises:
      InputError: begins with `name`; a value is no number, or far too large, or a channel holds one value alone.
    """
    with np.errstate(over="ignore"):
        voxels = array.astype(np.float32)
    voxels = voxels if voxels.ndim == 4 else voxels[..., None]
    if not np.isfinite(voxels).all():
        raise InputError(f"{name}: the image holds NaN or infinite values; repair it or leave it out.")
    if max(voxels.max(), -voxels.min()) > LARGEST:
        raise InputError(
            f"{name}: the image holds {voxels.flat[abs(voxels).argmax()]:.2g}, as programs write where they "
            "know no intensity; put the background's there, or leave it out."
        )
    if np.any(voxels.min((0, 1, 2)) == voxels.max((0, 1, 2))):
        raise InputError(f"{name}: every voxel has the same value; fetch the file again or leave it out.")
    return voxels


def or_time_points(channels: int) -> str:
    """What a sentence on an image's number of channels ends in: they may be points in time."""
    return "" if channels == 1 else "; if they are points in time, save each as a file of its own"


def as_labels(volume: Volume) -> Volume:
    """Voxels (slice, y, x) of any number type -> a label map; raises InputError as `read_labels` does."""
    voxels = slicer.label_map(volume.path, volume.voxels, volume.segments) if volume.segments else volume.voxels
    if voxels.ndim != 3:
        shape = (*voxels.shape[2::-1], *voxels.shape[3:])
        raise InputError(f"{volume.path}: its shape is {shape}; give a label map with three axes.")
    with np.errstate(invalid="ignore"):
        whole = np.rint(voxels) if voxels.dtype.kind == "f" else voxels
        labels = whole.astype(np.uint8, casting="unsafe")
        right = (labels == whole) & (abs(voxels - whole) <= ROUNDING if voxels.dtype.kind == "f" else True)
    if not right.all():
        some = [f"{value:.6g}" for value in np.unique(voxels[~right])[:3]]
        raise InputError(
            f"{volume.path}: holds {', '.join(some)}; a label map holds whole numbers from 0 to 255 alone, give its "
            "structures such values or export it again."
        )
    return dataclasses.replace(volume, voxels=labels)


def write(path: pathlib.Path, voxels: np.ndarray, like: Volume) -> None:
    """Writes `voxels` on the grid of `like`: same affine and voxel sizes, the array's own dtype.

    Args:
      path: the file to write, of the format of `like`; it appears whole or not at all.
      voxels: (slice, y, x), or (slice, y, x, channel).
      like: the volume whose grid this is, as it was read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    end = ending(path, ENDINGS).lower()
    beside = path.with_name(f".writing_{os.getpid()}_{shortened(stem(path))}{end}")
    try:
        FORMATS[end].save(beside, voxels, like.file)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def check_values(labels: Volume, known: Set[int]) -> None:
    """Raises InputError where a label map holds a value that is not known."""
    unknown = sorted(set(np.unique(labels.voxels).tolist()) - known)
    if unknown:
        raise InputError(
            f"{labels.path}: holds the unknown label values {unknown}; known are {sorted(known)}, correct the file or "
            "the data set's labels."
        )


def check_same_grid(volume: Volume, other: Volume) -> None:
    """Raises InputError unless shapes are equal and, to a tenth of a voxel, corners lie at the same places."""
    shape, other_shape = _shape(volume), _shape(other)
    if shape != other_shape:
        raise InputError(
            f"{other.path}: its grid {other_shape} is not the {shape} of {volume.path}; resample one of them."
        )
    far = _apart(volume, other)
    if far <= geometry.SAME_PLACE:
        return
    if volume.oriented != other.oriented:
        blind, sees = (other, volume) if volume.oriented else (volume, other)
        raise InputError(
            f"{other.path}: cannot be laid on {volume.path}, since the header of {blind.path.name} does not say where "
            f"its axes point to; copy that of {sees.path.name} if both lie alike, or export it again."
        )
    raise InputError(
        f"{other.path}: its affine is not that of {volume.path}, their grids lie up to {far:.1f} voxels apart; copy "
        "the header of the image if both lie alike, or resample one of them."
    )


def labels_on_grid_of(image: Volume, labels: Volume) -> Volume:
    """A label map on the grid of an image: as `on_grid_of`, and where 3D Slicer cut it to its segments' extent, uncut.

    Raises:
      InputError: as `check_same_grid` does, or such a cut does not lie on the image's voxels.
    """
    return _uncut(image, _turned_like(image, labels)) if labels.segments else on_grid_of(image, labels)


def on_grid_of(volume: Volume, other: Volume) -> Volume:
    """The other volume, permuted and flipped where it holds the same grid in another orientation.

    Raises:
      InputError: as `check_same_grid` does.
    """
    turned = _turned_like(volume, other)
    same = _shape(turned) == _shape(volume) and _apart(volume, turned) <= geometry.SAME_PLACE
    check_same_grid(volume, turned if same else other)
    return turned


def _turned_like(volume: Volume, other: Volume) -> Volume:
    """The other volume, permuted and flipped to lie as nearly as can be like the first, where both say how they lie."""
    if volume.directions is None or other.directions is None:
        return other
    turn, _ = orientation.nearest(other.directions, volume.directions)
    return dataclasses.replace(
        other,
        voxels=turn.apply(other.voxels),
        spacing=turn.spacing(other.spacing),
        affine=turn.affine(other.affine, other.voxels.shape),
    )


def _apart(volume: Volume, other: Volume) -> float:
    return geometry.apart(volume.affine, other.affine, _shape(volume))


def _uncut(image: Volume, labels: Volume) -> Volume:
    if labels.voxels.size == 1 and not labels.voxels.any():  # what Slicer writes where nothing is segmented
        affine, first = image.affine, np.zeros(3)
    else:
        first = geometry.first_voxel(image.affine, labels.affine)
        affine = geometry.moved(labels.affine, -first)
    fits = geometry.apart(image.affine, affine, _shape(image)) <= geometry.SAME_PLACE
    whole = slicer.placed(labels.voxels, first[::-1], image.voxels.shape[:3]) if fits else None
    if whole is None:
        raise InputError(
            f"{labels.path}: its segments do not lie on the voxels of {image.path}; in Slicer, make that image the "
            "segmentation's source geometry and export it as a label map."
        )
    return dataclasses.replace(labels, voxels=whole, affine=affine)


def _shape(volume: Volume) -> tuple[int, int, int]:
    """(x, y, slice)."""
    return volume.voxels.shape[2::-1]


def _read(path: os.PathLike) -> Volume:
    path = pathlib.Path(path)
    if not ending(path):
        raise InputError(f"{path}: is no file of a known format; give one whose name ends in {', '.join(ENDINGS)}.")
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read, {error.strerror}; check the path or fetch the file again."
        ) from error
    return Volume(path, **FORMATS[ending(path, ENDINGS).lower()].parse(path, contents))
