"""NIfTI files in and out.

Files are read whole and checked (gzip checksum, size promised by the header) before anything is allocated for them. A
header without a unit whose voxels are all of size 1 knows nothing about its voxels, and is then measured in voxels.
"""

import gzip
import math
import pathlib
import zlib

import nibabel as nib
import numpy as np

from msl_jax.checks import Refused

nib.imageglobals.logger.disabled = True  # what is wrong with a header is said once, with the file's name

UNKNOWN_UNIT = 0
MILLIMETRES = {UNKNOWN_UNIT: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""The header's code of a unit of length -> mm."""


def parse(
    path: pathlib.Path, contents: bytes
) -> tuple[np.ndarray, tuple[float, float, float], str, np.ndarray, bool, nib.Nifti1Image]:
    """What a Volume is made of, in its order: voxels (slice, y, x[, channel]) as stored, and nibabel's image at last.

    Raises:
      Refused: the file is damaged or holds no volume of plain numbers.
    """
    image = _image(path, _unzipped(path, contents) if path.name.endswith(".gz") else contents)
    if image.ndim == 4 and image.shape[3] == 1:
        image = image.slicer[..., 0]
    if image.ndim not in (3, 4):
        raise Refused(f"{path}: its shape is {image.shape}; give a volume with three axes, or four with channels.")
    spacing, units = _spacing(path, image.header)
    voxels = np.moveaxis(np.asarray(image.dataobj), (0, 1, 2), (2, 1, 0))
    oriented = bool(image.header["qform_code"] or image.header["sform_code"])
    return voxels, spacing, units, image.affine, oriented, image


def save(path: pathlib.Path, voxels: np.ndarray, like: nib.Nifti1Image) -> None:
    """Writes voxels (slice, y, x[, channel]) with the affine, header geometry and voxel sizes of what was read."""
    header = like.header.copy()
    header.set_data_dtype(voxels.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    nib.save(type(like)(np.moveaxis(voxels, (0, 1, 2), (2, 1, 0)), like.affine, header), path)


def _unzipped(path: pathlib.Path, contents: bytes) -> bytes:
    try:
        return gzip.decompress(contents)
    except (OSError, EOFError, zlib.error) as error:
        raise Refused(
            f"{path}: cannot be read, it is damaged or no gzip file ({error}); fetch the file again."
        ) from error


def _image(path: pathlib.Path, contents: bytes) -> nib.Nifti1Image:
    try:
        image = nib.Nifti1Image.from_bytes(contents)
        dtype = image.get_data_dtype()
        needed = image.dataobj.offset + dtype.itemsize * math.prod(image.shape)
    except Exception as error:  # nibabel raises a dozen kinds for a bad header
        raise Refused(f"{path}: is no readable NIfTI file ({error}); export it anew.") from error
    if dtype.kind not in "iuf":
        raise Refused(f"{path}: its voxels are of type {dtype}, plain numbers are needed; export it anew.")
    if any(length < 1 for length in image.shape):
        raise Refused(f"{path}: its shape is {image.shape}; give a volume with three axes.")
    sizes = nib.Nifti1Header(contents[: nib.Nifti1Header.sizeof_hdr], check=False)["pixdim"][1:4].tolist()
    if 0 in sizes:  # of which nibabel makes 1
        raise Refused(f"{path}: its voxel sizes {sizes} are no lengths; export it anew.")
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
