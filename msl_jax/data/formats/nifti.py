"""NIfTI files in and out.

NIfTI-1 and NIfTI-2, each in one file. Files are checked (gzip checksum, size promised by the header) before anything is
allocated for their voxels. A header without a unit is in mm, but for one with voxels of size 1 and no affine, or the
identity for one: it knows nothing about its voxels, which are then the unit.
"""

import gzip
import io
import math
import pathlib
from typing import Any
import zlib

import nibabel as nib
import numpy as np

from msl_jax.data.formats import DEFLATE_RATIO, geometry, orientation
from msl_jax.errors import InputError

nib.imageglobals.logger.disabled = True  # what is wrong with a header is said once, with the file's name
UNKNOWN_UNIT = 0
MILLIMETRES = {UNKNOWN_UNIT: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""The header's code of a unit of length -> mm."""
TOO_LONG = 1e-5
"""By how much a quaternion may be longer than 1."""


def parse(path: pathlib.Path, contents: bytes) -> dict[str, Any]:
    """The fields of a Volume but its path: voxels (slice, y, x[, channel]) as stored, `file` nibabel's image.

    Raises:
      InputError: the file is damaged, contradicts itself or holds no volume of plain numbers.
    """
    image = _image(path, contents)
    shape = _axes(path, image.shape)
    factor, units = _unit(path, image)
    sizes = tuple(float(size) * factor for size in image.header.get_zooms()[:3])
    with np.errstate(over="ignore"):
        affine = image.affine * [[factor], [factor], [factor], [1]]
    remarks = (*geometry.check(path, affine, sizes, ("pixdim", "sform")), *_two_ways(path, image.header))
    voxels = np.asarray(image.dataobj).reshape(shape)
    return {
        "voxels": np.moveaxis(voxels, (0, 1, 2), (2, 1, 0)),
        "spacing": sizes[::-1],
        "units": units,
        "affine": affine,
        "oriented": _is_coded(image.header),
        "file": image,
        "remarks": remarks,
    }


def without_geometry() -> nib.Nifti1Image:
    """What `save` takes for voxels of which nothing is known: a size of 1 without a unit, and no directions."""
    return nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), None)


def save(path: pathlib.Path, voxels: np.ndarray, like: nib.Nifti1Image) -> None:
    """Writes voxels (slice, y, x[, channel]) with the affine, header geometry and voxel sizes of what was read."""
    header = like.header.copy()
    header.set_data_dtype(voxels.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    nib.save(type(like)(np.moveaxis(voxels, (0, 1, 2), (2, 1, 0)), like.affine, header), path)


def _image(path: pathlib.Path, contents: bytes) -> nib.Nifti1Image:
    """The image; no more is unpacked than its header promises, and that only if the file can hold it."""
    packed = path.name.lower().endswith(".gz")
    file = gzip.GzipFile(fileobj=io.BytesIO(contents)) if packed else io.BytesIO(contents)
    most = len(contents) * (DEFLATE_RATIO if packed else 1)
    try:
        block = file.read(nib.Nifti2Header.sizeof_hdr)
        kind = nib.Nifti2Image if nib.Nifti2Header.may_contain_header(block) else nib.Nifti1Image
        header, promised = _promised(path, kind.header_class, block)
        if promised > most:
            raise InputError(
                f"{path}: its header promises {promised} bytes and at most {most} are there; fetch the file again."
            )
        file.seek(0)
        unpacked = file.read(promised)
        while file.read(2**20):  # to the end, where the checksum is
            pass
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: cannot be read, it is damaged or no gzip file ({error}); fetch the file again."
        ) from error
    if len(unpacked) < promised:
        raise InputError(
            f"{path}: its header promises {promised} bytes and {len(unpacked)} are there; fetch the file again."
        )
    try:
        return kind.from_bytes(header.binaryblock + unpacked[header.sizeof_hdr :])
    except Exception as error:  # nibabel raises a dozen kinds for a bad header
        raise InputError(f"{path}: is no readable NIfTI file ({error}); export it again.") from error


def _promised(path: pathlib.Path, kind: type[nib.Nifti1Header], block: bytes) -> tuple[nib.Nifti1Header, int]:
    """The header as it is to be read, and the bytes of the whole file by it."""
    try:
        header = kind(block[: kind.sizeof_hdr], check=False)
        sizes = header["pixdim"][1:4].tolist()
        header = _turned(header)
        header.check_fix()
        dtype, shape, offset = header.get_data_dtype(), header.get_data_shape(), header.get_data_offset()
    except Exception as error:
        raise InputError(f"{path}: is no readable NIfTI file ({error}); export it again.") from error
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: its voxels are of type {dtype}, plain numbers are needed; export it again.")
    if any(length < 1 for length in shape):
        raise InputError(f"{path}: its shape is {shape}, an axis has no length; give a volume with three axes.")
    if 0 in sizes:  # of which nibabel makes 1
        raise InputError(f"{path}: its voxel sizes {sizes} by pixdim are no lengths; export it again.")
    if offset < kind.single_vox_offset:
        raise InputError(
            f"{path}: its voxels begin at byte {offset} by its header (vox_offset), inside the header itself, which "
            f"takes {kind.single_vox_offset}; export it again."
        )
    return header, offset + dtype.itemsize * math.prod(shape)


def _turned(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """The header with its quaternion a unit long, where rounding has made it longer, which nibabel does not read."""
    parts = [f"quatern_{part}" for part in "bcd"]
    length = math.hypot(*(float(header[part]) for part in parts))
    if 1 < length <= 1 + TOO_LONG:
        for part in parts:
            header[part] /= length
    return header


def _axes(path: pathlib.Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without axes of one from the fourth on: (x, y, z), or (x, y, z, channel)."""
    axes = (*shape[:3], *(length for length in shape[3:] if length > 1))
    if len(axes) > 4:
        raise InputError(f"{path}: its shape is {shape}, a series of vectors; give one time point a file.")
    if len(axes) < 3:
        raise InputError(f"{path}: its shape is {shape}; give a volume with three axes, or four with channels.")
    return axes


def _is_coded(header: nib.Nifti1Header) -> bool:
    """Whether the header says where axes point to."""
    return bool(header["qform_code"] or header["sform_code"])


def _two_ways(path: pathlib.Path, header: nib.Nifti1Header) -> tuple[str, ...]:
    """A sentence where qform and sform put the axes in other directions, of which nibabel takes the latter."""
    if not (header["qform_code"] and header["sform_code"]):
        return ()
    try:
        qform = orientation.directions_of(header.get_qform())
    except Exception:  # of a quaternion that is none, which nobody needs where there is an sform
        return ()
    sform = orientation.directions_of(header.get_sform())
    if not np.isfinite(qform).all() or orientation.nearest(qform, sform)[0] == orientation.UNTURNED:
        return ()
    return (
        f"{path}: its axes point to {orientation.codes(qform)} by its qform and to {orientation.codes(sform)} by its "
        "sform, which is taken; programs differ in that, so see which is right and export the file again.",
    )


def _unit(path: pathlib.Path, image: nib.Nifti1Image) -> tuple[float, str]:
    """How many mm the header's unit of length is, and what spacings are in: "mm", or "voxel"."""
    unit = int(image.header["xyzt_units"]) % 8  # the other bits are the unit of time
    sizes = [float(size) for size in image.header.get_zooms()[:3]]
    if unit not in MILLIMETRES or not all(0 < size * MILLIMETRES[unit] < math.inf for size in sizes):
        raise InputError(f"{path}: its voxel sizes {sizes} with unit code {unit} are no lengths; export it again.")
    knows_nothing = sizes == [1, 1, 1] and not (_is_coded(image.header) and (image.affine != np.eye(4)).any())
    return MILLIMETRES[unit], "voxel" if unit == UNKNOWN_UNIT and knows_nothing else "mm"
