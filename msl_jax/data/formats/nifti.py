"""Reads and writes NIfTI-1 and NIfTI-2 files.

Files are checked (gzip checksum, size declared by the header) before memory for their voxels is allocated. A header
without a unit is in mm, except with voxels of size 1 and no affine or the identity: then sizes are unknown and the unit
is the voxel.
"""

import gzip
import io
import math
import pathlib
from typing import Any
import zlib

import nibabel as nib
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import HeaderDataError
import numpy as np

from msl_jax.data.formats import DEFLATE_RATIO, geometry, orientation
from msl_jax.errors import InputError

nib.imageglobals.logger.disabled = True  # our errors report invalid headers, with the file's name
UNKNOWN_UNIT = 0
MILLIMETRES = {UNKNOWN_UNIT: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""The header's code of a length unit -> mm."""
QUATERNION_TOLERANCE = 1e-5
"""How much longer than 1 a quaternion may be."""


def parse(path: pathlib.Path, contents: bytes) -> dict[str, Any]:
    """The fields of a Volume except its path: voxels (slice, y, x[, channel]) as stored, `file` as for `save`.

    Raises:
      InputError: the file is damaged, contradicts itself or is not a volume of plain numbers.
    """
    image = _image(path, contents)
    shape = _volume_shape(path, image.shape)
    factor, units = _unit(path, image)
    sizes = tuple(float(size) * factor for size in image.header.get_zooms()[:3])
    with np.errstate(over="ignore"):
        affine = image.affine * [[factor], [factor], [factor], [1]]
    remarks = (*geometry.check(path, affine, sizes, ("pixdim", "sform")), *_form_remarks(path, image.header))
    voxels = np.asarray(image.dataobj).reshape(shape)
    return {
        "voxels": np.moveaxis(voxels, (0, 1, 2), (2, 1, 0)),
        "spacing": sizes[::-1],
        "units": units,
        "affine": affine,
        "oriented": _is_coded(image.header),
        "file": _without_voxels(image),
        "remarks": remarks,
    }


def without_geometry() -> nib.Nifti1Image:
    """`like` of `save` for voxels of unknown geometry: size 1 without a unit, and no directions."""
    return nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), None)


def save(path: pathlib.Path, voxels: np.ndarray, like: nib.Nifti1Image) -> None:
    """Writes voxels (slice, y, x[, channel]) with the affine, header geometry and voxel sizes of `like`."""
    header = like.header.copy()
    header.set_data_dtype(voxels.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    nib.save(type(like)(np.moveaxis(voxels, (0, 1, 2), (2, 1, 0)), like.affine, header), path)


def _image(path: pathlib.Path, contents: bytes) -> nib.Nifti1Image:
    """The image; decompresses only as many bytes as the header declares, and only if the file can contain them."""
    compressed = path.name.lower().endswith(".gz")
    file = gzip.GzipFile(fileobj=io.BytesIO(contents)) if compressed else io.BytesIO(contents)
    most = len(contents) * (DEFLATE_RATIO if compressed else 1)
    try:
        block = file.read(nib.Nifti2Header.sizeof_hdr)
        kind = nib.Nifti2Image if nib.Nifti2Header.may_contain_header(block) else nib.Nifti1Image
        header, declared = _read_header(path, kind.header_class, block)
        if declared > most:
            raise InputError(
                f"{path}: its header declares {declared} bytes, but the file has at most {most}; download it again."
            )
        file.seek(0)
        decompressed = file.read(declared)
        while file.read(2**20):  # checks the checksum at the end
            pass
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: cannot be read, it is damaged or not a gzip file ({error}); download it again."
        ) from error
    if len(decompressed) < declared:
        raise InputError(
            f"{path}: its header declares {declared} bytes, but the file has {len(decompressed)}; download it again."
        )
    try:
        extensions = decompressed[header.sizeof_hdr : header.get_data_offset()]
        header = kind.header_class.from_fileobj(io.BytesIO(header.binaryblock + extensions))
        return kind(ArrayProxy(io.BytesIO(decompressed), header), header.get_best_affine(), header)
    except Exception as error:  # nibabel raises a dozen kinds for a bad header
        raise InputError(f"{path}: is not a readable NIfTI file ({error}); export it again.") from error


def _without_voxels(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """One voxel with the header and affine of the image, which keeps the whole file in memory."""
    return type(image)(np.zeros((1, 1, 1), np.uint8), image.affine, image.header)


def _read_header(path: pathlib.Path, kind: type[nib.Nifti1Header], block: bytes) -> tuple[nib.Nifti1Header, int]:
    """The corrected header, and the size of the whole file in bytes that it declares."""
    try:
        header = kind(block[: kind.sizeof_hdr], check=False)
        sizes = header["pixdim"][1:4].tolist()
        header = _with_unit_quaternion(header)
        header.check_fix()
        dtype, shape, offset = header.get_data_dtype(), header.get_data_shape(), header.get_data_offset()
    except Exception as error:
        raise InputError(f"{path}: is not a readable NIfTI file ({error}); export it again.") from error
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: its voxels are of type {dtype}, not plain numbers; export it again.")
    if any(length < 1 for length in shape):
        raise InputError(f"{path}: its shape is {shape}, an axis is empty; give a volume with three axes.")
    if 0 in sizes:  # nibabel replaces 0 by 1
        raise InputError(f"{path}: its voxel sizes {sizes} in pixdim are not positive; export it again.")
    if offset < kind.single_vox_offset:
        raise InputError(
            f"{path}: its header puts the voxels at byte {offset} (vox_offset), inside the header itself, which "
            f"takes {kind.single_vox_offset}; export it again."
        )
    return header, offset + dtype.itemsize * math.prod(shape)


def _with_unit_quaternion(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """The header with its quaternion normalized if rounding made it too long for nibabel."""
    parts = [f"quatern_{part}" for part in "bcd"]
    length = math.hypot(*(float(header[part]) for part in parts))
    if 1 < length <= 1 + QUATERNION_TOLERANCE:
        for part in parts:
            header[part] /= length
    return header


def _volume_shape(path: pathlib.Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape (x, y, z) or (x, y, z, channel), without axes of length 1 after the third."""
    axes = (*shape[:3], *(length for length in shape[3:] if length > 1))
    if len(axes) > 4:
        raise InputError(f"{path}: its shape is {shape}, a series of vectors; give one file for each time point.")
    if len(axes) < 3:
        raise InputError(f"{path}: its shape is {shape}; give a volume with three axes, or four with channels.")
    return axes


def _is_coded(header: nib.Nifti1Header) -> bool:
    """Whether the header gives the directions of the axes."""
    return bool(header["qform_code"] or header["sform_code"])


def _form_remarks(path: pathlib.Path, header: nib.Nifti1Header) -> tuple[str, ...]:
    """A warning if qform and sform give different axis directions; nibabel uses the sform."""
    if not (header["qform_code"] and header["sform_code"]):
        return ()
    try:
        qform = orientation.directions_of(header.get_qform())
    except (ValueError, HeaderDataError):  # an invalid quaternion, unused because there is an sform
        return ()
    sform = orientation.directions_of(header.get_sform())
    if not np.isfinite(qform).all() or orientation.nearest(qform, sform)[0] == orientation.UNTURNED:
        return ()
    return (
        f"{path}: its axes point to {orientation.codes(qform)} in its qform, but to {orientation.codes(sform)} in its "
        "sform, which is used here; other programs may use the qform, so export the file again with the right one.",
    )


def _unit(path: pathlib.Path, image: nib.Nifti1Image) -> tuple[float, str]:
    """The header's length unit in mm, and the unit of spacings: "mm" or "voxel"."""
    unit = int(image.header["xyzt_units"]) % 8  # the other bits are the unit of time
    sizes = [float(size) for size in image.header.get_zooms()[:3]]
    if unit not in MILLIMETRES or not all(0 < size * MILLIMETRES[unit] < math.inf for size in sizes):
        raise InputError(f"{path}: its voxel sizes {sizes} with unit code {unit} are not lengths; export it again.")
    is_unknown = sizes == [1, 1, 1] and not (_is_coded(image.header) and (image.affine != np.eye(4)).any())
    return MILLIMETRES[unit], "voxel" if unit == UNKNOWN_UNIT and is_unknown else "mm"
