"""The basis of mutants: a valid file of each kind, a function that reads it, and the expected result."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import gzip
import io
import json
import pathlib
import struct
import tempfile
import zlib

import h5py
import nibabel as nib
import numpy as np
from PIL import Image, PngImagePlugin
import SimpleITK as sitk

from files import at
from msl_jax.data.formats import volumes
from msl_jax.data.readers import msd, nnunet, png_tree, wsl4mis
from msl_jax.errors import InputError

COUNT = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
CODES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
"""NIfTI datatype code -> NumPy dtype."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file to mutate.

    Attributes:
      name: path of the file in its folder.
      good: valid contents.
      read: path -> the image, (slice, y, x, channel), and the label map, (slice, y, x), or None.
      part: range of the contents to mutate, (start, end).
      sealed: corrects checksums, so that they do not detect the mutation.
      right: contents -> the expected image if reading succeeds; None if unknown.
      beside: name -> contents of other files that the reader needs.
      room: limit in bytes for new address space; more is a failure. None if a library reserves the size in a header
        without using it.
    """

    name: str
    good: bytes
    read: Callable[[pathlib.Path], tuple[np.ndarray, np.ndarray | None]]
    part: tuple[int, int | None] = (0, None)
    sealed: Callable[[bytes], bytes] = bytes
    right: Callable[[bytes], np.ndarray | None] = lambda contents: None
    beside: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    room: int | None = 256 << 20


# Readers


def read_volume(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads a volume as an image; checks that the image and labels on its grid can be written and read again."""
    image = volumes.read_image(path)
    assert all(0 < size < np.inf for size in image.spacing) and np.isfinite(image.affine).all()
    output = path.with_name(f"out_{path.name}")
    labels = np.arange(image.voxels[..., 0].size).reshape(image.voxels.shape[:3]).astype(np.uint8)
    for voxels, read in ((image.voxels, volumes.read_image), (labels, volumes.read_labels)):
        volumes.write(output, voxels, image)
        reread = read(output)
        np.testing.assert_array_equal(reread.voxels, voxels)
        volumes.check_same_grid(image, reread)
    try:
        return image.voxels, volumes.read_labels(path).voxels
    except InputError:
        return image.voxels, None


def read_segmentation(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads a segmentation of 3D Slicer and maps it to the grid of an image."""
    affine = np.array([[-1.5, 0, 0, -90.5], [0, -2, 0, 120], [0, 0, 8, 7], [0, 0, 0, 1.0]])
    image = volumes.Volume(path, COUNT[..., None].astype(np.float32), affine=affine, oriented=True)
    return image.voxels, volumes.labels_on_grid_of(image, volumes.read_labels(path)).voxels


def read_layout(reader, layout: str, up: int, labels: Mapping[str, int], path: pathlib.Path):
    """Reads the only case of a data set; its folder is path.parents[up]."""
    source = at(layout, path.parents[up], labels=labels)
    assert set(reader.labels(source).values()) <= set(range(1, 256))
    (case,) = (load() for load in reader.read(source))
    return case.image, case.mask


# Expected results


def nifti_reference(contents: bytes) -> np.ndarray:
    """Voxels of a NIfTI-1 file, read at the offsets of the standard."""
    (axes,) = struct.unpack_from("<h", contents, 40)
    order = "<" if 1 <= axes <= 7 else ">"
    axes, *lengths = struct.unpack_from(f"{order}8h", contents, 40)
    (code,) = struct.unpack_from(f"{order}h", contents, 70)
    offset, slope, intercept = struct.unpack_from(f"{order}3f", contents, 108)
    shape = lengths[:axes][::-1]
    voxels = np.frombuffer(contents, f"{order}{CODES[code]}", np.prod(shape), int(offset)).reshape(shape)
    if slope and np.isfinite(slope):
        voxels = voxels.astype(np.float64) * slope + intercept
    return np.moveaxis(voxels, 0, -1) if axes == 4 else voxels[..., None]


def always(voxels: np.ndarray) -> Callable[[bytes], np.ndarray]:
    """The expected result if the mutation cannot change voxels."""
    return lambda contents: voxels[..., None]


# Files


def nifti(voxels: np.ndarray = COUNT, kind: type[nib.Nifti1Image] = nib.Nifti1Image) -> bytes:
    """A NIfTI file with a header extension."""
    image = kind(voxels.T, np.diag([-1.5, 2, 8, 1]))
    image.header.set_xyzt_units("mm")
    image.header["descrip"], image.header["intent_name"] = b"a heart", b"none"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a word"))
    return image.to_bytes()


def itk(ending: str, deflated: bool, voxels: np.ndarray = COUNT, fields: Mapping[str, str] | None = None) -> bytes:
    """A file written by ITK."""
    image = sitk.GetImageFromArray(voxels, isVector=voxels.ndim == 4)
    for key, value in (fields or {}).items():
        image.SetMetaData(key, value)
    image.SetSpacing((1.5, 2, 8))
    image.SetOrigin((90.5, -120, 7))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / f"a{ending}"
        sitk.WriteImage(image, str(path), deflated)
        return path.read_bytes()


def png(pixels: np.ndarray) -> bytes:
    """A PNG file with a text chunk."""
    out, text = io.BytesIO(), PngImagePlugin.PngInfo()
    text.add_text("Comment", "a heart")
    Image.fromarray(pixels).save(out, "PNG", pnginfo=text)
    return out.getvalue()


def png_sealed(contents: bytes) -> bytes:
    """The contents with correct checksums of all chunks."""
    sealed, start = bytearray(contents), 8
    while start + 12 <= len(sealed):
        end = start + 8 + struct.unpack_from(">I", sealed, start)[0]
        if end + 4 > len(sealed):
            break
        struct.pack_into(">I", sealed, end, zlib.crc32(sealed[start + 4 : end]))
        start = end + 4
    return bytes(sealed)


def hdf5() -> bytes:
    """An HDF5 file like those of WSL4MIS."""
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for name, voxels in (("image", COUNT.astype(np.float32)), ("label", COUNT % 3), ("scribble", COUNT % 5)):
            file.create_dataset(name, data=voxels, compression="gzip")
    return out.getvalue()


def between(contents: bytes, start: bytes, end: bytes) -> tuple[int, int]:
    """Range from the first byte of `start` to the first byte of `end`."""
    first = contents.index(start)
    return first, contents.index(end, first)


NIFTI = nifti()
ZIPPED = gzip.compress(NIFTI, mtime=0)
MASK = gzip.compress(nifti((COUNT % 3).astype(np.uint8)), mtime=0)
MHA, NRRD, DEFLATED_MHA, DEFLATED_NRRD = (itk(end, packed) for packed in (False, True) for end in (".mha", ".nrrd"))
LAYERS = np.stack([COUNT % 2, (COUNT + 1) % 2 * 2], -1).astype(np.uint8)[1:]
SLICER = {
    f"Segment{n}_{key}": str(n + one) for n in range(2) for key, one in (("ID", 0), ("Layer", 0), ("LabelValue", 1))
}
SEGMENTATION = itk(".nrrd", False, LAYERS, SLICER).replace(b"(90.5,-120,7)", b"(90.5,-120,15)")
PIXELS = np.arange(30, dtype=np.uint8).reshape(5, 6)
PNG = png(PIXELS)
MSD = {
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "one", "2": "two"},
    "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
}
NNUNET = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "one": 1, "two": 2}, "file_ending": ".nii.gz"}
INFO = b"ED: 1\nES: 1\nGroup: DCM\nHeight: 184.0\n"
zipped = functools.partial(gzip.compress, mtime=0)
read_png = functools.partial(read_layout, png_tree, "png_tree", 2, {"one": 85})
KINDS = {
    "nifti header": Kind("a.nii", NIFTI, read_volume, (0, 352), right=nifti_reference),
    "nifti header, zipped": Kind(
        "a.nii.gz", NIFTI, read_volume, (0, 352), zipped, lambda contents: nifti_reference(gzip.decompress(contents))
    ),
    "nifti": Kind("a.nii", NIFTI, read_volume, right=nifti_reference),
    "nifti.gz": Kind(
        "a.nii.gz", ZIPPED, read_volume, right=lambda contents: nifti_reference(gzip.decompress(contents))
    ),
    "nifti-2 header": Kind("a.nii", nifti(kind=nib.Nifti2Image), read_volume, (0, 544)),
    "mha header": Kind("a.mha", MHA, read_volume, (0, -COUNT.nbytes)),
    "mha geometry": Kind("a.mha", MHA, read_volume, between(MHA, b"TransformMatrix", b"DimSize"), right=always(COUNT)),
    "mha, deflated": Kind("a.mha", DEFLATED_MHA, read_volume),
    "mha, deflated voxels": Kind(
        "a.mha", DEFLATED_MHA, read_volume, (DEFLATED_MHA.index(b"LOCAL") + 6, None), right=always(COUNT)
    ),
    "nrrd header": Kind("a.nrrd", NRRD, read_volume, (0, -COUNT.nbytes)),
    "nrrd geometry": Kind("a.nrrd", NRRD, read_volume, between(NRRD, b"space origin", b"\n\n"), right=always(COUNT)),
    "nrrd, deflated": Kind("a.nrrd", DEFLATED_NRRD, read_volume),
    "nrrd, deflated voxels": Kind(
        "a.nrrd", DEFLATED_NRRD, read_volume, (DEFLATED_NRRD.index(b"\n\n") + 2, None), right=always(COUNT)
    ),
    "seg.nrrd": Kind("a.seg.nrrd", SEGMENTATION, read_segmentation, right=always(COUNT)),
    "png": Kind("val/Img/a_1.png", PNG, read_png, right=always(PIXELS[None])),
    "png, checksums right": Kind("val/Img/a_1.png", PNG, read_png, sealed=png_sealed),
    "png mask": Kind(
        "val/GT/a_1.png", png(PIXELS % 2 * np.uint8(85)), read_png, sealed=png_sealed, beside={"val/Img/a_1.png": PNG}
    ),
    "hdf5": Kind(
        "ACDC_training_volumes/a.h5", hdf5(), functools.partial(read_layout, wsl4mis, "wsl4mis", 1, {}), room=None
    ),
    "dataset.json of msd": Kind(
        "dataset.json",
        json.dumps(MSD).encode(),
        functools.partial(read_layout, msd, "msd", 0, {}),
        right=always(COUNT),
        beside={"imagesTr/a.nii.gz": ZIPPED, "labelsTr/a.nii.gz": MASK},
    ),
    "dataset.json of nnunet": Kind(
        "dataset.json",
        json.dumps(NNUNET).encode(),
        functools.partial(read_layout, nnunet, "nnunet", 0, {}),
        right=always(COUNT),
        beside={"imagesTr/a_0000.nii.gz": ZIPPED, "labelsTr/a.nii.gz": MASK},
    ),
}
