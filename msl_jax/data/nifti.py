"""NIfTI files in and out: volumes are (slice, y, x) in memory and (x, y, slice) on disk.

Files are read whole and checked (gzip checksum, size promised by the header, finite values) before anything is
allocated for them. Spacing is in mm; a header without a unit whose voxels are all of size 1 knows nothing about its
voxels, and is then measured in voxels.
"""

import dataclasses
import gzip
import math
import os
import pathlib
import zlib

import nibabel as nib
import numpy as np

from msl_jax.checks import Refused

ENDINGS = (".nii.gz", ".nii")
UNKNOWN_UNIT = 0
MILLIMETRES = {UNKNOWN_UNIT: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""The header's code of a unit of length -> mm."""


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
    """One file's voxels and geometry.

    Attributes:
      path: where it was read.
      voxels: (slice, y, x); float32 of `read_image`, uint8 of `read_labels`.
      spacing: size of a voxel along (slice, y, x), in `units`.
      units: "mm" or "voxel".
      file: the nibabel image, for its affine and header.
    """

    path: pathlib.Path
    voxels: np.ndarray
    spacing: tuple[float, float, float]
    units: str
    file: nib.Nifti1Image


def stem(path: os.PathLike) -> str:
    """The file's name without folder and NIfTI ending."""
    name = os.path.basename(path)
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)


def find(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """The file `name` + .nii.gz or .nii in `folder`, or None."""
    return next((folder / (name + ending) for ending in ENDINGS if (folder / (name + ending)).is_file()), None)


def find_all(folder: pathlib.Path) -> list[pathlib.Path]:
    """Every NIfTI file below `folder`, hidden ones left out, sorted by path."""
    files = (p for p in folder.rglob("*") if p.name.endswith(ENDINGS) and not p.name.startswith("."))
    return sorted(p for p in files if p.is_file())


def read_image(path: os.PathLike) -> Volume:
    """Reads a 3-D image as float32; raises Refused with one sentence if that cannot be done rightly."""
    volume = _read(path)
    with np.errstate(over="ignore"):
        voxels = volume.voxels.astype(np.float32)
    if not np.isfinite(voxels).all():
        raise Refused(f"{path}: the image holds NaN or infinite values; repair it or leave it out.")
    return dataclasses.replace(volume, voxels=voxels)


def read_labels(path: os.PathLike) -> Volume:
    """Reads a 3-D label map as uint8; raises Refused unless every value is a whole number from 0 to 255."""
    volume = _read(path)
    with np.errstate(invalid="ignore"):
        labels = volume.voxels.astype(np.uint8, casting="unsafe")
    if not np.array_equal(labels, volume.voxels):
        raise Refused(
            f"{path}: a label map holds whole numbers from 0 to 255 alone, this one does not; export it anew."
        )
    return dataclasses.replace(volume, voxels=labels)


def write(path: pathlib.Path, voxels: np.ndarray, like: Volume) -> None:
    """Writes `voxels` on the grid of `like`: same affine, header geometry and voxel sizes, the array's own dtype.

    Args:
      path: the file to write; it appears whole or not at all.
      voxels: (slice, y, x), or (slice, y, x, channel) for a 4-D file.
      like: the volume whose grid this is.
    """
    header = like.file.header.copy()
    header.set_data_dtype(voxels.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    image = type(like.file)(np.moveaxis(voxels, (0, 1, 2), (2, 1, 0)), like.file.affine, header)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".writing_{os.getpid()}_{stem(path)[:64]}{path.name.removeprefix(stem(path))}")
    try:
        nib.save(image, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def check_same_grid(volume: Volume, other: Volume) -> None:
    """Raises Refused unless both volumes have the same shape and, to 1e-3, the same affine."""
    shape, other_shape = (v.voxels.shape[::-1] for v in (volume, other))
    if shape != other_shape:
        raise Refused(
            f"{other.path}: its grid {other_shape} is not the {shape} of {volume.path}; resample one of them."
        )
    if not np.allclose(volume.file.affine, other.file.affine, atol=1e-3):
        raise Refused(f"{other.path}: its affine is not that of {volume.path}; resample one of them.")


def _read(path: os.PathLike) -> Volume:
    path = pathlib.Path(path)
    image = _parse(path, _contents(path))
    if image.ndim == 4 and image.shape[3] == 1:
        image = image.slicer[..., 0]
    if image.ndim != 3:
        raise Refused(f"{path}: its shape is {image.shape}, a volume with three axes is needed.")
    spacing, units = _spacing(path, image.header)
    return Volume(path, np.asarray(image.dataobj).T, spacing, units, image)


def _contents(path: pathlib.Path) -> bytes:
    try:
        contents = path.read_bytes()
        return gzip.decompress(contents) if path.name.endswith(".gz") else contents
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or f"it is damaged or no gzip file ({error})"
        raise Refused(f"{path}: cannot be read, {reason}; check the path or fetch the file again.") from error


def _parse(path: pathlib.Path, contents: bytes) -> nib.Nifti1Image:
    try:
        image = nib.Nifti1Image.from_bytes(contents)
        dtype = image.get_data_dtype()
        needed = image.dataobj.offset + dtype.itemsize * math.prod(image.shape)
    except Exception as error:  # nibabel raises a dozen kinds for a bad header
        raise Refused(f"{path}: is no readable NIfTI file ({error}); export it anew.") from error
    if dtype.kind not in "iuf":
        raise Refused(f"{path}: its voxels are of type {dtype}, plain numbers are needed; export it anew.")
    if any(length < 1 for length in image.shape):
        raise Refused(f"{path}: its shape is {image.shape}, a volume with three axes is needed.")
    if len(contents) < needed:
        raise Refused(
            f"{path}: its header promises {needed} bytes and {len(contents)} are there; fetch the file again."
        )
    return image


def _spacing(path: pathlib.Path, header: nib.Nifti1Header) -> tuple[tuple[float, float, float], str]:
    unit = int(header["xyzt_units"]) % 8  # the other bits are the unit of time
    sizes = [float(size) for size in header.get_zooms()[2::-1]]
    if unit not in MILLIMETRES or not all(0 < size < math.inf for size in sizes):
        raise Refused(f"{path}: its voxel sizes {sizes[::-1]} with unit code {unit} are no lengths; export it anew.")
    spacing = tuple(size * MILLIMETRES[unit] for size in sizes)
    return spacing, "voxel" if unit == UNKNOWN_UNIT and spacing == (1.0, 1.0, 1.0) else "mm"
