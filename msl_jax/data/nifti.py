"""NIfTI files in and out.

Files are checked (gzip checksum, size promised by the header) before anything is allocated for their voxels. A
header without a unit whose voxels are all of size 1 knows nothing about its voxels, and is then measured in voxels.
"""

import gzip
import io
import math
import pathlib
import zlib

import nibabel as nib
import numpy as np

from msl_jax.checks import DEFLATE_RATIO, Refused

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
    image = _image(path, contents)
    if image.ndim == 4 and image.shape[3] == 1:
        image = image.slicer[..., 0]
    if image.ndim not in (3, 4):
        raise Refused(f"{path}: its shape is {image.shape}; give a volume with three axes, or four with channels.")
    spacing, units = _spacing(path, image.header)
    if not np.isfinite(image.affine).all():
        raise Refused(f"{path}: its affine holds NaN or infinite values; export it anew.")
    voxels = np.moveaxis(np.asarray(image.dataobj), (0, 1, 2), (2, 1, 0))
    oriented = bool(image.header["qform_code"] or image.header["sform_code"])
    return voxels, spacing, units, image.affine, oriented, image


def without_geometry() -> nib.Nifti1Image:
    """What `save` takes for voxels of which nothing is known: a size of 1 without a unit, and no directions."""
    return nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), None)


def save(path: pathlib.Path, voxels: np.ndarray, like: nib.Nifti1Image) -> None:
    """Writes voxels (slice, y, x[, channel]) with the affine, header geometry and voxel sizes of what was read."""
    header = like.header.copy()
    header.set_data_dtype(voxels.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    nib.save(type(like)(np.moveaxis(voxels, (0, 1, 2), (2, 1, 0)), like.affine, header), path)


def _image(path: pathlib.Path, contents: bytes) -> nib.Nifti1Image:
    """The image; no more is unpacked than its header promises, and that only if the file can hold it."""
    packed = path.name.endswith(".gz")
    file = gzip.GzipFile(fileobj=io.BytesIO(contents)) if packed else io.BytesIO(contents)
    most = len(contents) * (DEFLATE_RATIO if packed else 1)
    try:
        promised = _promised(path, file.read(nib.Nifti1Header.sizeof_hdr))
        if promised > most:
            raise Refused(
                f"{path}: its header promises {promised} bytes and at most {most} are there; fetch the file again."
            )
        file.seek(0)
        unpacked = file.read(promised)
        while file.read(2**20):  # to the end, where the checksum is
            pass
    except (OSError, EOFError, zlib.error) as error:
        raise Refused(
            f"{path}: cannot be read, it is damaged or no gzip file ({error}); fetch the file again."
        ) from error
    if len(unpacked) < promised:
        raise Refused(
            f"{path}: its header promises {promised} bytes and {len(unpacked)} are there; fetch the file again."
        )
    try:
        return nib.Nifti1Image.from_bytes(unpacked)
    except Exception as error:  # nibabel raises a dozen kinds for a bad header
        raise Refused(f"{path}: is no readable NIfTI file ({error}); export it anew.") from error


def _promised(path: pathlib.Path, block: bytes) -> int:
    """The bytes of the whole file by its header."""
    try:
        header = nib.Nifti1Header(block)
        dtype, shape, offset = header.get_data_dtype(), header.get_data_shape(), header.get_data_offset()
    except Exception as error:
        raise Refused(f"{path}: is no readable NIfTI file ({error}); export it anew.") from error
    if dtype.kind not in "iuf":
        raise Refused(f"{path}: its voxels are of type {dtype}, plain numbers are needed; export it anew.")
    if any(length < 1 for length in shape):
        raise Refused(f"{path}: its shape is {shape}; give a volume with three axes.")
    sizes = nib.Nifti1Header(block, check=False)["pixdim"][1:4].tolist()
    if 0 in sizes:  # of which nibabel makes 1
        raise Refused(f"{path}: its voxel sizes {sizes} are no lengths; export it anew.")
    return offset + dtype.itemsize * math.prod(shape)


def _spacing(path: pathlib.Path, header: nib.Nifti1Header) -> tuple[tuple[float, float, float], str]:
    unit = int(header["xyzt_units"]) % 8  # the other bits are the unit of time
    sizes = [float(size) for size in header.get_zooms()[2::-1]]
    if unit not in MILLIMETRES or not all(0 < size < math.inf for size in sizes):
        raise Refused(f"{path}: its voxel sizes {sizes[::-1]} with unit code {unit} are no lengths; export it anew.")
    spacing = tuple(size * MILLIMETRES[unit] for size in sizes)
    return spacing, "voxel" if unit == UNKNOWN_UNIT and spacing == (1.0, 1.0, 1.0) else "mm"
