import dataclasses
import re

import nibabel as nib
from nibabel.orientations import axcodes2ornt
import numpy as np
import pytest
import SimpleITK as sitk

from files import refused, save
from msl_jax.data.formats import volumes
from msl_jax.data.formats.orientation import codes

COUNT = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
every_pair = pytest.mark.parametrize("one, other", [(a, b) for a in volumes.ENDINGS for b in volumes.ENDINGS])
every = pytest.mark.parametrize("ending", volumes.ENDINGS)


@every_pair
def test_grids_are_compared_by_shape_and_affine(tmp_path, one, other):
    """The last slice ends 3.5 slices from the first one's middle: 0.09 or 0.7 of a slice off where they are larger."""
    image = volumes.read_image(save(tmp_path / f"here{one}", COUNT))
    volumes.check_same_grid(image, volumes.read_labels(save(tmp_path / f"near{other}", COUNT, (1.5, 1.25, 8.2))))
    far = volumes.read_labels(save(tmp_path / f"far{other}", COUNT, (1.5, 1.25, 9.6)))
    says = (
        f"its affine is not that of .*here{one}, their grids lie up to 0.7 voxels apart; copy the header .* or resample"
    )
    refused(lambda: volumes.check_same_grid(image, far), says, far.path)
    less = volumes.read_labels(save(tmp_path / f"less{other}", COUNT[:3]))
    says = rf"its grid \(2, 3, 3\) is not the \(2, 3, 4\) of .*here{one}"
    refused(lambda: volumes.check_same_grid(image, less), says, less.path)


def stored(path, voxels, codes):
    """Writes (slice, y, x) of voxels of `save`'s sizes as NIfTI whose axes point to `codes`."""
    image = nib.load(save(path, voxels))
    change = nib.orientations.ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    nib.save(image.as_reoriented(change), path)
    return path


@pytest.mark.parametrize("turned", ["LAS", "RPI", "PSR", "ARS"])
@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_a_label_map_and_channels_stored_otherwise_than_their_image_are_turned_to_it(tmp_path, turned, ending):
    """The same anatomy by its header; on another grid than the image's it is refused as it is."""
    path = save(tmp_path / f"image{ending}", COUNT)
    image, again = volumes.read_image(path), stored(tmp_path / "again.nii.gz", COUNT, turned)
    labels = volumes.labels_on_grid_of(image, volumes.read_labels(again))
    np.testing.assert_array_equal(labels.voxels, COUNT)
    assert labels.spacing == pytest.approx(image.spacing)
    volumes.check_same_grid(image, labels)
    np.testing.assert_array_equal(volumes.read_channels([path, again]).voxels, np.stack([COUNT, COUNT], -1))
    other = volumes.read_labels(stored(tmp_path / "other.nii.gz", COUNT[:3], turned))
    shape = re.escape(str(other.voxels.shape[::-1]))
    refused(lambda: volumes.labels_on_grid_of(image, other), f"its grid {shape} is not the", other.path)


@every
def test_every_format_gives_back_what_was_written(tmp_path, ending):
    image = volumes.read_image(save(tmp_path / f"a{ending}", COUNT))
    np.testing.assert_array_equal(image.voxels, COUNT[..., None])
    assert image.spacing == (8, 1.25, 1.5) and image.units == "mm"
    np.testing.assert_allclose(image.affine, np.diag([1.5, 1.25, 8, 1]))
    probabilities = np.stack([COUNT / 24, 1 - COUNT / 24], -1).astype(np.float32)
    for voxels in (COUNT.astype(np.uint8), probabilities):
        volumes.write(tmp_path / "out" / f"b{ending}", voxels, image)
        again = volumes.read_image(tmp_path / "out" / f"b{ending}")
        np.testing.assert_array_equal(again.voxels.reshape(voxels.shape), voxels)
        volumes.check_same_grid(image, again)


@every
def test_directions_are_where_axes_point_to(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    assert codes(volumes.read_image(save(path, COUNT)).directions) == "RAS"
    made = sitk.GetImageFromArray(COUNT)
    made.SetDirection((0, 1, 0, 0, 0, -1, 1, 0, 0))  # columns: x to the head, y to the left, slices to the front
    sitk.WriteImage(made, str(path))
    assert codes(volumes.read_labels(path).directions) == "SLA"


UNSAID = {
    ".nii": lambda good: good[:252] + bytes(4) + good[256:],  # qform_code and sform_code
    ".mha": lambda good: good.replace(b"TransformMatrix = -1 0 0 0 -1 0 0 0 1\n", b""),
    ".nrrd": lambda good: good.replace(b"space: left-posterior-superior", b"space: scanner-xyz"),
}


@pytest.mark.parametrize("ending", UNSAID)
def test_what_a_file_does_not_say_is_no_direction(tmp_path, ending):
    path = save(tmp_path / f"a{ending}", COUNT)
    good = path.read_bytes()
    path.write_bytes(UNSAID[ending](good))
    assert path.read_bytes() != good and volumes.read_labels(path).directions is None


@pytest.mark.parametrize("ending", UNSAID)
def test_a_header_that_says_no_directions_is_said_so(tmp_path, ending):
    """And not that its affine is wrong; where it agrees by chance, it is passed."""
    image, path = volumes.read_image(save(tmp_path / "image.nii.gz", COUNT)), save(tmp_path / f"a{ending}", COUNT)
    image = dataclasses.replace(image, affine=image.affine + np.diag([0, 0, 1], 1))
    path.write_bytes(UNSAID[ending](path.read_bytes()))
    blind = volumes.read_labels(path)
    volumes.check_same_grid(blind, blind)
    says = f"the header of a{ending} does not say where its axes point to; copy that of image.nii.gz"
    refused(lambda: volumes.check_same_grid(image, blind), says, path)
    refused(lambda: volumes.check_same_grid(blind, image), says, image.path)


@pytest.mark.parametrize("origin, passes", [((-123.46, 88.12, -40.5), True), ((-123.4567, 88.2234, -40.5), False)])
def test_an_origin_may_be_rounded(origin, passes):
    """0.5 % of a voxel, and a seventh."""

    def at(place):
        return volumes.Volume("a", COUNT, affine=np.vstack([np.c_[np.diag([0.7, 0.7, 5]), place], [0, 0, 0, 1]]))

    def check():
        volumes.check_same_grid(at((-123.4567, 88.1234, -40.5)), at(origin))

    check() if passes else refused(check, "up to 0.1 voxels apart")


@every
def test_channels_may_lie_in_one_file_or_in_several(tmp_path, ending):
    both = np.stack([COUNT, 100 - 2 * COUNT], -1)
    one = save(tmp_path / f"both{ending}", both)
    several = [save(tmp_path / f"{i}{ending}", both[..., i]) for i in range(2)]
    for files in ([one], several):
        image = volumes.read_channels(files)
        np.testing.assert_array_equal(image.voxels, both)
        assert image.path == files[0]
    moved = save(tmp_path / f"moved{ending}", COUNT, (2, 2, 2))
    refused(lambda: volumes.read_channels([one, moved]), "its affine", moved)


@every
def test_many_channels_are_remarked_on(tmp_path, ending):
    nine = volumes.read_image(save(tmp_path / f"a{ending}", np.stack([COUNT] * 9, -1)))
    says = f"{nine.path}: has 9 channels; if they are points in time, save each as a file of its own."
    assert nine.remarks == (says,)
    assert volumes.read_image(save(tmp_path / f"b{ending}", np.stack([COUNT] * 8, -1))).remarks == ()
    assert volumes.read_channels([nine.path, nine.path]).remarks == (says, says)


@every
def test_endings_are_known_in_capitals(tmp_path, ending):
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
def test_labels_may_be_off_by_rounding(tmp_path, ending, noise):
    path = save(tmp_path / f"a{ending}", COUNT + 0.999 * noise)
    np.testing.assert_array_equal(volumes.read_labels(path).voxels, COUNT)
    path = save(tmp_path / f"a{ending}", COUNT + 2e-3)
    refused(lambda: volumes.read_labels(path), r"holds 0.002, 1.002, 2.002; a label map holds whole numbers", path)


def test_values_that_no_label_has_are_named(tmp_path):
    path = save(tmp_path / "a.nii.gz", COUNT * 1000)
    says = (
        "holds 1000, 2000, 3000; a label map holds whole numbers from 0 to 255 alone, give its structures such values"
    )
    refused(lambda: volumes.read_labels(path), says, path)


@every
def test_a_constant_channel_is_refused(tmp_path, ending):
    path = save(tmp_path / f"a{ending}", np.stack([COUNT, 0 * COUNT], -1))
    refused(lambda: volumes.read_image(path), "every voxel has the same value", path)


@every
@pytest.mark.parametrize("value, says", [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (0.5, "0 to 255")])
def test_values_that_mean_nothing_are_refused(tmp_path, ending, value, says):
    voxels = COUNT.astype(np.float32)
    voxels[3, 1, 1] = value
    path = save(tmp_path / f"a{ending}", voxels)
    refused(lambda: [volumes.read_image(path), volumes.read_labels(path)], says, path)


@pytest.mark.parametrize("name", ["a.nhdr", "a.mhd", "a.png", "a"])
def test_other_formats_are_refused(tmp_path, name):
    (tmp_path / name).touch()
    says = r"is no file of a known format; .* \.nii\.gz, \.nii, \.mha, \.nrrd\."
    refused(lambda: volumes.read_image(tmp_path / name), says, tmp_path / name)


def test_what_is_not_there_is_refused(tmp_path):
    refused(lambda: volumes.read_labels(tmp_path / "a.mha"), "cannot be read, No such file", tmp_path / "a.mha")


def touched(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def test_files_are_found_by_name(tmp_path):
    touched(tmp_path, "b.nii", "c.nrrd", "sub/a.nii.gz", "sub/.hidden.nii", "sub/._a.nii.gz", "notes.txt")
    assert volumes.find_all(tmp_path) == [tmp_path / "b.nii", tmp_path / "c.nrrd", tmp_path / "sub" / "a.nii.gz"]
    assert volumes.find(tmp_path, "b") == tmp_path / "b.nii" and volumes.find(tmp_path, "a") is None
    assert volumes.find(tmp_path / "sub", "a") == tmp_path / "sub" / "a.nii.gz"
    assert [volumes.stem(name) for name in ("x/a.b.nii.gz", "a.nii", "ä.mha", "a.txt")] == ["a.b", "a", "ä", "a.txt"]
    assert [volumes.stem(name) for name in ("b0.seg.nrrd", "B.NII", "c.Nii.gz")] == ["b0", "B", "c"]
    assert [volumes.ending(name) for name in ("x.y/a.b.nii.gz", "a.nii", "a.txt")] == [".nii.gz", ".nii", ""]


def test_files_are_found_through_links_and_not_in_hidden_folders(tmp_path):
    touched(tmp_path, "data/a.nii", ".trash/b.nii")
    (tmp_path / "data" / "link.nii").symlink_to(tmp_path / "data" / "a.nii")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "linked").symlink_to(tmp_path / "data")
    (tmp_path / "sub" / "round").symlink_to(tmp_path)
    names = ["data/a.nii", "data/link.nii", "sub/linked/a.nii", "sub/linked/link.nii"]
    assert volumes.find_all(tmp_path) == [tmp_path / name for name in names]


def test_single_files_are_cases_by_their_names(tmp_path):
    touched(tmp_path, "b.nii", "a.mha", "b_gt.nii", "sub/b.nii", "masks/b.nii", "masks.nii")
    found = volumes.single_files(tmp_path, ("_gt",), ("masks",))
    files = {"a": "a.mha", "b": "b.nii", "masks": "masks.nii", "sub/b": "sub/b.nii"}
    assert found == {name: (tmp_path / file,) for name, file in files.items()}
    assert len(volumes.single_files(tmp_path)) == 6
    assert list(volumes.single_files(tmp_path / "masks", outside=("masks",))) == ["b"]


def test_segmentations_are_no_images(tmp_path):
    touched(tmp_path, "a.nrrd", "a.seg.nrrd", "sub/b.Seg.Nrrd")
    assert volumes.single_files(tmp_path) == {"a": (tmp_path / "a.nrrd",)}
    assert volumes.find(tmp_path, "a") == tmp_path / "a.nrrd" and volumes.find(tmp_path / "sub", "b") is None
    assert len(volumes.find_all(tmp_path)) == 3


def test_two_files_of_one_name_are_refused(tmp_path):
    touched(tmp_path, "a.nii", "a.mha", "b.nii")
    for ask in (lambda: volumes.find(tmp_path, "a"), lambda: volumes.single_files(tmp_path)):
        refused(ask, r"lies beside a\..*; keep one", tmp_path / "a.")


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_a_prostate_is_the_same_in_every_format(prostate_folder, tmp_path, ending):
    def also(name):
        sitk.WriteImage(
            sitk.ReadImage(str(prostate_folder / f"{name}.nii.gz")), str(tmp_path / f"{name}{ending}"), True
        )
        return tmp_path / f"{name}{ending}"

    image = volumes.read_image(prostate_folder / "Prostatex_0000.nii.gz")
    labels = volumes.read_labels(prostate_folder / "Prostatex_0000_lab.nii.gz")
    other = volumes.read_image(also("Prostatex_0000"))
    other_labels = volumes.read_labels(also("Prostatex_0000_lab"))
    np.testing.assert_array_equal(image.voxels, other.voxels)
    np.testing.assert_array_equal(labels.voxels, other_labels.voxels)
    assert other.spacing == pytest.approx(image.spacing, abs=1e-5)
    for volume in (labels, other, other_labels):
        volumes.check_same_grid(image, volume)


@pytest.mark.parametrize("name", ["a", "a" * 300, "é" * 200, "心" * 200, "😀" * 100])
def test_a_shortened_name_is_a_beginning_with_room_for_more(name):
    short = volumes.shortened(name)
    assert name.startswith(short) and min(len(name.encode()), 197) <= len(short.encode()) <= 200


@pytest.mark.parametrize("value", [-3.4e38, 3.4e38])
def test_the_largest_float_is_no_intensity(tmp_path, value):
    voxels = COUNT.astype(np.float32)
    voxels[0, 0, 0] = value
    path = save(tmp_path / "a.nii", voxels)
    refused(lambda: volumes.read_image(path), r"the image holds -?3\.4e\+38, as programs write", path)
