"""MetaImage (.mha) and NRRD (.nrrd) files in and out, by SimpleITK.

ITK follows a header to any other file, allocates whatever it promises and takes no note of the checksum of deflated
voxels, so a file is looked through here before ITK opens it. Its coordinates are LPS (x to the left, y to the back);
affines here are RAS like NIfTI's. Lengths are in mm.
"""

import dataclasses
import math
import pathlib
import re
import zlib

import numpy as np
import SimpleITK as sitk

from msl_jax.checks import Refused

DEFLATE_RATIO = 1032
"""The most bytes that DEFLATE makes of one."""
SCALARS = {"Int8": 1, "UInt8": 1, "Int16": 2, "UInt16": 2, "Int32": 4, "UInt32": 4, "Int64": 8, "UInt64": 8}
SCALARS |= {"Float32": 4, "Float64": 8}
BYTES = {getattr(sitk, f"sitk{of}{scalar}"): size for of in ("", "Vector") for scalar, size in SCALARS.items()}
"""ITK's type of a voxel -> bytes of each of its components, for those that are plain numbers."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """What to look for in a file, as regular expressions.

    What ITK may not see is looked for in the whole file, since it need not take a header to end where `end` does.

    Attributes:
      reader: ITK's name of what reads it.
      end: where the header ends; voxels follow.
      elsewhere: what names another file to hold the voxels.
      other_axes: what has another number of axes than a volume, or than one of vectors. MetaImage's own reader writes
        past its memory where there are more than ten.
      binary: what a header has whose voxels are neither text nor packed in a way unknown here.
      deflated: what it has where they are packed by zlib or gzip.
      other_unit: what it has where lengths are not in mm.
      oriented: what it has where it says where axes point to.
    """

    reader: str
    end: bytes
    elsewhere: bytes
    other_axes: bytes
    binary: bytes
    deflated: bytes
    other_unit: bytes
    oriented: bytes


LAYOUTS = {
    ".mha": Layout(
        reader="MetaImageIO",
        end=rb"(?m)^ElementDataFile\s*[=:]\s*(?i:LOCAL)[ \t]*\r?\n",
        elsewhere=rb"ElementDataFile(?!\s*[=:]\s*(?i:LOCAL)\s)",
        other_axes=rb"NDims\s*[=:](?!\s*3\s)",
        binary=rb"(?m)^BinaryData\s*[=:]\s*[Tt1]",
        deflated=rb"(?m)^CompressedData\s*[=:]\s*[Tt1]",
        other_unit=rb"(?m)^DistanceUnits\s*[=:]\s*(?:um|cm)",
        oriented=rb"(?m)^(?:TransformMatrix|Rotation|Orientation)\s*[=:]",
    ),
    ".nrrd": Layout(
        reader="NrrdImageIO",
        end=rb"\n\r?\n",
        elsewhere=rb"(?i)[\r\n]data ?file:",
        other_axes=rb"(?i)[\r\n]dimension:(?! *[34]\s)",
        binary=rb"(?im)^encoding: *(?:raw|gz)",
        deflated=rb"(?im)^encoding: *gz",
        other_unit=rb'(?im)^(?:space )?units:.*"(?!mm")[^"\s]+"',
        oriented=rb"(?im)^space: *(?:left|right|[LR][AP]S)",
    ),
}


def parse(
    path: pathlib.Path, contents: bytes
) -> tuple[np.ndarray, tuple[float, float, float], str, np.ndarray, bool, sitk.ImageFileReader]:
    """What a Volume is made of, in its order: voxels (slice, y, x[, channel]) as stored, and ITK's reader at last.

    Raises:
      Refused: the file is damaged, holds no volume of plain numbers, or names another file.
    """
    layout = LAYOUTS[path.suffix]
    if re.search(layout.elsewhere, contents):
        raise Refused(f"{path}: its header names another file for the voxels; export both as one file.")
    if re.search(layout.other_axes, contents):
        raise Refused(f"{path}: a volume with three axes is needed, or of vectors with channels; export it as such.")
    end = re.search(layout.end, contents)
    if not end:
        raise Refused(f"{path}: is no readable {path.suffix} file, its header does not end; export it anew.")
    header, packed = contents[: end.end()], memoryview(contents)[end.end() :]
    if not re.search(layout.binary, header):
        raise Refused(f"{path}: its voxels are text or packed in an unknown way; export it raw or compressed by gzip.")
    if re.search(layout.other_unit, header):
        raise Refused(f"{path}: its lengths are not in mm; export it in mm.")
    reader = sitk.ImageFileReader()
    reader.SetImageIO(layout.reader)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        promised = _promised(path, reader)
        deflated = re.search(layout.deflated, header)
        most = len(packed) * (DEFLATE_RATIO if deflated else 1)
        if promised > most:
            raise Refused(
                f"{path}: its header promises {promised} bytes and at most {most} are there; fetch the file again."
            )
        if deflated:
            _check_deflated(path, packed, promised)
        voxels = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise Refused(f"{path}: is no readable {path.suffix} file; export it anew.") from error
    spacing = reader.GetSpacing()[::-1]
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    affine[:2] *= -1
    if not np.isfinite(affine).all() or not min(spacing) > 0:
        raise Refused(f"{path}: its voxel sizes {spacing[::-1]} or directions are no lengths; export it anew.")
    return voxels, spacing, "mm", affine, bool(re.search(layout.oriented, header)), reader


def save(path: pathlib.Path, voxels: np.ndarray, like: sitk.ImageFileReader) -> None:
    """Writes voxels (slice, y, x[, channel]) on the grid of what was read."""
    image = sitk.GetImageFromArray(voxels, isVector=voxels.ndim == 4)
    image.SetSpacing(like.GetSpacing())
    image.SetOrigin(like.GetOrigin())
    image.SetDirection(like.GetDirection())
    sitk.WriteImage(image, str(path), useCompression=True)


def _promised(path: pathlib.Path, reader: sitk.ImageFileReader) -> int:
    """The bytes of the voxels by the header."""
    if reader.GetPixelID() not in BYTES:
        kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        raise Refused(f"{path}: its voxels are of type {kind}, plain numbers are needed; export it anew.")
    if reader.GetDimension() != 3 or not all(reader.GetSize()):
        raise Refused(
            f"{path}: its shape is {reader.GetSize()}; give a volume with three axes, or of vectors with channels."
        )
    return math.prod(reader.GetSize()) * reader.GetNumberOfComponents() * BYTES[reader.GetPixelID()]


def _check_deflated(path: pathlib.Path, packed: memoryview, promised: int) -> None:
    """Raises Refused unless what is packed, by zlib or gzip, is whole and of the size promised."""
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        there = len(inflater.decompress(packed, promised + 1))
    except zlib.error as error:
        raise Refused(f"{path}: cannot be read, it is damaged ({error}); fetch the file again.") from error
    if there != promised or not inflater.eof:
        raise Refused(f"{path}: its header promises {promised} bytes and {there} are there; fetch the file again.")
