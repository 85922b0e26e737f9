"""MetaImage (.mha) and NRRD (.nrrd, .seg.nrrd) files in and out, by SimpleITK.

ITK follows a header to any other file, allocates whatever it promises and takes no note of the checksum of deflated
voxels, so a file is looked through here before ITK opens it. Its coordinates are LPS (x to the left, y to the back);
affines here are RAS like NIfTI's. Lengths are in mm.
"""

import dataclasses
import math
import pathlib
import re
from typing import TYPE_CHECKING, Any
import zlib

import numpy as np

from msl_jax.data.formats import DEFLATE_RATIO, geometry, slicer
from msl_jax.errors import InputError

if TYPE_CHECKING:  # elsewhere in the functions that need it: it takes half a second, and most runs read no such file
    import SimpleITK as sitk

SCALARS = {"Int8": 1, "UInt8": 1, "Int16": 2, "UInt16": 2, "Int32": 4, "UInt32": 4, "Int64": 8, "UInt64": 8}
SCALARS |= {"Float32": 4, "Float64": 8}
"""ITK's types of plain numbers -> bytes of each."""
NOTHING = rb"(?!)"
"""A regular expression that is found nowhere."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """What to look for in a file, as regular expressions.

    What ITK may not see is looked for in the whole file, since it need not take a header to end where `end` does.

    Attributes:
      reader: ITK's name of what reads it.
      end: where the header ends; voxels follow.
      elsewhere: what names another file to hold the voxels, or another place in this one.
      too_long: a line that ITK's readers of headers write past their memory for.
      other_axes: what has another number of axes than a volume, or than one of vectors. MetaImage's own reader writes
        past its memory where there are more than ten.
      binary: what a header has whose voxels are neither text nor packed in a way unknown here.
      deflated: what it has where they are packed by zlib or gzip.
      packed_bytes: how many bytes it says they are packed into; where it is wrong, ITK makes voxels up.
      other_unit: what it has where lengths are not in mm.
      oriented: what it has where it says where axes point to.
      skipped_lines: how many lines to pass over between header and voxels.
      skipped_bytes: how many bytes to pass over there.
    """

    reader: str
    end: bytes
    elsewhere: bytes
    too_long: bytes
    other_axes: bytes
    binary: bytes
    deflated: bytes
    packed_bytes: bytes
    other_unit: bytes
    oriented: bytes
    skipped_lines: bytes = NOTHING
    skipped_bytes: bytes = NOTHING


LAYOUTS = {
    ".mha": Layout(
        reader="MetaImageIO",
        end=rb"(?m)^ElementDataFile\s*[=:]\s*(?i:LOCAL)[ \t]*\r?\n",
        elsewhere=rb"ElementDataFile(?!\s*[=:]\s*(?i:LOCAL)\s)|HeaderSize\s*[=:](?!\s*0\s)",
        too_long=NOTHING,
        other_axes=rb"NDims\s*[=:](?!\s*3\s)",
        binary=rb"(?m)^BinaryData\s*[=:]\s*[Tt1]",
        deflated=rb"(?m)^CompressedData\s*[=:]\s*[Tt1]",
        packed_bytes=rb"CompressedDataSize\s*[=:]\s*([^\r\n]*)",
        other_unit=rb"(?m)^DistanceUnits\s*[=:]\s*(?:um|cm)",
        oriented=rb"(?m)^(?:TransformMatrix|Rotation|Orientation)\s*[=:]",
    ),
    ".nrrd": Layout(
        reader="NrrdImageIO",
        end=rb"\n\r?\n",
        elsewhere=rb"(?i)[\r\n]data ?file:",
        too_long=rb"(?m)^(?!#|[^:\r\n]*:=)[^\r\n]{400}",
        other_axes=rb"(?i)[\r\n]dimension:(?! *[34]\s)",
        binary=rb"(?im)^encoding: *(?:raw|gz)",
        deflated=rb"(?im)^encoding: *gz",
        packed_bytes=NOTHING,
        other_unit=rb'(?im)^(?:space )?units:.*"(?!mm")[^"\s]+"',
        oriented=rb"(?im)^space: *(?:left|right|[LR][AP]S)",
        skipped_lines=rb"(?im)^line ?skip: *([^\r\n]*)",
        skipped_bytes=rb"(?im)^byte ?skip: *([^\r\n]*)",
    ),
}


def parse(path: pathlib.Path, contents: bytes) -> dict[str, Any]:
    """The fields of a Volume but its path: voxels (slice, y, x[, channel]) as stored, `file` ITK's reader.

    Raises:
      InputError: the file is damaged, contradicts itself, holds no volume of plain numbers, or names another file.
    """
    import SimpleITK as sitk

    layout = LAYOUTS[path.suffix.lower()]
    if re.search(layout.elsewhere, contents):
        raise InputError(
            f"{path}: its header names another file or place for the voxels; export all as one plain file."
        )
    if re.search(layout.other_axes, contents):
        raise InputError(f"{path}: a volume with three axes is needed, or of vectors with channels; export it as such.")
    end = re.search(layout.end, contents)
    if not end:
        raise InputError(f"{path}: is no readable {path.suffix} file, its header does not end; export it again.")
    header = contents[: end.end()]
    if re.search(layout.too_long, header):
        raise InputError(
            f"{path}: is no readable {path.suffix} file, a line of its header is too long; export it again."
        )
    if not re.search(layout.binary, header):
        raise InputError(
            f"{path}: its voxels are text or packed in an unknown way; export it raw or compressed by gzip."
        )
    if re.search(layout.other_unit, header):
        raise InputError(f"{path}: its lengths are not in mm; export it in mm.")
    deflated = bool(re.search(layout.deflated, header))
    packed = memoryview(contents)[_voxels_at(path, layout, contents, end.end(), deflated) :]
    reader = sitk.ImageFileReader()
    reader.SetImageIO(layout.reader)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        promised = _promised(path, reader)
        _check_size(path, packed, promised, deflated)
        if any(size.strip() != str(len(packed)).encode() for size in re.findall(layout.packed_bytes, contents)):
            raise InputError(
                f"{path}: its header promises other than the {len(packed)} bytes there; fetch the file again."
            )
        affine = _affine(reader)
        spacing = reader.GetSpacing()
        if not all(0 < size < math.inf for size in spacing):
            raise InputError(f"{path}: its voxel sizes {spacing} are no lengths; export it again.")
        remarks = geometry.check(path, affine, spacing, ("spacing", "directions"))
        voxels = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise InputError(f"{path}: is no readable {path.suffix} file; export it again.") from error
    return {
        "voxels": voxels,
        "spacing": spacing[::-1],
        "units": "mm",
        "affine": affine,
        "oriented": bool(re.search(layout.oriented, header)),
        "file": reader,
        "remarks": remarks,
        "segments": slicer.fields({key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys() if key.isascii()}),
    }


def save(path: pathlib.Path, voxels: np.ndarray, like: "sitk.ImageFileReader") -> None:
    """Writes voxels (slice, y, x[, channel]) on the grid of what was read."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(voxels, isVector=voxels.ndim == 4)
    image.SetSpacing(like.GetSpacing())
    image.SetOrigin(like.GetOrigin())
    image.SetDirection(like.GetDirection())
    sitk.WriteImage(image, str(path), useCompression=True)


def _affine(reader: "sitk.ImageFileReader") -> np.ndarray:
    """(x, y, slice, 1) -> RAS."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    affine[:2] *= -1
    return affine


def _voxels_at(path: pathlib.Path, layout: Layout, contents: bytes, start: int, deflated: bool) -> int:
    """Where voxels begin: behind the header, which ends at `start`, and what it says to skip."""
    skips = [re.findall(pattern, contents[:start]) for pattern in (layout.skipped_lines, layout.skipped_bytes)]
    texts = [found[0].strip() if found else b"0" for found in skips]
    if any(len(found) > 1 for found in skips) or not all(re.fullmatch(rb"[0-9]{1,9}", text) for text in texts):
        raise InputError(f"{path}: its header skips an unknown number of lines or bytes; export it again without.")
    lines, count = map(int, texts)
    if count and deflated:
        raise InputError(f"{path}: its header skips bytes of packed voxels; export it again without byte skip.")
    for line in range(lines):
        start = contents.find(b"\n", start) + 1
        if not start:
            raise InputError(f"{path}: its header skips {lines} lines and {line} are there; export it again without.")
    return start + count


def _promised(path: pathlib.Path, reader: "sitk.ImageFileReader") -> int:
    """The bytes of the voxels by the header."""
    import SimpleITK as sitk

    sizes = {getattr(sitk, f"sitk{of}{scalar}"): size for of in ("", "Vector") for scalar, size in SCALARS.items()}
    if reader.GetPixelID() not in sizes:
        kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        raise InputError(f"{path}: its voxels are of type {kind}, plain numbers are needed; export it again.")
    if reader.GetDimension() != 3 or not all(reader.GetSize()):
        raise InputError(
            f"{path}: its shape is {reader.GetSize()}; give a volume with three axes, or of vectors with channels."
        )
    return math.prod(reader.GetSize()) * reader.GetNumberOfComponents() * sizes[reader.GetPixelID()]


def _check_size(path: pathlib.Path, packed: memoryview, promised: int, deflated: bool) -> None:
    """Raises InputError unless these are as many bytes as promised, once unpacked where zlib or gzip deflated them."""
    most = len(packed) * (DEFLATE_RATIO if deflated else 1)
    if promised > most:
        raise InputError(
            f"{path}: its header promises {promised} bytes and at most {most} are there; fetch the file again."
        )
    there, whole = len(packed), True
    if deflated:
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        try:
            there = len(inflater.decompress(packed, promised + 1))
        except zlib.error as error:
            raise InputError(f"{path}: cannot be read, it is damaged ({error}); fetch the file again.") from error
        whole = inflater.eof
    if there != promised or not whole:
        raise InputError(f"{path}: its header promises {promised} bytes and {there} are there; fetch the file again.")
