import json
import shutil

from etils import epath
import nibabel as nib
from nibabel.orientations import axcodes2ornt, ornt_transform
import numpy as np
from PIL import Image
import pytest
from scipy.spatial.transform import Rotation

from msl_jax.data.formats import volumes
from msl_jax.errors import InputError, OddInput
from msl_jax.inference.components import largest_components
from msl_jax.inference.files import predict
from msl_jax.inference.segmenter import load_network


def test_of_each_structure_the_largest_component_is_kept():
    """Two blobs of label 1, of 3 and 2 voxels, where the larger one touches itself by a corner; one of label 3."""
    labels = np.zeros((2, 4, 5), np.uint8)
    labels[0, 0, 0] = labels[0, 1, 1] = labels[1, 2, 2] = 1
    labels[0, 0, 3:] = 1
    labels[1, 3, 4] = 3
    expected = labels.copy()
    expected[0, 0, 3:] = 0
    np.testing.assert_array_equal(largest_components(labels), expected)
    assert not largest_components(np.zeros((2, 3, 3), np.uint8)).any()


@pytest.fixture(scope="module")
def runs(untrained):
    """Two untrained runs with networks from different seeds."""
    return [untrained("seed=0"), untrained("seed=1")]


@pytest.fixture
def image(tmp_path, phantoms):
    """A case as NIfTI."""
    volume = phantoms.case(phantoms.entries[0]).image[..., 0]
    nib.save(nib.Nifti1Image(volume.T, np.diag([1.5, 1.5, 8, 1])), tmp_path / "a.nii")
    return tmp_path / "a.nii"


@pytest.fixture
def altered(runs, tmp_path):
    """altered(key, value) -> a copy of the second run with this value in config.data."""

    def make(key, value):
        folder = shutil.copytree(runs[1], tmp_path / "altered")
        config = json.loads((folder / "config.json").read_text())
        config["data"][key] = value
        (folder / "config.json").write_text(json.dumps(config))
        return epath.Path(folder)

    return make


def probabilities(folder, out, *runs):
    (label_file,) = predict(list(runs), folder, out, save_probabilities=True, overwrite=True)
    assert label_file.name == "a.nii" and not (out / "a_prob.nii").exists()
    return volumes.read_image(out / "a_prob.nii.gz").voxels


def test_png_slices_are_segmented_like_the_volume(altered, phantoms, tmp_path):
    voxels = phantoms.case(phantoms.entries[0]).image[..., 0]
    grey = (255 * (voxels - voxels.min()) / np.ptp(voxels)).round().astype(np.uint8)
    (tmp_path / "in" / "test" / "Img").mkdir(parents=True)
    for z, plane in enumerate(grey):
        Image.fromarray(plane).save(tmp_path / "in" / "test" / "Img" / f"b_{z + 1}.png")
    nib.save(nib.Nifti1Image(grey.T, np.eye(4)), tmp_path / "in" / "a.nii.gz")
    files = predict([altered("layout", "png_tree")], tmp_path / "in", tmp_path / "in" / "out")
    assert [path.relative_to(tmp_path / "in" / "out").as_posix() for path in files] == ["a.nii.gz", "test/Img/b.nii.gz"]
    volume, slices = map(volumes.read_labels, files)
    np.testing.assert_array_equal(volume.voxels, slices.voxels)
    assert (slices.spacing, slices.units, slices.oriented) == ((1.0, 1.0, 1.0), "voxel", False)


def test_several_runs_segment_by_the_mean_of_their_probabilities(runs, image, tmp_path):
    one, two, both = (probabilities(image, tmp_path / "out", *some) for some in (runs[:1], runs[1:], runs))
    assert abs(one - two).max() > 0.01
    np.testing.assert_allclose(both, (one + two) / 2, atol=1e-6)


@pytest.mark.parametrize(("key", "value"), [("channels", 2), ("classes", {"RV": 1})])
def test_runs_that_do_not_fit_are_refused(runs, altered, image, tmp_path, key, value):
    with pytest.raises(InputError, match=rf"workdir: .*altered has data.{key} .*{runs[0]} .*; they must agree"):
        predict([runs[0], altered(key, value)], image, tmp_path / "out")


def test_slices_are_cut_across_the_axis_of_the_run(altered, image, tmp_path):
    """The network gets slices across the training axis, and the output has the file's own grid."""
    workdir = altered("axis", 0)
    found = probabilities(image, tmp_path / "out", workdir)
    segmenter, variables, _ = load_network(workdir)
    volume = volumes.read_image(image).voxels
    expected = segmenter.probabilities(variables, np.moveaxis(volume, 2, 0), (1.5, 8, 1.5))["student"]
    np.testing.assert_allclose(found, np.moveaxis(expected, 0, 2), atol=1e-6)


def test_runs_of_other_pixel_sizes_segment_together(runs, altered, image, tmp_path):
    coarse = altered("spacing", [4.0, 4.0])
    one, two, both = (
        probabilities(image, tmp_path / "out", *some) for some in ([runs[0]], [coarse], [runs[0], coarse])
    )
    np.testing.assert_allclose(both, (one + two) / 2, atol=1e-6)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii", "a_prob.nii.gz"]


def test_runs_of_other_axes_segment_together_on_the_grid_of_the_file(runs, altered, image, tmp_path):
    along = altered("axis", 0)
    one, two, both = (probabilities(image, tmp_path / "out", *some) for some in ([runs[0]], [along], [runs[0], along]))
    np.testing.assert_allclose(both, (one + two) / 2, atol=1e-6)


LPS = [[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]]
"""Directions of (slice, y, x)."""
STORED = ("LPS", "RAS", "SPL", "PSR", "IAR")


def as_stored(image, codes, path):
    """The same anatomy with its axes permuted and flipped."""
    change = ornt_transform(nib.io_orientation(image.affine), axcodes2ornt(codes))
    nib.save(image.as_reoriented(change), path)


@pytest.mark.parametrize("codes", STORED)
def test_images_of_any_orientation_are_segmented_alike(altered, image, tmp_path, capfd, codes):
    """The same anatomy has the same probabilities, on the grid of its own file."""
    workdir = altered("directions", LPS)
    lps = nib.Nifti1Image(np.asarray(nib.load(image).dataobj), np.diag([-1.5, -1.5, 8, 1]))
    (tmp_path / "in").mkdir()
    for name in STORED[0], codes:
        as_stored(lps, name, tmp_path / "in" / f"{name}.nii.gz")
    predict([workdir], tmp_path / "in", tmp_path / "out", save_probabilities=True)
    expected, found = (nib.load(tmp_path / "out" / f"{name}_prob.nii.gz") for name in (STORED[0], codes))
    stored = nib.load(tmp_path / "in" / f"{codes}.nii.gz")
    assert found.shape == (*stored.shape, 2) and np.array_equal(found.affine, stored.affine)
    back = found.as_reoriented(ornt_transform(axcodes2ornt(codes), axcodes2ornt("LPS")))
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(expected.dataobj))
    assert np.ptp(np.asarray(expected.dataobj)[..., 1]) > 0.01
    assert ("reoriented as in training" in capfd.readouterr().out) == (codes != "LPS")


def test_a_file_without_orientation_is_segmented_as_stored_with_a_warning(altered, image, tmp_path):
    workdir = altered("directions", LPS)
    bare = nib.Nifti1Image(np.asarray(nib.load(image).dataobj), None)
    nib.save(bare, tmp_path / "bare.nii")
    with pytest.warns(OddInput, match=r"bare.nii: its orientation is unknown"):
        predict([workdir], tmp_path / "bare.nii", tmp_path / "out")


def test_a_file_without_voxel_size_gives_a_warning_if_the_run_resamples(runs, altered, image, tmp_path, recwarn):
    nib.save(nib.Nifti1Image(np.asarray(nib.load(image).dataobj), None), tmp_path / "bare.nii")
    for workdir, told in ((runs[1], 1), (altered("units", None), 0)):
        recwarn.clear()
        predict([workdir], tmp_path / "bare.nii", tmp_path / "out", overwrite=True)
        warning = "bare.nii: the run's voxel sizes are in mm, theirs are unknown"
        assert sum(warning in str(one.message) for one in recwarn) == told


@pytest.mark.parametrize(("degrees", "told"), [(15, False), (40, True), (65, False)])
def test_a_rotated_image_gives_a_warning(altered, image, tmp_path, recwarn, degrees, told):
    """65 degrees are 25 once the axes are permuted."""
    turn = Rotation.from_rotvec([0, 0, np.radians(degrees)]).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.5, -1.5, 8])
    nib.save(nib.Nifti1Image(np.asarray(nib.load(image).dataobj), affine), tmp_path / "oblique.nii")
    predict([altered("directions", LPS)], tmp_path / "oblique.nii", tmp_path / "out")
    messages = [str(one.message) for one in recwarn if issubclass(one.category, OddInput)]
    assert len(messages) == told and all(
        f"is rotated by {degrees} degrees against the training images" in one for one in messages
    )


def test_one_damaged_file_does_not_stop_the_others(runs, image, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        shutil.copy(image, folder / f"{name}.nii")
    (folder / "b.nii").write_bytes((folder / "b.nii").read_bytes()[:5000])
    with pytest.raises(InputError) as error:
        predict(runs[:1], folder, tmp_path / "out")
    first, last = str(error.value).splitlines()
    assert "b.nii: its header declares" in first
    assert last.endswith(f"contains the label maps of the other 2 images of {folder}.")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii", "c.nii"]


def test_volumes_of_other_formats_are_named(runs, image, tmp_path, recwarn):
    folder = tmp_path / "in"
    (folder / ".hidden").mkdir(parents=True)
    shutil.copy(image, folder / "a.nii")
    for name in ("b.MGZ", "c.dcm", "a.json", ".hidden/d.mhd"):
        (folder / name).write_bytes(b"")
    assert len(predict(runs[:1], folder, tmp_path / "out")) == 1
    (message,) = (str(one.message) for one in recwarn if "format" in str(one.message))
    assert message.startswith(f"{folder}: b.MGZ, c.dcm are skipped, their format is not supported;")


def test_existing_label_maps_are_skipped(runs, image, tmp_path, capfd):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(image, folder / "a.nii")
    predict(runs[:1], folder, tmp_path / "out")
    before = (tmp_path / "out" / "a.nii").stat().st_mtime_ns
    shutil.copy(image, folder / "b.nii")
    written = predict(runs[:1], folder, tmp_path / "out", skip_existing=True)
    assert written == [tmp_path / "out" / "b.nii"]
    assert (tmp_path / "out" / "a.nii").stat().st_mtime_ns == before
    assert "Skipping 1 image with existing label maps." in capfd.readouterr().out
    assert predict(runs[:1], folder, tmp_path / "out", skip_existing=True) == []


def test_images_of_other_channels_are_refused(runs, image, tmp_path):
    two = np.random.default_rng(0).random((8, 9, 3, 2), np.float32)
    nib.save(nib.Nifti1Image(two, np.eye(4)), tmp_path / "two.nii.gz")
    with pytest.raises(InputError, match=r"two\.nii\.gz: has 2 channels, the run was trained on 1"):
        predict(runs[:1], tmp_path / "two.nii.gz", tmp_path / "out")
