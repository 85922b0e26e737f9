"""Reads and writes volumes of any supported format as arrays (slice, y, x[, channel]).

A format is a module with `parse` and `save`, and a row of FORMATS. Spacing is in mm, or in voxels if the file does not
give sizes. Affines map (x, y, slice) to RAS in the same unit for all formats. File endings may be in upper or lower
case.
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
"""File ending -> the module that reads and writes it."""
ENDINGS = tuple(FORMATS)
LABEL_ENDINGS = (slicer.ENDING, *ENDINGS)
"""File endings of label maps; images have all except the first."""
UNSUPPORTED: tuple[str, ...] = (".dcm", ".hdr", ".ima", ".mgh", ".mgz", ".mhd", ".mnc", ".nhdr", ".nii.bz2", ".nii.zst")
UNSUPPORTED += (".gipl", ".gipl.gz")
"""File endings of volumes in unsupported formats."""
MAX_CHANNELS = 8
"""An image with more channels may be a time series."""
MAX_INTENSITY = 1e37
"""Upper limit of intensities: some programs write the largest float32, 3.4e38, for unknown ones."""
ROUNDING = 1e-3
"""Largest distance of a label from a whole number: some programs scale stored values."""


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """One file's voxels and geometry.

    Attributes:
      path: the file.
      voxels: float32 (slice, y, x, channel) of an image, uint8 (slice, y, x) of a label map.
      spacing: size of a voxel along (slice, y, x), in `units`.
      units: "mm" or "voxel".
      affine: float (4, 4), (x, y, slice, 1) -> (right, anterior, superior, 1), in `units`.
      oriented: whether the file gives the affine's directions; otherwise they are defaults.
      file: what the format needs to write another file on this grid.
      remarks: warnings about unusual properties of the file.
      segments: 3D Slicer's fields if the file is one of its segmentations, otherwise empty.
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
        """The directions of its axes, as in orientation.py; None if unknown."""
        return orientation.directions_of(self.affine) if self.oriented else None


def ending(path: os.PathLike | str, among: Sequence[str] = LABEL_ENDINGS) -> str:
    """The ending of the file's name, one of `among`, in the file's spelling; "" if it has another."""
    name = os.path.basename(path)
    return next((name[-len(end) :] for end in among if name.lower().endswith(end)), "")


def stem(path: os.PathLike) -> str:
    """The file's name without folder and ending."""
    return os.path.basename(path).removesuffix(ending(path))


def shortened(name: str) -> str:
    """The first 200 bytes of a name, because file systems allow 255 and more is appended."""
    return name.encode()[:200].decode(errors="ignore")


def is_image(path: os.PathLike) -> bool:
    """Whether the file has an ending of images."""
    return ending(path).lower() in ENDINGS


def find(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """The file `name` + one of ENDINGS in `folder`, or None; raises InputError if there are several."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else ()
    found = [path for path in paths if is_image(path) and stem(path) == name and path.is_file()]
    if len(found) > 1:
        raise InputError(f"{found[1]}: has the same name as {found[0].name}; keep one of them.")
    return found[0] if found else None


def find_all(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files of volumes below `folder`, sorted by path; follows links, omits hidden files.

    Raises:
      OSError: a folder cannot be read.
      InputError: a name is not valid UTF-8.
    """

    def fail(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        here = pathlib.Path(parent)
        # Do not follow links to a parent folder.
        folders[:] = [f for f in folders if f[0] != "." and not here.resolve().is_relative_to((here / f).resolve())]
        found += [here / name for name in names if ending(name) and name[0] != "."]
    for path in found:
        check_name(path)
    return sorted(found)


def check_name(path: pathlib.Path) -> None:
    """Raises InputError if a path is not valid UTF-8, because tables could not contain it."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{str(path)!a}: its name is not valid UTF-8; rename it.") from error


def single_files(
    folder: pathlib.Path, exclude: tuple[str, ...] = (), exclude_folders: tuple[str, ...] = ()
) -> dict[str, tuple[pathlib.Path, ...]]:
    """The images below a folder in layouts with one file for each image.

    Args:
      folder: the folder to search, including subfolders.
      exclude: endings of names, before the file's ending, that are not images.
      exclude_folders: names of folders without images.

    Returns:
      Path of a case relative to `folder`, without ending -> its one file.

    Raises:
      InputError: two files have the same name.
    """
    found: dict[str, tuple[pathlib.Path, ...]] = {}
    for path in find_all(folder):
        relative = path.relative_to(folder)
        excluded = stem(path).endswith(exclude or ("/",)) or not {*exclude_folders}.isdisjoint(relative.parts[:-1])
        if excluded or not is_image(path):
            continue
        name = relative.with_name(stem(path)).as_posix()
        if name in found:
            raise InputError(f"{path}: has the same name as {found[name][0].name}; keep one of them.")
        found[name] = (path,)
    return found


def read_image(path: os.PathLike) -> Volume:
    """Reads an image of one or more channels as float32; raises InputError as `as_voxels` does."""
    return as_image(_read(path))


def read_channels(files: Sequence[os.PathLike]) -> Volume:
    """Reads an image from one file, or concatenates the channels of several files on the grid of the first."""
    first, *others = map(read_image, files)
    if not others:
        return first
    others = [on_grid_of(first, other) for other in others]
    voxels = np.concatenate([image.voxels for image in (first, *others)], axis=-1)
    return dataclasses.replace(first, voxels=voxels, remarks=sum((image.remarks for image in (first, *others)), ()))


def read_labels(path: os.PathLike) -> Volume:
    """Reads a label map as uint8; raises InputError unless every value is a whole number from 0 to 255."""
    return as_labels(_read(path))


def as_image(volume: Volume) -> Volume:
    """Voxels (slice, y, x[, channel]) of any number type -> an image; raises InputError as `as_voxels` does."""
    if volume.segments:
        raise InputError(f"{volume.path}: is a 3D Slicer segmentation, not an image; give the image it was drawn on.")
    voxels = as_voxels(volume.voxels, volume.path)
    channels = voxels.shape[-1]
    remarks = volume.remarks
    if channels > MAX_CHANNELS:
        remarks = (*remarks, f"{volume.path}: has {channels} channels{or_time_points(channels)}.")
    return dataclasses.replace(volume, voxels=voxels, remarks=remarks)


def as_voxels(array: np.ndarray, name: object) -> np.ndarray:
    """An array (slice, y, x[, channel]) of any number type -> an image's voxels, float32 (slice, y, x, channel).

    Raises:
      InputError: begins with `name`; a value is NaN, infinite or above MAX_INTENSITY, or a channel is constant.
    """
    with np.errstate(over="ignore"):
        voxels = array.astype(np.float32, copy=False)
    voxels = voxels if voxels.ndim == 4 else voxels[..., None]
    if not np.isfinite(voxels).all():
        raise InputError(f"{name}: the image contains NaN or infinite values; repair it or remove it.")
    if max(voxels.max(), -voxels.min()) > MAX_INTENSITY:
        raise InputError(
            f"{name}: the image contains {voxels.flat[abs(voxels).argmax()]:.2g}, a placeholder for unknown "
            "intensities; replace it by the background's intensity, or remove the image."
        )
    if np.any(voxels.min((0, 1, 2)) == voxels.max((0, 1, 2))):
        raise InputError(f"{name}: every voxel has the same value; download the file again or remove it.")
    return voxels


def or_time_points(channels: int) -> str:
    """The end of a message about a number of channels, which may be time points."""
    return "" if channels == 1 else "; if they are time points, save each as a separate file"


def as_labels(volume: Volume) -> Volume:
    """Voxels (slice, y, x) of any number type -> a label map; raises InputError as `read_labels` does."""
    voxels = slicer.label_map(volume.path, volume.voxels, volume.segments) if volume.segments else volume.voxels
    if voxels.ndim != 3:
        shape = (*voxels.shape[2::-1], *voxels.shape[3:])
        raise InputError(f"{volume.path}: its shape is {shape}; give a label map with three axes.")
    with np.errstate(invalid="ignore"):
        whole = np.rint(voxels) if voxels.dtype.kind == "f" else voxels
        labels = whole.astype(np.uint8, casting="unsafe")
        valid = (labels == whole) & (abs(voxels - whole) <= ROUNDING if voxels.dtype.kind == "f" else True)
    if not valid.all():
        examples = [f"{value:.6g}" for value in np.unique(voxels[~valid])[:3]]
        raise InputError(
            f"{volume.path}: contains {', '.join(examples)}; label maps have only whole numbers from 0 to 255; "
            "change its labels or export it again."
        )
    return dataclasses.replace(volume, voxels=labels)


def write(path: pathlib.Path, voxels: np.ndarray, like: Volume) -> None:
    """Writes `voxels` on the grid of `like`, with its affine and voxel sizes and the array's dtype.

    Args:
      path: the file to write, in the format of `like`; written atomically.
      voxels: (slice, y, x), or (slice, y, x, channel).
      like: a volume as it was read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    end = ending(path, ENDINGS).lower()
    temporary = path.with_name(f".writing_{os.getpid()}_{shortened(stem(path))}{end}")
    try:
        FORMATS[end].save(temporary, voxels, like.file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_values(labels: Volume, known: Set[int]) -> None:
    """Raises InputError if a label map has a value that is not known."""
    unknown = sorted(set(np.unique(labels.voxels).tolist()) - known)
    if unknown:
        raise InputError(
            f"{labels.path}: has the unknown label values {unknown}, not among {sorted(known)}; correct the file or "
            "the data set's labels."
        )


def check_same_grid(volume: Volume, other: Volume) -> None:
    """Raises InputError unless shapes are equal and corners are equal to a tenth of a voxel."""
    shape, other_shape = _shape(volume), _shape(other)
    if shape != other_shape:
        raise InputError(
            f"{other.path}: its grid {other_shape} differs from {shape} of {volume.path}; resample one of them."
        )
    distance = _corner_distance(volume, other)
    if distance <= geometry.GRID_TOLERANCE:
        return
    if volume.oriented != other.oriented:
        unknown, known = (other, volume) if volume.oriented else (volume, other)
        raise InputError(
            f"{other.path}: cannot be aligned with {volume.path}: the header of {unknown.path.name} does not give the "
            f"directions of its axes; copy the header of {known.path.name} if the voxels of both correspond, or export "
            "it again."
        )
    raise InputError(
        f"{other.path}: its affine differs from that of {volume.path} by up to {distance:.1f} voxels; copy the image's "
        "header if the voxels of both correspond, or resample one of them."
    )


def labels_on_grid_of(image: Volume, labels: Volume) -> Volume:
    """A label map on the grid of an image, as by `on_grid_of`; restores 3D Slicer's cropped segmentations.

    Raises:
      InputError: as by `check_same_grid`, or a cropped segmentation is not on the image's voxel grid.
    """
    return _uncropped(image, _reoriented_like(image, labels)) if labels.segments else on_grid_of(image, labels)


def on_grid_of(volume: Volume, other: Volume) -> Volume:
    """The other volume, permuted and flipped if it has the same grid in another orientation.

    Raises:
      InputError: as by `check_same_grid`.
    """
    reoriented = _reoriented_like(volume, other)
    same = _shape(reoriented) == _shape(volume) and _corner_distance(volume, reoriented) <= geometry.GRID_TOLERANCE
    check_same_grid(volume, reoriented if same else other)
    return reoriented


def _reoriented_like(volume: Volume, other: Volume) -> Volume:
    """The other volume in the orientation nearest to the first's, if both have known directions."""
    if volume.directions is None or other.directions is None:
        return other
    turn, _ = orientation.nearest(other.directions, volume.directions)
    return dataclasses.replace(
        other,
        voxels=turn.apply(other.voxels),
        spacing=turn.spacing(other.spacing),
        affine=turn.affine(other.affine, other.voxels.shape),
    )


def _corner_distance(volume: Volume, other: Volume) -> float:
    return geometry.corner_distance(volume.affine, other.affine, _shape(volume))


def _uncropped(image: Volume, labels: Volume) -> Volume:
    if labels.voxels.size == 1 and not labels.voxels.any():  # Slicer's file without segments
        affine, first = image.affine, np.zeros(3)
    else:
        first = geometry.first_voxel(image.affine, labels.affine)
        affine = geometry.with_origin_at(labels.affine, -first)
    on_grid = geometry.corner_distance(image.affine, affine, _shape(image)) <= geometry.GRID_TOLERANCE
    whole = slicer.uncropped(labels.voxels, first[::-1], image.voxels.shape[:3]) if on_grid else None
    if whole is None:
        raise InputError(
            f"{labels.path}: its segments are not on the voxel grid of {image.path}; in Slicer, make that image the "
            "segmentation's source geometry and export it as a label map."
        )
    return dataclasses.replace(labels, voxels=whole, affine=affine)


def _shape(volume: Volume) -> tuple[int, int, int]:
    """(x, y, slice)."""
    return volume.voxels.shape[2::-1]


def _read(path: os.PathLike) -> Volume:
    path = pathlib.Path(path)
    if not ending(path):
        raise InputError(f"{path}: is not a file of a known format; give one that ends in {', '.join(ENDINGS)}.")
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read, {error.strerror}; check the path or download the file again."
        ) from error
    return Volume(path, **FORMATS[ending(path, ENDINGS).lower()].parse(path, contents))
