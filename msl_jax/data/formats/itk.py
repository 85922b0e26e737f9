"""Reads and writes MetaImage (.mha) and NRRD (.nrrd, .seg.nrrd) files with SimpleITK.

ITK opens any other file that a header names, allocates any size it declares and ignores the checksum of compressed
voxels. Therefore files are checked here before ITK opens them. ITK's coordinates are LPS (x to the left, y to the
back); affines here are RAS as in NIfTI. Lengths are in mm.
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

if TYPE_CHECKING:  # functions import it when needed: the import takes half a second, and most runs do not need it
    import SimpleITK as sitk

SCALARS = {"Int8": 1, "UInt8": 1, "Int16": 2, "UInt16": 2, "Int32": 4, "UInt32": 4, "Int64": 8, "UInt64": 8}
SCALARS |= {"Float32": 4, "Float64": 8}
"""ITK's number types -> bytes per number."""
NO_MATCH = rb"(?!)"
"""A regular expression that never matches."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Regular expressions that find properties of a file.

    Fields that ITK must not see are searched in the whole file, because ITK may read beyond `end`.

    Attributes:
      reader: ITK's name of the reader.
      end: end of the header; voxels follow.
      other_place: a field that places the voxels in another file, or at another position in this one.
      too_long: a line that overflows a buffer of ITK's header readers.
      other_axes: a number of axes other than that of a volume, with or without channels. More than ten overflow a
        buffer of ITK's MetaImage reader.
      binary: matches if the voxels are binary, and raw or compressed in a supported way.
      deflated: matches if the voxels are compressed by zlib or gzip.
      compressed_bytes: the number of compressed bytes; if it is wrong, ITK invents voxels.
      other_unit: matches if lengths are not in mm.
      oriented: matches if the header gives the directions of the axes.
      skipped_lines: number of lines to skip between header and voxels.
      skipped_bytes: number of bytes to skip there.
    """

    reader: str
    end: bytes
    other_place: bytes
    too_long: bytes
    other_axes: bytes
    binary: bytes
    deflated: bytes
    compressed_bytes: bytes
    other_unit: bytes
    oriented: bytes
    skipped_lines: bytes = NO_MATCH
    skipped_bytes: bytes = NO_MATCH


LAYOUTS = {
    ".mha": Layout(
        reader="MetaImageIO",
        end=rb"(?m)^ElementDataFile\s*[=:]\s*(?i:LOCAL)[ \t]*\r?\n",
        other_place=rb"ElementDataFile(?!\s*[=:]\s*(?i:LOCAL)\s)|HeaderSize\s*[=:](?!\s*0\s)",
        too_long=NO_MATCH,
        other_axes=rb"NDims\s*[=:](?!\s*3\s)",
        binary=rb"(?m)^BinaryData\s*[=:]\s*[Tt1]",
        deflated=rb"(?m)^CompressedData\s*[=:]\s*[Tt1]",
        compressed_bytes=rb"CompressedDataSize\s*[=:]\s*([^\r\n]*)",
        other_unit=rb"(?m)^DistanceUnits\s*[=:]\s*(?:um|cm)",
        oriented=rb"(?m)^(?:TransformMatrix|Rotation|Orientation)\s*[=:]",
    ),
    ".nrrd": Layout(
        reader="NrrdImageIO",
        end=rb"\n\r?\n",
        other_place=rb"(?i)[\r\n]data ?file:",
        too_long=rb"(?m)^(?!#|[^:\r\n]*:=)[^\r\n]{400}",
        other_axes=rb"(?i)[\r\n]dimension:(?! *[34]\s)",
        binary=rb"(?im)^encoding: *(?:raw|gz)",
        deflated=rb"(?im)^encoding: *gz",
        compressed_bytes=NO_MATCH,
        other_unit=rb'(?im)^(?:space )?units:.*"(?!mm")[^"\s]+"',
        oriented=rb"(?im)^space: *(?:left|right|[LR][AP]S)",
        skipped_lines=rb"(?im)^line ?skip: *([^\r\n]*)",
        skipped_bytes=rb"(?im)^byte ?skip: *([^\r\n]*)",
    ),
}


def parse(path: pathlib.Path, contents: bytes) -> dict[str, Any]:
    """The fields of a Volume except its path: voxels (slice, y, x[, channel]) as stored, `file` is ITK's reader.

    Raises:
      InputError: the file is damaged, contradicts itself, is not a volume of plain numbers, or names another file.
    """
    import SimpleITK as sitk

    layout = LAYOUTS[path.suffix.lower()]
    if re.search(layout.other_place, contents):
        raise InputError(
            f"{path}: its header places the voxels in another file or position; export it as one plain file."
        )
    if re.search(layout.other_axes, contents):
        raise InputError(f"{path}: is not a volume with three axes, with or without channels; export it as one.")
    end = re.search(layout.end, contents)
    if not end:
        raise InputError(f"{path}: is not a readable {path.suffix} file, its header does not end; export it again.")
    header = contents[: end.end()]
    if re.search(layout.too_long, header):
        raise InputError(
            f"{path}: is not a readable {path.suffix} file, a line of its header is too long; export it again."
        )
    if not re.search(layout.binary, header):
        raise InputError(
            f"{path}: its voxels are text or compressed in an unsupported way; export it uncompressed or with gzip."
        )
    if re.search(layout.other_unit, header):
        raise InputError(f"{path}: its lengths are not in mm; export it in mm.")
    deflated = bool(re.search(layout.deflated, header))
    compressed = memoryview(contents)[_voxel_offset(path, layout, contents, end.end(), deflated) :]
    reader = sitk.ImageFileReader()
    reader.SetImageIO(layout.reader)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        declared = _declared_size(path, reader)
        _check_size(path, compressed, declared, deflated)
        if any(size.strip() != str(len(compressed)).encode() for size in re.findall(layout.compressed_bytes, contents)):
            raise InputError(
                f"{path}: its header declares another size than its {len(compressed)} compressed bytes; download it "
                "again."
            )
        affine = _affine(reader)
        spacing = reader.GetSpacing()
        if not all(0 < size < math.inf for size in spacing):
            raise InputError(f"{path}: its voxel sizes {spacing} are not positive and finite; export it again.")
        remarks = geometry.check(path, affine, spacing, ("spacing", "direction matrix"))
        voxels = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise InputError(f"{path}: is not a readable {path.suffix} file; export it again.") from error
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
    """Writes voxels (slice, y, x[, channel]) on the grid of the file that `like` has read."""
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


def _voxel_offset(path: pathlib.Path, layout: Layout, contents: bytes, start: int, deflated: bool) -> int:
    """Offset of the voxels: the header's end `start`, plus the lines and bytes to skip."""
    skips = [re.findall(pattern, contents[:start]) for pattern in (layout.skipped_lines, layout.skipped_bytes)]
    texts = [found[0].strip() if found else b"0" for found in skips]
    if any(len(found) > 1 for found in skips) or not all(re.fullmatch(rb"[0-9]{1,9}", text) for text in texts):
        raise InputError(f"{path}: its header skips an invalid number of lines or bytes; export it without them.")
    lines, count = map(int, texts)
    if count and deflated:
        raise InputError(f"{path}: its header skips bytes of compressed voxels; export it again without byte skip.")
    for line in range(lines):
        start = contents.find(b"\n", start) + 1
        if not start:
            raise InputError(f"{path}: its header skips {lines} lines, but there are {line}; export it without them.")
    return start + count


def _declared_size(path: pathlib.Path, reader: "sitk.ImageFileReader") -> int:
    """The size of the voxels in bytes according to the header."""
    import SimpleITK as sitk

    sizes = {getattr(sitk, f"sitk{of}{scalar}"): size for of in ("", "Vector") for scalar, size in SCALARS.items()}
    if reader.GetPixelID() not in sizes:
        kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        raise InputError(f"{path}: its voxels are of type {kind}, not plain numbers; export it again.")
    if reader.GetDimension() != 3 or not all(reader.GetSize()):
        raise InputError(
            f"{path}: its shape is {reader.GetSize()}; give a volume with three axes, with or without channels."
        )
    return math.prod(reader.GetSize()) * reader.GetNumberOfComponents() * sizes[reader.GetPixelID()]


def _check_size(path: pathlib.Path, compressed: memoryview, declared: int, deflated: bool) -> None:
    """Raises InputError unless the voxels have the declared number of bytes, after decompression if `deflated`."""
    most = len(compressed) * (DEFLATE_RATIO if deflated else 1)
    if declared > most:
        raise InputError(
            f"{path}: its header declares {declared} bytes, but the file has at most {most}; download it again."
        )
    actual, complete = len(compressed), True
    if deflated:
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        try:
            actual = len(inflater.decompress(compressed, declared + 1))
        except zlib.error as error:
            raise InputError(f"{path}: cannot be read, it is damaged ({error}); download it again.") from error
        complete = inflater.eof
    if actual != declared or not complete:
        raise InputError(f"{path}: its header declares {declared} bytes, but the file has {actual}; download it again.")
