import gzip
import tracemalloc
import unicodedata
import warnings

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from msl_jax.data.formats import volumes
from msl_jax.errors import InputError

TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, 0.6, 0.8], [0, -0.8, 0.6]])
OBLIQUE = np.block([[TURN @ np.diag([-1.5, 2, -8]), np.array([[90.5], [-120], [7]])], [np.zeros((1, 3)), 1]])
COUNT = np.arange(24).reshape(2, 3, 4)


def image(voxels=COUNT, affine=OBLIQUE, *, dtype="int16", units="mm", endianness="<"):
    header = nib.Nifti1Header(endianness=endianness)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(endianness))
    result = nib.Nifti1Image(np.asarray(voxels, dtype), affine, header, dtype=dtype)
    result.header.set_xyzt_units(units)
    return result


def saved(path, *args, **kwargs):
    nib.save(image(*args, **kwargs), path)
    return path


def edited(offset, values, dtype, contents=None):
    """A valid file with some bytes replaced."""
    contents = bytearray(image().to_bytes() if contents is None else contents)
    new = np.array(values, dtype).tobytes()
    contents[offset : offset + len(new)] = new
    return bytes(contents)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("endianness", "<>")
@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32", "float64", "uint64"])
def test_all_number_types_are_read_as_slice_y_x(tmp_path, ending, endianness, dtype):
    path = saved(tmp_path / f"a{ending}", dtype=dtype, endianness=endianness)
    as_image, as_labels = volumes.read_image(path), volumes.read_labels(path)
    assert as_image.voxels.dtype == np.float32 and as_labels.voxels.dtype == np.uint8
    assert as_image.voxels.shape == (4, 3, 2, 1) and as_labels.voxels.shape == (4, 3, 2)
    for volume in (as_image, as_labels):
        assert all(volume.voxels[z, y, x] == COUNT[x, y, z] for x, y, z in np.ndindex(2, 3, 4))
        assert volume.spacing == pytest.approx((8, 2, 1.5)) and volume.units == "mm"
        np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)


def test_slope_and_intercept_are_applied(tmp_path):
    (tmp_path / "a.nii").write_bytes(edited(112, [0.5, -3], "<f4"))
    np.testing.assert_array_equal(volumes.read_image(tmp_path / "a.nii").voxels[..., 0], COUNT.T * 0.5 - 3)


def test_a_fourth_axis_has_channels(tmp_path):
    image = volumes.read_image(saved(tmp_path / "a.nii", np.stack([COUNT, 100 - 2 * COUNT], -1)))
    np.testing.assert_array_equal(image.voxels, np.stack([COUNT.T, 100 - 2 * COUNT.T], -1))


def test_a_fourth_axis_of_length_1_is_dropped(tmp_path):
    path = saved(tmp_path / "a.nii", COUNT[..., None])
    assert volumes.read_image(path).voxels.shape == (4, 3, 2, 1) and volumes.read_labels(path).voxels.shape == (4, 3, 2)


def test_a_constant_channel_is_an_error(tmp_path):
    assert_input_error(saved(tmp_path / "a.nii", np.stack([COUNT, 0 * COUNT], -1)), volumes.read_image, "same value")


@pytest.mark.parametrize(
    "unit, sizes, spacing, units",
    [
        ("unknown", (1, 1, 1), (1, 1, 1), "voxel"),
        ("unknown", (1, 1, 2), (2, 1, 1), "mm"),
        ("mm", (1, 1, 1), (1, 1, 1), "mm"),
        ("mm", (1.5, 2, 8), (8, 2, 1.5), "mm"),
        ("meter", (0.001, 0.002, 0.008), (8, 2, 1), "mm"),
        ("meter", (1, 1, 1), (1000, 1000, 1000), "mm"),
        ("micron", (1500, 2000, 8000), (8, 2, 1.5), "mm"),
        ("micron", (1000, 1000, 1000), (1, 1, 1), "mm"),
        ("unknown", (-1, -1, 1), (1, 1, 1), "mm"),
    ],
)
def test_spacing_is_in_mm_unless_sizes_are_unknown(tmp_path, unit, sizes, spacing, units):
    volume = volumes.read_image(saved(tmp_path / "a.nii", affine=np.diag([*sizes, 1]), units=unit))
    assert volume.spacing == pytest.approx(spacing, rel=1e-6) and volume.units == units


@pytest.mark.parametrize("codes, units", [((0, 0), "voxel"), ((1, 0), "mm"), ((0, 1), "mm")])
def test_a_header_without_a_unit_is_in_mm_if_it_has_an_affine(tmp_path, codes, units):
    """Voxels of size 1 away from the origin; the identity, as in ACDC's files, gives no information."""
    for offset, expected in ((5, units), (0, "voxel")):
        affine = np.array([[1, 0, 0, offset], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        stored = nib.Nifti1Image(COUNT.astype(np.int16), affine)
        (tmp_path / "a.nii").write_bytes(edited(252, codes, "<i2", stored.to_bytes()))
        volume = volumes.read_image(tmp_path / "a.nii")
        assert volume.units == expected and volume.spacing == (1, 1, 1)


@pytest.mark.parametrize("unit, scale", [("meter", 1e-3), ("micron", 1e3), ("mm", 1)])
def test_affines_are_in_mm(tmp_path, unit, scale):
    volume = volumes.read_image(saved(tmp_path / "a.nii", affine=np.diag([scale] * 3 + [1]) @ OBLIQUE, units=unit))
    np.testing.assert_allclose(volume.affine, OBLIQUE, rtol=1e-5)


@pytest.mark.parametrize(
    "unit, size, other",
    [("meter", 1e-3, np.diag([0.5e-3] * 3 + [1])), ("micron", 0.6, np.array([[0.6, 0, 0, 0.6], *np.eye(4)[1:] * 0.6]))],
)
def test_grid_differences_are_in_voxels(tmp_path, unit, size, other):
    """Half the size in metres; a whole voxel away in micrometres."""
    other[3, 3] = 1
    first = volumes.read_image(saved(tmp_path / "a.nii", affine=np.diag([size] * 3 + [1]), units=unit))
    second = volumes.read_image(saved(tmp_path / "b.nii", affine=other, units=unit))
    with pytest.raises(InputError, match=r"by up to 1\.[08] voxels"):
        volumes.check_same_grid(first, second)


def test_a_quaternion_may_be_slightly_too_long(tmp_path):
    """A half turn about (0.8, 0.6, 0), too long by a factor of 1 + 5e-6; shorter quaternions are unchanged."""
    turn = edited(252, [1, 0], "<i2", edited(256, np.array([0.8, 0.6, 0]) * (1 + 5e-6), "<f4"))
    (tmp_path / "a.nii").write_bytes(turn)
    volume = volumes.read_image(tmp_path / "a.nii")
    axes = np.array([[0.28, 0.96, 0], [0.96, -0.28, 0], [0, 0, -1]])
    qfac = np.sign(nib.Nifti1Header(turn[:348])["pixdim"][0])
    np.testing.assert_allclose(volume.affine[:3, :3], axes @ np.diag([1.5, 2, qfac * 8]), atol=1e-5)
    volumes.write(tmp_path / "b.nii", COUNT.T.astype(np.uint8), volume)
    volumes.check_same_grid(volume, volumes.read_labels(tmp_path / "b.nii"))
    nearly = edited(252, [1, 0], "<i2", edited(256, [0.8, 0.6 - 1e-6, 0], "<f4"))
    (tmp_path / "a.nii").write_bytes(nearly)
    np.testing.assert_array_equal(
        volumes.read_image(tmp_path / "a.nii").affine, nib.Nifti1Image.from_bytes(nearly).affine
    )


def test_a_qform_flipped_against_the_sform_gives_a_remark(tmp_path):
    """The sform is used. Differences of a few degrees are common and give no remark."""
    image = nib.Nifti1Image(COUNT.astype(np.int16), np.diag([-1.5, 2, 8, 1]))
    image.set_qform(np.diag([1.5, 2, 8, 1]), code=1)
    nib.save(image, tmp_path / "a.nii")
    volume = volumes.read_image(tmp_path / "a.nii")
    (remark,) = volume.remarks
    assert "point to RAS in its qform, but to LAS in its sform, which is used" in remark
    np.testing.assert_allclose(volume.affine, np.diag([-1.5, 2, 8, 1]))
    near = np.diag([-1.5, 2, 8, 1]).astype(float)
    near[:3, :3] = Rotation.from_rotvec([0, 0, 0.3]).as_matrix() @ near[:3, :3]
    image.set_qform(near, code=1)
    nib.save(image, tmp_path / "a.nii")
    assert volumes.read_image(tmp_path / "a.nii").remarks == ()


def test_a_sheared_affine_gives_a_remark(tmp_path):
    sheared = np.array([[1.5, 0.2, 0, 0], [0, 2, 0, 0], [0, 0, 8, 0], [0, 0, 0, 1]])
    (remark,) = volumes.read_image(saved(tmp_path / "a.nii", affine=sheared)).remarks
    assert remark.startswith(f"{tmp_path / 'a.nii'}: its axes are 5.7 degrees off perpendicular")
    assert volumes.read_image(saved(tmp_path / "a.nii")).remarks == ()


@pytest.mark.parametrize("axes", [(1, 1), (1,), (1, 1, 1), (1, 2), (1, 1, 2), (2, 1)])
def test_trailing_axes_of_length_1_are_dropped(tmp_path, axes):
    """(x, y, z, 1, c) is a vector image."""
    channels = max(axes)
    voxels = np.stack([COUNT, 100 - 2 * COUNT], -1)[..., :channels]
    stored = image(voxels.reshape(*COUNT.shape, *axes))
    stored.header["intent_code"] = 1007
    nib.save(stored, tmp_path / "a.nii")
    read = volumes.read_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(read.voxels, np.moveaxis(voxels, (0, 1, 2), (2, 1, 0)))
    volumes.write(tmp_path / "b.nii", COUNT.T.astype(np.uint8), read)
    written = nib.load(tmp_path / "b.nii")
    assert written.shape == COUNT.shape and written.header["intent_code"] == 0
    np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "a.nii").affine)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("endianness", "<>")
def test_nifti_2_is_read_and_written_back(tmp_path, name, endianness):
    stored = nib.Nifti2Image(COUNT.astype(np.int16), OBLIQUE, nib.Nifti2Header(endianness=endianness))
    stored.header.set_xyzt_units("micron")
    nib.save(stored, tmp_path / name)
    read = volumes.read_image(tmp_path / name)
    np.testing.assert_array_equal(read.voxels[..., 0], COUNT.T)
    np.testing.assert_allclose(read.affine[:3], OBLIQUE[:3] / 1000)
    assert read.spacing == pytest.approx((0.008, 0.002, 0.0015))
    volumes.write(tmp_path / "out" / name, COUNT.T.astype(np.uint8), read)
    written = nib.load(tmp_path / "out" / name)
    assert type(written) is nib.Nifti2Image and written.header.get_xyzt_units()[0] == "micron"
    np.testing.assert_array_equal(written.affine, OBLIQUE)
    np.testing.assert_array_equal(np.asarray(written.dataobj), COUNT)


def test_nifti_2_has_a_longer_header(tmp_path):
    stored = nib.Nifti2Image(COUNT.astype(np.int16), OBLIQUE)
    contents = bytearray(stored.to_bytes())
    contents[168:176] = np.int64(352).tobytes()
    (tmp_path / "a.nii").write_bytes(contents)
    assert_input_error(tmp_path / "a.nii", volumes.read_image, "NIfTI|voxels at byte 352 .* takes 544")
    (tmp_path / "a.nii").write_bytes(stored.to_bytes()[:400])
    assert_input_error(tmp_path / "a.nii", volumes.read_image, "declares 592 bytes|NIfTI")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "Größe 心臓.nii.gz", "a.b.nii"])
@pytest.mark.parametrize("unit", ["mm", "unknown", "micron"])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_written_files_have_the_grid_of_the_read_file(tmp_path, name, unit, channels):
    like = volumes.read_image(saved(tmp_path / name, units=unit))
    voxels = np.arange(24 * 3, dtype=np.float32).reshape(4, 3, 2, 3)[..., :3] / 7
    voxels = voxels if channels else voxels[..., 0]
    volumes.write(tmp_path / "out" / name, voxels, like)
    before, after = nib.load(tmp_path / name), nib.load(tmp_path / "out" / name)
    on_disk = np.asarray(after.dataobj)
    assert on_disk.shape == (2, 3, 4, *channels) and after.get_data_dtype() == np.float32
    assert all((on_disk[x, y, z] == voxels[z, y, x]).all() for x, y, z in np.ndindex(2, 3, 4))
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.header.get_zooms()[:3] == before.header.get_zooms()
    assert after.header.get_xyzt_units()[0] == unit
    assert [unicodedata.normalize("NFC", path.name) for path in (tmp_path / "out").iterdir()] == [name]


def test_labels_do_not_inherit_an_images_slope(tmp_path):
    (tmp_path / "a.nii").write_bytes(edited(112, [0.5, -3], "<f4"))
    labels = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
    volumes.write(tmp_path / "b.nii", labels, volumes.read_image(tmp_path / "a.nii"))
    written = volumes.read_labels(tmp_path / "b.nii")
    np.testing.assert_array_equal(written.voxels, labels)
    assert written.file.get_data_dtype() == np.uint8


def test_a_failed_write_leaves_only_the_old_file(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.nii.gz")
    before = path.read_bytes()

    def fail(image, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="disk full"):
        patched.setattr(nib, "save", fail)
        volumes.write(path, np.zeros((4, 3, 2), np.uint8), volumes.read_image(path))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    volumes.write(path, np.zeros((4, 3, 2), np.uint8), volumes.read_image(path))
    assert not volumes.read_labels(path).voxels.any() and list(tmp_path.iterdir()) == [path]


GOOD = image().to_bytes()
GZIPPED = gzip.compress(GOOD)
RGB = np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
DAMAGED = {
    "empty": ("a.nii", b"", "NIfTI"),
    "empty, zipped": ("a.nii.gz", b"", "NIfTI"),
    "truncated": ("a.nii", GOOD[:-1], "declares 400 bytes, but the file has at most 399"),
    "truncated header": ("a.nii", GOOD[:200], "NIfTI"),
    "truncated, zipped": ("a.nii.gz", GZIPPED[:-10], "damaged"),
    "truncated, then zipped": ("a.nii.gz", gzip.compress(GOOD[:-1]), "declares 400 bytes"),
    "checksum": ("a.nii.gz", edited(len(GZIPPED) - 8, [GZIPPED[-8] ^ 1], "u1", GZIPPED), "damaged"),
    "no gzip": ("a.nii.gz", GOOD, "not a gzip file"),
    "no NIfTI": ("a.nii", b"text " * 1000, "NIfTI"),
    "terabytes": ("a.nii", edited(42, [30000] * 3, "<i2"), "declares 54000000000352 bytes"),
    "terabytes, zipped": ("a.nii.gz", gzip.compress(edited(42, [30000] * 3, "<i2")), "declares 54000000000352"),
    "negative shape": ("a.nii", edited(44, [-3], "<i2"), "shape"),
    "no slices": ("a.nii", edited(46, [0], "<i2"), "shape"),
    "two axes": ("a.nii", image(COUNT[0], dtype="int16").to_bytes(), "shape"),
    "five axes": ("a.nii", image(np.stack([[COUNT] * 2] * 2, -1).T).to_bytes(), r"shape is .*, a series of vectors"),
    "no frames": ("a.nii", edited(40, [4, 2, 3, 4, 0], "<i2"), r"shape is \(2, 3, 4, 0\), an axis is empty"),
    "voxels in the header": (
        "a.nii",
        edited(108, [0], "<f4"),
        r"voxels at byte 0 \(vox_offset\).* takes 352; export it",
    ),
    "voxels in the header's end": ("a.nii", edited(108, [351], "<f4"), "NIfTI|byte 351"),
    "size 0": ("a.nii", edited(88, [0], "<f4"), r"voxel sizes \[1.5, 2.0, 0.0\] in pixdim are not positive"),
    "two sizes": ("a.nii", edited(80, [3], "<f4"), r"voxel size is \(3, 2, 8\) mm in its pixdim, but \(1.5, 2, 8\)"),
    "singular": ("a.nii", edited(280, [0, 0, 0, 0] * 3, "<f4"), "its sform is singular"),
    "quaternion too long": ("a.nii", edited(252, [1, 0], "<i2", edited(256, [0.8, 0.61, 0], "<f4")), "NIfTI"),
    "complex": ("a.nii", image(dtype="complex64").to_bytes(), "complex64"),
    "RGB": ("a.nii", nib.Nifti1Image(RGB, OBLIQUE).to_bytes(), "plain numbers"),
    "unit of length 4": ("a.nii", edited(123, [4], "u1"), "unit code 4"),
    "affine NaN": ("a.nii", edited(292, [np.nan], "<f4"), "its affine contains NaN"),
    "size NaN": ("a.nii", edited(80, [np.nan], "<f4"), "voxel sizes"),
}


@pytest.mark.parametrize("read", [volumes.read_image, volumes.read_labels])
@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_errors_that_name_the_file(tmp_path, case, read):
    name, contents, message = DAMAGED[case]
    path = tmp_path / name
    path.write_bytes(contents)
    assert_input_error(path, read, message)


def assert_input_error(path, read, message):
    tracemalloc.start()
    with pytest.raises(InputError, match=message) as error:
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert str(error.value).startswith(f"{path}: ")


def test_only_as_much_as_the_header_declares_is_decompressed(tmp_path):
    """64 MiB of zeros in 64 KiB after a valid volume are skipped in pieces."""
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(GOOD + bytes(2**26)))
    tracemalloc.start()
    np.testing.assert_array_equal(volumes.read_image(tmp_path / "a.nii.gz").voxels[..., 0], COUNT.T)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


@pytest.mark.parametrize(
    "read, value, dtype, message",
    [
        (volumes.read_image, np.nan, "float32", "NaN"),
        (volumes.read_image, np.inf, "float32", "infinite"),
        (volumes.read_image, 1e300, "float64", "infinite"),
        (volumes.read_labels, np.nan, "float32", "0 to 255"),
        (volumes.read_labels, 0.5, "float32", "0 to 255"),
        (volumes.read_labels, -1, "int16", "0 to 255"),
        (volumes.read_labels, 256, "int16", "0 to 255"),
    ],
)
def test_invalid_values_are_errors_without_a_warning(tmp_path, read, value, dtype, message):
    voxels = COUNT.astype(dtype)
    voxels[1, 2, 3] = value
    path = saved(tmp_path / "a.nii.gz", voxels, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_input_error(path, read, message)


def test_labels_have_three_axes(tmp_path):
    path = saved(tmp_path / "a.nii", np.stack([COUNT] * 2, -1))
    assert_input_error(path, volumes.read_labels, r"shape is \(2, 3, 4, 2\)")


@pytest.mark.parametrize("name", ["none.nii.gz", "folder.nii.gz"])
def test_missing_files_and_folders_are_errors(tmp_path, name):
    (tmp_path / "folder.nii.gz").mkdir()
    assert_input_error(tmp_path / name, volumes.read_image, "cannot be read")


def test_a_real_prostate_with_oblique_slices(prostate_folder, tmp_path):
    folder = prostate_folder
    volume, labels = (
        volumes.read_image(folder / "Prostatex_0000.nii.gz"),
        volumes.read_labels(folder / "Prostatex_0000_lab.nii.gz"),
    )
    volumes.check_same_grid(volume, labels)
    assert volume.voxels.shape == (19, 384, 384, 1) and volume.units == "mm"
    assert volume.spacing == pytest.approx((3, 0.5, 0.5), abs=1e-5)
    volumes.write(tmp_path / "a.nii.gz", labels.voxels, volume)
    written = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(written.affine, nib.load(folder / "Prostatex_0000.nii.gz").affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), nib.load(folder / "Prostatex_0000_lab.nii.gz").dataobj)
