import functools
import re
import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk

from files import assert_input_error
from msl_jax.data.formats import volumes

COUNT = np.arange(24).reshape(4, 3, 2)
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, 0.6, 0.8], [0, -0.8, 0.6]])
endings = pytest.mark.parametrize("ending", [".mha", ".nrrd"])


def saved(path, voxels=COUNT, *, dtype="int16", compressed=False, vector=False):
    image = sitk.GetImageFromArray(np.asarray(voxels, dtype), isVector=vector)
    image.SetSpacing((1.5, 2, 8))
    image.SetOrigin((90.5, -120, 7))
    image.SetDirection(TURN.ravel())
    sitk.WriteImage(image, str(path), compressed)
    return path


@endings
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "int64", "float32", "float64"])
def test_all_number_types_are_read_as_slice_y_x(tmp_path, ending, compressed, dtype):
    path = saved(tmp_path / f"a{ending}", dtype=dtype, compressed=compressed)
    image, labels = volumes.read_image(path), volumes.read_labels(path)
    assert image.voxels.dtype == np.float32 and labels.voxels.dtype == np.uint8
    np.testing.assert_array_equal(image.voxels, COUNT[..., None])
    np.testing.assert_array_equal(labels.voxels, COUNT)
    assert image.spacing == labels.spacing == (8, 2, 1.5) and image.units == "mm"


@endings
def test_the_affine_equals_that_of_the_same_image_in_nifti(tmp_path, ending):
    ours, nifti = (volumes.read_image(saved(tmp_path / f"a{end}")) for end in (ending, ".nii.gz"))
    np.testing.assert_allclose(ours.affine, nifti.affine, atol=1e-5)
    right, front, _, _ = ours.affine @ (0, 0, 0, 1)
    assert (right, front) == (-90.5, 120)
    volumes.check_same_grid(ours, nifti)


@endings
@pytest.mark.parametrize("compressed", [False, True])
def test_components_are_channels(tmp_path, ending, compressed):
    voxels = np.stack([COUNT, 100 - 2 * COUNT], -1)
    path = saved(tmp_path / f"a{ending}", voxels, vector=True, compressed=compressed)
    np.testing.assert_array_equal(volumes.read_image(path).voxels, voxels)
    assert_input_error(lambda: volumes.read_labels(path), r"shape is \(2, 3, 4, 2\); give a label map with three", path)


def test_long_comments_and_key_value_pairs_are_ignored(tmp_path):
    path = saved(tmp_path / "a.nrrd")
    path.write_bytes(path.read_bytes().replace(b"endian", b"# " + b"a" * 2000 + b"\nkey:=" + b"b" * 2000 + b"\nendian"))
    np.testing.assert_array_equal(volumes.read_labels(path).voxels, COUNT)


@endings
@pytest.mark.parametrize("name", ["a", "Größe 心臓", "a.b"])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_written_files_have_the_grid_of_the_read_file(tmp_path, ending, name, channels):
    path, written = tmp_path / (name + ending), tmp_path / "out" / (name + ending)
    like = volumes.read_image(saved(path))
    voxels = np.arange(24 * 3, dtype=np.float32).reshape(3, 2, 3, 4).T / 7
    voxels = voxels if channels else voxels[..., 0]
    volumes.write(written, voxels, like)
    before, after = sitk.ReadImage(str(path)), sitk.ReadImage(str(written))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(after), voxels)
    assert after.GetNumberOfComponentsPerPixel() == (channels or (1,))[0]
    for of in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(after, of)() == getattr(before, of)()
    assert list(written.parent.iterdir()) == [written]


@endings
def test_labels_keep_their_type_and_have_the_images_grid(tmp_path, ending):
    image = volumes.read_image(saved(tmp_path / f"a{ending}", dtype="float64"))
    volumes.write(tmp_path / f"b{ending}", COUNT.astype(np.uint8), image)
    labels = volumes.read_labels(tmp_path / f"b{ending}")
    volumes.check_same_grid(image, labels)
    np.testing.assert_array_equal(labels.voxels, COUNT)
    assert sitk.ReadImage(str(labels.path)).GetPixelID() == sitk.sitkUInt8


@endings
def test_a_failed_write_leaves_only_the_old_file(tmp_path, monkeypatch, ending):
    path = saved(tmp_path / f"a{ending}")
    before = path.read_bytes()

    def fail(image, path, useCompression):
        with open(path, "wb") as file:
            file.write(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        volumes.write(path, np.zeros((4, 3, 2), np.uint8), volumes.read_image(path))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def swapped(old, new):
    """Replaces one part of a valid file."""

    def spoil(good):
        assert old in good
        return good.replace(old, new, 1)

    return spoil


def direction(new):
    return lambda good: re.sub(rb"TransformMatrix = .*", b"TransformMatrix = " + new, good)


def vectors(new):
    return lambda good: re.sub(rb"space directions: .*", b"space directions: " + new, good)


def truncated(count):
    return lambda good: good[:-count]


DAMAGED = {
    "empty": (".mha .nrrd", False, lambda good: b"", "does not end"),
    "text": (".mha .nrrd", False, lambda good: b"text " * 1000, "does not end"),
    "truncated header": (".mha .nrrd", False, lambda good: good[:90], "does not end"),
    "truncated": (".mha .nrrd", False, truncated(1), "declares 48 bytes, but the file has at most 47"),
    "truncated, compressed": (".mha .nrrd", True, truncated(9), "declares 48 bytes, but the file has"),
    "checksum": (".mha", True, lambda good: good[:-1] + bytes([good[-1] ^ 1]), "damaged"),
    "checksum of gzip": (".nrrd", True, lambda good: good[:-5] + bytes([good[-5] ^ 1]) + good[-4:], "damaged"),
    "more than declared": (
        ".mha",
        True,
        swapped(b"DimSize = 2 3 4", b"DimSize = 2 3 3"),
        "36 bytes, but the file has 37",
    ),
    "too many bytes": (
        ".nrrd",
        True,
        swapped(b"sizes: 2 3 4", b"sizes: 2 3 3"),
        "declares 36 bytes, but the file has 37",
    ),
    "more than declared, raw": (
        ".mha .nrrd",
        False,
        lambda good: good + b"\n",
        "declares 48 bytes, but the file has 49",
    ),
    "a line before the end": (
        ".nrrd",
        False,
        swapped(b"\nspace origin", b"\n\nspace origin"),
        "declares 48 bytes, but the file has 77",
    ),
    "compressed bytes": (
        ".mha",
        True,
        swapped(b"CompressedDataSize = 4", b"CompressedDataSize = 1"),
        "another size than its 44 compressed",
    ),
    "compressed bytes, invalid": (
        ".mha",
        True,
        swapped(b"CompressedDataSize = 4", b"CompressedDataSize = -"),
        "another size than its",
    ),
    "negative header size": (
        ".mha",
        True,
        swapped(b"DimSize", b"HeaderSize = -1\nDimSize"),
        "another file or position",
    ),
    "a line too long": (
        ".nrrd",
        False,
        swapped(b"sizes: ", b"sizes: " + b"9" * 400),
        "a line of its header is too long",
    ),
    "terabytes": (".mha", False, swapped(b"= 2 3 4", b"= 30000 30000 30000"), "declares 54000000000000 bytes"),
    "terabytes, compressed": (".mha", True, swapped(b"= 2 3 4", b"= 30000 30000 30000"), "declares 54000000000000"),
    "terabytes of NRRD": (".nrrd", True, swapped(b": 2 3 4", b": 30000 30000 30000"), "declares 54000000000000"),
    "another file": (".mha", False, swapped(b"= LOCAL", b"= other.raw"), "another file or position"),
    "other files": (".mha", False, swapped(b"= LOCAL", b"= LIST\nother.raw"), "another file or position"),
    "a file LOCAL.raw": (".mha", False, swapped(b"= LOCAL", b"= LOCAL.raw"), "another file or position"),
    "a comment before": (".mha", False, swapped(b"Element", b"Comment = ElementDataFile = b\nElement"), "another file"),
    "two data files": (".mha", False, swapped(b"LOCAL\n", b"LOCAL\nElementDataFile = b\n"), "another file or position"),
    "data file": (".nrrd", False, swapped(b"\nendian", b"\ndata file: other.raw\nendian"), "another file or position"),
    "datafile": (".nrrd", False, swapped(b"\nendian", b"\nDataFile: other.raw\nendian"), "another file or position"),
    "data file, old line end": (".nrrd", False, swapped(b"\nend", b"\rdata file: o\nend"), "another file or position"),
    "many axes": (".mha", False, swapped(b"NDims = 3", b"NDims = 93"), "three axes"),
    "four axes": (".mha", False, swapped(b"NDims = 3", b"NDims = 4"), "three axes"),
    "two axes": (".nrrd", False, swapped(b"dimension: 3", b"dimension: 2"), "three axes"),
    "no slices": (".mha", False, swapped(b"= 2 3 4", b"= 2 3 0"), r"shape is \(2, 3, 0\)"),
    "text voxels": (".mha", False, swapped(b"BinaryData = True", b"BinaryData = False"), "text or compressed"),
    "text voxels of NRRD": (".nrrd", False, swapped(b"encoding: raw", b"encoding: ascii"), "text or compressed"),
    "bzip2": (".nrrd", False, swapped(b"encoding: raw", b"encoding: bz2"), "text or compressed"),
    "micrometres": (".mha", False, swapped(b"ElementSp", b"DistanceUnits = um\nElementSp"), "not in mm"),
    "centimetres": (".nrrd", False, swapped(b"\nendian", b'\nspace units: "mm" "mm" "cm"\nendian'), "not in mm"),
    "negative size": (".mha", False, swapped(b"ElementSpacing = 1.5", b"ElementSpacing = -1.5"), "voxel sizes"),
    "size 0": (".mha", False, swapped(b"ElementSpacing = 1.5", b"ElementSpacing = 0"), "voxel sizes"),
    "directions of length 2": (".mha", False, direction(b"2 0 0 0 2 0 0 0 2"), r"\(1.5, 2, 8\) mm in its spacing"),
    "parallel directions": (".mha", False, direction(b"1 0 0 1 0 0 0 0 1"), "its direction matrix is singular"),
    "parallel vectors": (".nrrd", False, vectors(b"(1,0,0) (2,0,0) (0,0,8)"), "its direction matrix is singular"),
    "a negative byte skip": (".nrrd", False, swapped(b"\nend", b"\nbyte skip: -1\nend"), "invalid number"),
    "lines not a number": (".nrrd", False, swapped(b"\nendian", b"\nline skip: x\nendian"), "skips an invalid number"),
    "lines twice": (".nrrd", False, swapped(b"\nend", b"\nline skip: 0\nlineskip: 0\nend"), "skips an invalid number"),
    "too many lines to skip": (".nrrd", False, swapped(b"\nend", b"\nline skip: 99\nend"), "skips 99 lines, but"),
    "too many bytes to skip": (
        ".nrrd",
        False,
        swapped(b"\nend", b"\nbyte skip: 99\nend"),
        "declares 48 bytes, but the",
    ),
    "no such type": (".mha", False, swapped(b"MET_SHORT", b"MET_SHIRT"), "not a readable .mha"),
    "no such field": (".nrrd", False, swapped(b"kinds", b"kind"), "not a readable .nrrd"),
}


@pytest.mark.parametrize("read", [volumes.read_image, volumes.read_labels])
@pytest.mark.parametrize("fault", DAMAGED)
def test_damaged_files_are_errors_that_name_the_file(tmp_path, fault, read):
    endings, compressed, spoil, message = DAMAGED[fault]
    for ending in endings.split():
        path = saved(tmp_path / f"a{ending}", compressed=compressed)
        path.write_bytes(spoil(path.read_bytes()))
        tracemalloc.start()
        assert_input_error(functools.partial(read, path), message, f"{path}: ")
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()


@pytest.mark.parametrize("lines, count", [(1, 0), (2, 0), (0, 3), (0, 0), (2, 5)])
@pytest.mark.parametrize("compressed", [False, True])
def test_lines_and_bytes_may_be_skipped(tmp_path, lines, count, compressed):
    path = saved(tmp_path / "a.nrrd", compressed=compressed)
    skips = f"\nline skip: {lines}\nBYTESKIP: {count} \nendian".encode()
    between = b"\n\n" + b"a line\n" * lines + b"b" * count
    path.write_bytes(path.read_bytes().replace(b"\nendian", skips).replace(b"\n\n", between, 1))
    if compressed and count:
        assert_input_error(lambda: volumes.read_labels(path), "skips bytes of compressed voxels; export it again", path)
    else:
        np.testing.assert_array_equal(volumes.read_labels(path).voxels, COUNT)


def test_a_sheared_affine_gives_a_remark(tmp_path):
    path = saved(tmp_path / "a.nrrd")
    sheared = re.sub(rb"space directions: .*", b"space directions: (1.5,0,0) (0.2,2,0) (0,0,8)", path.read_bytes())
    path.write_bytes(sheared)
    (remark,) = volumes.read_image(path).remarks
    assert remark.startswith(f"{path}: its axes are 5.7 degrees off perpendicular")
    assert volumes.read_image(saved(path)).remarks == ()


def test_complex_numbers_are_errors(tmp_path):
    path = saved(tmp_path / "a.nrrd", dtype="complex64")
    assert_input_error(lambda: volumes.read_image(path), "complex of 32-bit float, not plain numbers", path)
