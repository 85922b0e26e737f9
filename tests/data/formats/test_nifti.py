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
    made = nib.Nifti1Image(np.asarray(voxels, dtype), affine, header, dtype=dtype)
    made.header.set_xyzt_units(units)
    return made


def saved(path, *args, **kwargs):
    nib.save(image(*args, **kwargs), path)
    return path


def edited(offset, values, dtype, contents=None):
    """The bytes of a good file with some of them replaced."""
    contents = bytearray(image().to_bytes() if contents is None else contents)
    new = np.array(values, dtype).tobytes()
    contents[offset : offset + len(new)] = new
    return bytes(contents)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("endianness", "<>")
@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32", "float64", "uint64"])
def test_every_number_type_is_read_as_slice_y_x(tmp_path, ending, endianness, dtype):
    path = saved(tmp_path / f"a{ending}", dtype=dtype, endianness=endianness)
    as_image, as_labels = volumes.read_image(path), volumes.read_labels(path)
    assert as_image.voxels.dtype == np.float32 and as_labels.voxels.dtype == np.uint8
    assert as_image.voxels.shape == (4, 3, 2, 1) and as_labels.voxels.shape == (4, 3, 2)
    for volume in (as_image, as_labels):
        assert all(volume.voxels[z, y, x] == COUNT[x, y, z] for x, y, z in np.ndindex(2, 3, 4))
        assert volume.spacing == pytest.approx((8, 2, 1.5)) and volume.units == "mm"
        np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)


def test_slope_and_intercept_are_honoured(tmp_path):
    (tmp_path / "a.nii").write_bytes(edited(112, [0.5, -3], "<f4"))
    np.testing.assert_array_equal(volumes.read_image(tmp_path / "a.nii").voxels[..., 0], COUNT.T * 0.5 - 3)


def test_a_fourth_axis_holds_channels(tmp_path):
    image = volumes.read_image(saved(tmp_path / "a.nii", np.stack([COUNT, 100 - 2 * COUNT], -1)))
    np.testing.assert_array_equal(image.voxels, np.stack([COUNT.T, 100 - 2 * COUNT.T], -1))


def test_one_trailing_frame_is_no_fourth_axis(tmp_path):
    path = saved(tmp_path / "a.nii", COUNT[..., None])
    assert volumes.read_image(path).voxels.shape == (4, 3, 2, 1) and volumes.read_labels(path).voxels.shape == (4, 3, 2)


def test_a_constant_channel_is_refused(tmp_path):
    refused(saved(tmp_path / "a.nii", np.stack([COUNT, 0 * COUNT], -1)), volumes.read_image, "same value")


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
def test_spacing_is_in_mm_unless_the_header_knows_nothing(tmp_path, unit, sizes, spacing, units):
    volume = volumes.read_image(saved(tmp_path / "a.nii", affine=np.diag([*sizes, 1]), units=unit))
    assert volume.spacing == pytest.approx(spacing, rel=1e-6) and volume.units == units


@pytest.mark.parametrize("codes, units", [((0, 0), "voxel"), ((1, 0), "mm"), ((0, 1), "mm")])
def test_a_header_without_a_unit_is_in_mm_where_it_has_an_affine(tmp_path, codes, units):
    """Voxels of size 1 somewhere else than at the origin; the identity, as in ACDC's files, says nothing."""
    for place, known in ((5, units), (0, "voxel")):
        affine = np.array([[1, 0, 0, place], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        made = nib.Nifti1Image(COUNT.astype(np.int16), affine)
        (tmp_path / "a.nii").write_bytes(edited(252, codes, "<i2", made.to_bytes()))
        volume = volumes.read_image(tmp_path / "a.nii")
        assert volume.units == known and volume.spacing == (1, 1, 1)


@pytest.mark.parametrize("unit, scale", [("meter", 1e-3), ("micron", 1e3), ("mm", 1)])
def test_affines_are_in_mm(tmp_path, unit, scale):
    volume = volumes.read_image(saved(tmp_path / "a.nii", affine=np.diag([scale] * 3 + [1]) @ OBLIQUE, units=unit))
    np.testing.assert_allclose(volume.affine, OBLIQUE, rtol=1e-5)


@pytest.mark.parametrize(
    "unit, size, other",
    [("meter", 1e-3, np.diag([0.5e-3] * 3 + [1])), ("micron", 0.6, np.array([[0.6, 0, 0, 0.6], *np.eye(4)[1:] * 0.6]))],
)
def test_small_voxels_are_no_small_differences(tmp_path, unit, size, other):
    """Half as large in metres; a whole voxel away in micrometres."""
    other[3, 3] = 1
    here = volumes.read_image(saved(tmp_path / "a.nii", affine=np.diag([size] * 3 + [1]), units=unit))
    there = volumes.read_image(saved(tmp_path / "b.nii", affine=other, units=unit))
    with pytest.raises(InputError, match=r"their grids lie up to 1\.[08] voxels apart"):
        volumes.check_same_grid(here, there)


def test_a_quaternion_may_be_a_hair_too_long(tmp_path):
    """Half a turn about (0.8, 0.6, 0), by 5e-6 of its length; other files are read by the bits they hold."""
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


def test_a_qform_that_flips_what_the_sform_does_not_is_remarked_on(tmp_path):
    """The sform is taken. A few degrees between them are common and say nothing."""
    image = nib.Nifti1Image(COUNT.astype(np.int16), np.diag([-1.5, 2, 8, 1]))
    image.set_qform(np.diag([1.5, 2, 8, 1]), code=1)
    nib.save(image, tmp_path / "a.nii")
    volume = volumes.read_image(tmp_path / "a.nii")
    (remark,) = volume.remarks
    assert "point to RAS by its qform and to LAS by its sform, which is taken" in remark
    np.testing.assert_allclose(volume.affine, np.diag([-1.5, 2, 8, 1]))
    near = np.diag([-1.5, 2, 8, 1]).astype(float)
    near[:3, :3] = Rotation.from_rotvec([0, 0, 0.3]).as_matrix() @ near[:3, :3]
    image.set_qform(near, code=1)
    nib.save(image, tmp_path / "a.nii")
    assert volumes.read_image(tmp_path / "a.nii").remarks == ()


def test_a_sheared_affine_is_remarked_on(tmp_path):
    sheared = np.array([[1.5, 0.2, 0, 0], [0, 2, 0, 0], [0, 0, 8, 0], [0, 0, 0, 1]])
    (remark,) = volumes.read_image(saved(tmp_path / "a.nii", affine=sheared)).remarks
    assert remark.startswith(f"{tmp_path / 'a.nii'}: its axes are 5.7 degrees off perpendicular")
    assert volumes.read_image(saved(tmp_path / "a.nii")).remarks == ()


@pytest.mark.parametrize("axes", [(1, 1), (1,), (1, 1, 1), (1, 2), (1, 1, 2), (2, 1)])
def test_axes_of_one_are_none(tmp_path, axes):
    """(x, y, z, 1, c) is a vector image."""
    channels = max(axes)
    voxels = np.stack([COUNT, 100 - 2 * COUNT], -1)[..., :channels]
    made = image(voxels.reshape(*COUNT.shape, *axes))
    made.header["intent_code"] = 1007
    nib.save(made, tmp_path / "a.nii")
    read = volumes.read_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(read.voxels, np.moveaxis(voxels, (0, 1, 2), (2, 1, 0)))
    volumes.write(tmp_path / "b.nii", COUNT.T.astype(np.uint8), read)
    written = nib.load(tmp_path / "b.nii")
    assert written.shape == COUNT.shape and written.header["intent_code"] == 0
    np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "a.nii").affine)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("endianness", "<>")
def test_nifti_2_is_read_and_written_back(tmp_path, name, endianness):
    made = nib.Nifti2Image(COUNT.astype(np.int16), OBLIQUE, nib.Nifti2Header(endianness=endianness))
    made.header.set_xyzt_units("micron")
    nib.save(made, tmp_path / name)
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
    made = nib.Nifti2Image(COUNT.astype(np.int16), OBLIQUE)
    contents = bytearray(made.to_bytes())
    contents[168:176] = np.int64(352).tobytes()
    (tmp_path / "a.nii").write_bytes(contents)
    refused(tmp_path / "a.nii", volumes.read_image, "NIfTI|begin at byte 352 .* takes 544")
    (tmp_path / "a.nii").write_bytes(made.to_bytes()[:400])
    refused(tmp_path / "a.nii", volumes.read_image, "promises 592 bytes|NIfTI")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "Größe 心臓.nii.gz", "a.b.nii"])
@pytest.mark.parametrize("unit", ["mm", "unknown", "micron"])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_what_is_written_lies_on_the_grid_it_was_read_from(tmp_path, name, unit, channels):
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


def test_labels_survive_the_header_of_a_scaled_image(tmp_path):
    (tmp_path / "a.nii").write_bytes(edited(112, [0.5, -3], "<f4"))
    labels = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
    volumes.write(tmp_path / "b.nii", labels, volumes.read_image(tmp_path / "a.nii"))
    again = volumes.read_labels(tmp_path / "b.nii")
    np.testing.assert_array_equal(again.voxels, labels)
    assert again.file.get_data_dtype() == np.uint8


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.nii.gz")
    before = path.read_bytes()

    def fail(image, beside):
        beside.write_bytes(b"half")
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
    "truncated": ("a.nii", GOOD[:-1], "promises 400 bytes and at most 399"),
    "truncated header": ("a.nii", GOOD[:200], "NIfTI"),
    "truncated, zipped": ("a.nii.gz", GZIPPED[:-10], "damaged"),
    "truncated, then zipped": ("a.nii.gz", gzip.compress(GOOD[:-1]), "promises 400 bytes"),
    "checksum": ("a.nii.gz", edited(len(GZIPPED) - 8, [GZIPPED[-8] ^ 1], "u1", GZIPPED), "damaged"),
    "no gzip": ("a.nii.gz", GOOD, "no gzip file"),
    "no NIfTI": ("a.nii", b"text " * 1000, "NIfTI"),
    "terabytes": ("a.nii", edited(42, [30000] * 3, "<i2"), "promises 54000000000352 bytes"),
    "terabytes, zipped": ("a.nii.gz", gzip.compress(edited(42, [30000] * 3, "<i2")), "promises 54000000000352"),
    "negative shape": ("a.nii", edited(44, [-3], "<i2"), "shape"),
    "no slices": ("a.nii", edited(46, [0], "<i2"), "shape"),
    "two axes": ("a.nii", image(COUNT[0], dtype="int16").to_bytes(), "shape"),
    "five axes": ("a.nii", image(np.stack([[COUNT] * 2] * 2, -1).T).to_bytes(), r"shape is .*, a series of vectors"),
    "no frames": ("a.nii", edited(40, [4, 2, 3, 4, 0], "<i2"), r"shape is \(2, 3, 4, 0\), an axis has no length"),
    "voxels in the header": ("a.nii", edited(108, [0], "<f4"), "begin at byte 0 by its header .* takes 352; export it"),
    "voxels in the header's end": ("a.nii", edited(108, [351], "<f4"), "NIfTI|byte 351"),
    "size 0": ("a.nii", edited(88, [0], "<f4"), r"voxel sizes \[1.5, 2.0, 0.0\] by pixdim are no lengths"),
    "two sizes": ("a.nii", edited(80, [3], "<f4"), r"voxels are of \(3, 2, 8\) mm by its pixdim and of \(1.5, 2, 8\)"),
    "singular": ("a.nii", edited(280, [0, 0, 0, 0] * 3, "<f4"), "its sform is singular"),
    "quaternion too long": ("a.nii", edited(252, [1, 0], "<i2", edited(256, [0.8, 0.61, 0], "<f4")), "NIfTI"),
    "complex": ("a.nii", image(dtype="complex64").to_bytes(), "complex64"),
    "RGB": ("a.nii", nib.Nifti1Image(RGB, OBLIQUE).to_bytes(), "plain numbers"),
    "unit of length 4": ("a.nii", edited(123, [4], "u1"), "unit code 4"),
    "affine NaN": ("a.nii", edited(292, [np.nan], "<f4"), "its affine holds NaN"),
    "size NaN": ("a.nii", edited(80, [np.nan], "<f4"), "voxel sizes"),
}


@pytest.mark.parametrize("read", [volumes.read_image, volumes.read_labels])
@pytest.mark.parametrize("case", DAMAGED)
def test_what_cannot_be_read_rightly_is_refused_by_name(tmp_path, case, read):
    name, contents, says = DAMAGED[case]
    path = tmp_path / name
    path.write_bytes(contents)
    refused(path, read, says)


def refused(path, read, says):
    tracemalloc.start()
    with pytest.raises(InputError, match=says) as refusal:
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert str(refusal.value).startswith(f"{path}: ")


def test_no_more_is_unpacked_than_a_header_promises(tmp_path):
    """Behind a good volume, 64 MiB of zeros in 64 KiB: passed over, a piece at a time."""
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(GOOD + bytes(2**26)))
    tracemalloc.start()
    np.testing.assert_array_equal(volumes.read_image(tmp_path / "a.nii.gz").voxels[..., 0], COUNT.T)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


@pytest.mark.parametrize(
    "read, value, dtype, says",
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
def test_values_that_mean_nothing_are_refused_without_a_warning(tmp_path, read, value, dtype, says):
    voxels = COUNT.astype(dtype)
    voxels[1, 2, 3] = value
    path = saved(tmp_path / "a.nii.gz", voxels, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(path, read, says)


def test_labels_have_three_axes(tmp_path):
    path = saved(tmp_path / "a.nii", np.stack([COUNT] * 2, -1))
    refused(path, volumes.read_labels, r"shape is \(2, 3, 4, 2\)")


@pytest.mark.parametrize("name", ["none.nii.gz", "folder.nii.gz"])
def test_what_is_no_file_is_refused(tmp_path, name):
    (tmp_path / "folder.nii.gz").mkdir()
    refused(tmp_path / name, volumes.read_image, "cannot be read")


def test_a_prostate_in_oblique_slices(prostate_folder, tmp_path):
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
