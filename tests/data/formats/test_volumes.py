import dataclasses
import re

import nibabel as nib
from nibabel.orientations import axcodes2ornt
import numpy as np
import pytest
import SimpleITK as sitk

from files import assert_input_error, save
from msl_jax.data.formats import volumes
from msl_jax.data.formats.orientation import codes

COUNT = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
every_pair = pytest.mark.parametrize("one, other", [(a, b) for a in volumes.ENDINGS for b in volumes.ENDINGS])
every = pytest.mark.parametrize("ending", volumes.ENDINGS)


@every_pair
def test_grids_are_compared_by_shape_and_affine(tmp_path, one, other):
    """The last slice ends 3.5 slices from the first one's centre, so larger slices are 0.09 or 0.7 slices off there."""
    image = volumes.read_image(save(tmp_path / f"here{one}", COUNT))
    volumes.check_same_grid(image, volumes.read_labels(save(tmp_path / f"near{other}", COUNT, (1.5, 1.25, 8.2))))
    thick = volumes.read_labels(save(tmp_path / f"thick{other}", COUNT, (1.5, 1.25, 9.6)))
    message = f"its affine differs from that of .*here{one} by up to 0.7 voxels; copy the image's header .* or resample"
    assert_input_error(lambda: volumes.check_same_grid(image, thick), message, thick.path)
    short = volumes.read_labels(save(tmp_path / f"short{other}", COUNT[:3]))
    message = rf"its grid \(2, 3, 3\) differs from \(2, 3, 4\) of .*here{one}"
    assert_input_error(lambda: volumes.check_same_grid(image, short), message, short.path)


def stored(path, voxels, codes):
    """Writes (slice, y, x) with the voxel sizes of `save` as NIfTI with these axis codes."""
    image = nib.load(save(path, voxels))
    change = nib.orientations.ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    nib.save(image.as_reoriented(change), path)
    return path


@pytest.mark.parametrize("codes", ["LAS", "RPI", "PSR", "ARS"])
@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_label_maps_and_channels_get_the_orientation_of_their_image(tmp_path, codes, ending):
    """The same anatomy by its header; a different grid is an error."""
    path = save(tmp_path / f"image{ending}", COUNT)
    image, reoriented = volumes.read_image(path), stored(tmp_path / "reoriented.nii.gz", COUNT, codes)
    labels = volumes.labels_on_grid_of(image, volumes.read_labels(reoriented))
    np.testing.assert_array_equal(labels.voxels, COUNT)
    assert labels.spacing == pytest.approx(image.spacing)
    volumes.check_same_grid(image, labels)
    np.testing.assert_array_equal(volumes.read_channels([path, reoriented]).voxels, np.stack([COUNT, COUNT], -1))
    other = volumes.read_labels(stored(tmp_path / "other.nii.gz", COUNT[:3], codes))
    shape = re.escape(str(other.voxels.shape[::-1]))
    assert_input_error(lambda: volumes.labels_on_grid_of(image, other), f"its grid {shape} differs from", other.path)


@every
def test_every_format_reads_back_what_was_written(tmp_path, ending):
    image = volumes.read_image(save(tmp_path / f"a{ending}", COUNT))
    np.testing.assert_array_equal(image.voxels, COUNT[..., None])
    assert image.spacing == (8, 1.25, 1.5) and image.units == "mm"
    np.testing.assert_allclose(image.affine, np.diag([1.5, 1.25, 8, 1]))
    probabilities = np.stack([COUNT / 24, 1 - COUNT / 24], -1).astype(np.float32)
    for voxels in (COUNT.astype(np.uint8), probabilities):
        volumes.write(tmp_path / "out" / f"b{ending}", voxels, image)
        written = volumes.read_image(tmp_path / "out" / f"b{ending}")
        np.testing.assert_array_equal(written.voxels.reshape(voxels.shape), voxels)
        volumes.check_same_grid(image, written)


@every
def test_directions_are_read_from_every_format(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    assert codes(volumes.read_image(save(path, COUNT)).directions) == "RAS"
    image = sitk.GetImageFromArray(COUNT)
    image.SetDirection((0, 1, 0, 0, 0, -1, 1, 0, 0))  # columns: x to the head, y to the left, slices to the front
    sitk.WriteImage(image, str(path))
    assert codes(volumes.read_labels(path).directions) == "SLA"


UNORIENTED = {
    ".nii": lambda good: good[:252] + bytes(4) + good[256:],  # qform_code and sform_code
    ".mha": lambda good: good.replace(b"TransformMatrix = -1 0 0 0 -1 0 0 0 1\n", b""),
    ".nrrd": lambda good: good.replace(b"space: left-posterior-superior", b"space: scanner-xyz"),
}


@pytest.mark.parametrize("ending", UNORIENTED)
def test_directions_missing_from_a_file_are_none(tmp_path, ending):
    path = save(tmp_path / f"a{ending}", COUNT)
    good = path.read_bytes()
    path.write_bytes(UNORIENTED[ending](good))
    assert path.read_bytes() != good and volumes.read_labels(path).directions is None


@pytest.mark.parametrize("ending", UNORIENTED)
def test_a_header_without_directions_has_its_own_message(tmp_path, ending):
    """The message does not blame the affine; equal grids are accepted."""
    image, path = volumes.read_image(save(tmp_path / "image.nii.gz", COUNT)), save(tmp_path / f"a{ending}", COUNT)
    image = dataclasses.replace(image, affine=image.affine + np.diag([0, 0, 1], 1))
    path.write_bytes(UNORIENTED[ending](path.read_bytes()))
    unoriented = volumes.read_labels(path)
    volumes.check_same_grid(unoriented, unoriented)
    message = f"the header of a{ending} does not give the directions of its axes; copy the header of image.nii.gz"
    assert_input_error(lambda: volumes.check_same_grid(image, unoriented), message, path)
    assert_input_error(lambda: volumes.check_same_grid(unoriented, image), message, image.path)


@pytest.mark.parametrize("origin, passes", [((-123.46, 88.12, -40.5), True), ((-123.4567, 88.2234, -40.5), False)])
def test_an_origin_may_be_rounded(origin, passes):
    """By 0.5 % of a voxel, but not by a seventh."""

    def volume_at(position):
        return volumes.Volume("a", COUNT, affine=np.vstack([np.c_[np.diag([0.7, 0.7, 5]), position], [0, 0, 0, 1]]))

    def check():
        volumes.check_same_grid(volume_at((-123.4567, 88.1234, -40.5)), volume_at(origin))

    check() if passes else assert_input_error(check, "by up to 0.1 voxels")


@every
def test_channels_may_be_in_one_file_or_in_several(tmp_path, ending):
    both = np.stack([COUNT, 100 - 2 * COUNT], -1)
    one = save(tmp_path / f"both{ending}", both)
    several = [save(tmp_path / f"{i}{ending}", both[..., i]) for i in range(2)]
    for files in ([one], several):
        image = volumes.read_channels(files)
        np.testing.assert_array_equal(image.voxels, both)
        assert image.path == files[0]
    moved = save(tmp_path / f"moved{ending}", COUNT, (2, 2, 2))
    assert_input_error(lambda: volumes.read_channels([one, moved]), "its affine", moved)


@every
def test_many_channels_give_a_remark(tmp_path, ending):
    nine = volumes.read_image(save(tmp_path / f"a{ending}", np.stack([COUNT] * 9, -1)))
    message = f"{nine.path}: has 9 channels; if they are time points, save each as a separate file."
    assert nine.remarks == (message,)
    assert volumes.read_image(save(tmp_path / f"b{ending}", np.stack([COUNT] * 8, -1))).remarks == ()
    assert volumes.read_channels([nine.path, nine.path]).remarks == (message, message)


@every
def test_endings_may_be_in_capitals(tmp_path, ending):
    path = save(tmp_path / f"a.b{ending}", COUNT).rename(tmp_path / f"a.b{ending.upper()}")
    image = volumes.read_image(path)
    np.testing.assert_array_equal(image.voxels, COUNT[..., None])
    assert volumes.find_all(tmp_path) == [path] and volumes.find(tmp_path, "a.b") == path
    assert (volumes.stem(path), volumes.ending(path)) == ("a.b", ending.upper())
    assert volumes.single_files(tmp_path) == {"a.b": (path,)}
    written = tmp_path / "out" / path.name
    volumes.write(written, COUNT.astype(np.uint8), image)
    np.testing.assert_array_equal(volumes.read_labels(written).voxels, COUNT)
    assert list(written.parent.iterdir()) == [written]
    written.rename(written.with_name(f"a.b{ending}"))
    volumes.check_same_grid(image, volumes.read_labels(written.with_name(f"a.b{ending}")))


@every
@pytest.mark.parametrize("noise", [1e-3, -1e-3, 1e-7])
def test_labels_may_have_rounding_errors(tmp_path, ending, noise):
    path = save(tmp_path / f"a{ending}", COUNT + 0.999 * noise)
    np.testing.assert_array_equal(volumes.read_labels(path).voxels, COUNT)
    path = save(tmp_path / f"a{ending}", COUNT + 2e-3)
    assert_input_error(
        lambda: volumes.read_labels(path), r"contains 0.002, 1.002, 2.002; label maps have only whole numbers", path
    )


def test_the_message_lists_invalid_label_values(tmp_path):
    path = save(tmp_path / "a.nii.gz", COUNT * 1000)
    message = "contains 1000, 2000, 3000; label maps have only whole numbers from 0 to 255; change its labels"
    assert_input_error(lambda: volumes.read_labels(path), message, path)


@every
def test_a_constant_channel_is_an_error(tmp_path, ending):
    path = save(tmp_path / f"a{ending}", np.stack([COUNT, 0 * COUNT], -1))
    assert_input_error(lambda: volumes.read_image(path), "every voxel has the same value", path)


@every
@pytest.mark.parametrize(
    "value, message", [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (0.5, "0 to 255")]
)
def test_invalid_values_are_errors(tmp_path, ending, value, message):
    voxels = COUNT.astype(np.float32)
    voxels[3, 1, 1] = value
    path = save(tmp_path / f"a{ending}", voxels)
    assert_input_error(lambda: [volumes.read_image(path), volumes.read_labels(path)], message, path)


@pytest.mark.parametrize("name", ["a.nhdr", "a.mhd", "a.png", "a"])
def test_other_formats_are_errors(tmp_path, name):
    (tmp_path / name).touch()
    message = r"is not a file of a known format; .* \.nii\.gz, \.nii, \.mha, \.nrrd\."
    assert_input_error(lambda: volumes.read_image(tmp_path / name), message, tmp_path / name)


def test_a_missing_file_is_an_error(tmp_path):
    assert_input_error(
        lambda: volumes.read_labels(tmp_path / "a.mha"), "cannot be read, No such file", tmp_path / "a.mha"
    )


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def test_files_are_found_by_name(tmp_path):
    touch(tmp_path, "b.nii", "c.nrrd", "sub/a.nii.gz", "sub/.hidden.nii", "sub/._a.nii.gz", "notes.txt")
    assert volumes.find_all(tmp_path) == [tmp_path / "b.nii", tmp_path / "c.nrrd", tmp_path / "sub" / "a.nii.gz"]
    assert volumes.find(tmp_path, "b") == tmp_path / "b.nii" and volumes.find(tmp_path, "a") is None
    assert volumes.find(tmp_path / "sub", "a") == tmp_path / "sub" / "a.nii.gz"
    assert [volumes.stem(name) for name in ("x/a.b.nii.gz", "a.nii", "ä.mha", "a.txt")] == ["a.b", "a", "ä", "a.txt"]
    assert [volumes.stem(name) for name in ("b0.seg.nrrd", "B.NII", "c.Nii.gz")] == ["b0", "B", "c"]
    assert [volumes.ending(name) for name in ("x.y/a.b.nii.gz", "a.nii", "a.txt")] == [".nii.gz", ".nii", ""]


def test_links_are_followed_and_hidden_folders_ignored(tmp_path):
    touch(tmp_path, "data/a.nii", ".trash/b.nii")
    (tmp_path / "data" / "link.nii").symlink_to(tmp_path / "data" / "a.nii")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "linked").symlink_to(tmp_path / "data")
    (tmp_path / "sub" / "round").symlink_to(tmp_path)
    names = ["data/a.nii", "data/link.nii", "sub/linked/a.nii", "sub/linked/link.nii"]
    assert volumes.find_all(tmp_path) == [tmp_path / name for name in names]


def test_single_files_map_names_to_files(tmp_path):
    touch(tmp_path, "b.nii", "a.mha", "b_gt.nii", "sub/b.nii", "masks/b.nii", "masks.nii")
    found = volumes.single_files(tmp_path, ("_gt",), ("masks",))
    files = {"a": "a.mha", "b": "b.nii", "masks": "masks.nii", "sub/b": "sub/b.nii"}
    assert found == {name: (tmp_path / file,) for name, file in files.items()}
    assert len(volumes.single_files(tmp_path)) == 6
    assert list(volumes.single_files(tmp_path / "masks", exclude_folders=("masks",))) == ["b"]


def test_segmentations_are_not_images(tmp_path):
    touch(tmp_path, "a.nrrd", "a.seg.nrrd", "sub/b.Seg.Nrrd")
    assert volumes.single_files(tmp_path) == {"a": (tmp_path / "a.nrrd",)}
    assert volumes.find(tmp_path, "a") == tmp_path / "a.nrrd" and volumes.find(tmp_path / "sub", "b") is None
    assert len(volumes.find_all(tmp_path)) == 3


def test_two_files_of_the_same_name_are_an_error(tmp_path):
    touch(tmp_path, "a.nii", "a.mha", "b.nii")
    for call in (lambda: volumes.find(tmp_path, "a"), lambda: volumes.single_files(tmp_path)):
        assert_input_error(call, r"has the same name as a\..*; keep one", tmp_path / "a.")


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_a_real_prostate_is_the_same_in_every_format(prostate_folder, tmp_path, ending):
    def converted(name):
        sitk.WriteImage(
            sitk.ReadImage(str(prostate_folder / f"{name}.nii.gz")), str(tmp_path / f"{name}{ending}"), True
        )
        return tmp_path / f"{name}{ending}"

    image = volumes.read_image(prostate_folder / "Prostatex_0000.nii.gz")
    labels = volumes.read_labels(prostate_folder / "Prostatex_0000_lab.nii.gz")
    other = volumes.read_image(converted("Prostatex_0000"))
    other_labels = volumes.read_labels(converted("Prostatex_0000_lab"))
    np.testing.assert_array_equal(image.voxels, other.voxels)
    np.testing.assert_array_equal(labels.voxels, other_labels.voxels)
    assert other.spacing == pytest.approx(image.spacing, abs=1e-5)
    for volume in (labels, other, other_labels):
        volumes.check_same_grid(image, volume)


@pytest.mark.parametrize("name", ["a", "a" * 300, "é" * 200, "心" * 200, "😀" * 100])
def test_shortened_names_have_at_most_200_bytes(name):
    short = volumes.shortened(name)
    assert name.startswith(short) and min(len(name.encode()), 197) <= len(short.encode()) <= 200


@pytest.mark.parametrize("value", [-3.4e38, 3.4e38])
def test_the_largest_float_is_not_an_intensity(tmp_path, value):
    voxels = COUNT.astype(np.float32)
    voxels[0, 0, 0] = value
    path = save(tmp_path / "a.nii", voxels)
    assert_input_error(lambda: volumes.read_image(path), r"the image contains -?3\.4e\+38, a placeholder for", path)
