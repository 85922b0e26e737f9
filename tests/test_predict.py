import json
import shutil

from etils import epath
import nibabel as nib
import numpy as np
from PIL import Image
import pytest

from msl_jax import inference, predict
from msl_jax.checks import Refused
from msl_jax.data import volumes


def test_of_each_structure_the_largest_component_is_kept():
    """Two blobs of label 1, of 3 and 2 voxels, where the larger one touches itself by a corner; one of label 3."""
    labels = np.zeros((2, 4, 5), np.uint8)
    labels[0, 0, 0] = labels[0, 1, 1] = labels[1, 2, 2] = 1
    labels[0, 0, 3:] = 1
    labels[1, 3, 4] = 3
    expected = labels.copy()
    expected[0, 0, 3:] = 0
    np.testing.assert_array_equal(predict.largest_components(labels), expected)
    assert not predict.largest_components(np.zeros((2, 3, 3), np.uint8)).any()


@pytest.fixture(scope="module")
def runs(untrained):
    """Two runs whose networks are drawn from other seeds, untrained."""
    return [untrained("seed=0"), untrained("seed=1")]


@pytest.fixture
def image(tmp_path, phantoms):
    """A case as NIfTI."""
    volume = phantoms.case(phantoms.entries[0]).image[..., 0]
    nib.save(nib.Nifti1Image(volume.T, np.diag([1.5, 1.5, 8, 1])), tmp_path / "a.nii")
    return tmp_path / "a.nii"


@pytest.fixture
def altered(runs, tmp_path):
    """altered(key, value) -> a copy of the second run with that in config.data."""

    def make(key, value):
        folder = shutil.copytree(runs[1], tmp_path / "altered")
        config = json.loads((folder / "config.json").read_text())
        config["data"][key] = value
        (folder / "config.json").write_text(json.dumps(config))
        return epath.Path(folder)

    return make


def probabilities(folder, out, *runs):
    (label_file,) = predict.predict(list(runs), folder, out, save_probabilities=True, overwrite=True)
    assert label_file.name == "a.nii" and not (out / "a_prob.nii").exists()
    return volumes.read_image(out / "a_prob.nii.gz").voxels


def test_slices_as_png_are_segmented_as_the_volume_they_are(altered, phantoms, tmp_path):
    voxels = phantoms.case(phantoms.entries[0]).image[..., 0]
    grey = (255 * (voxels - voxels.min()) / np.ptp(voxels)).round().astype(np.uint8)
    (tmp_path / "in" / "test" / "Img").mkdir(parents=True)
    for z, plane in enumerate(grey):
        Image.fromarray(plane).save(tmp_path / "in" / "test" / "Img" / f"b_{z + 1}.png")
    nib.save(nib.Nifti1Image(grey.T, np.eye(4)), tmp_path / "in" / "a.nii.gz")
    files = predict.predict([altered("layout", "png_tree")], tmp_path / "in", tmp_path / "in" / "out")
    assert [path.relative_to(tmp_path / "in" / "out").as_posix() for path in files] == ["a.nii.gz", "test/Img/b.nii.gz"]
    volume, slices = map(volumes.read_labels, files)
    np.testing.assert_array_equal(volume.voxels, slices.voxels)
    assert (slices.spacing, slices.units, slices.oriented) == ((1.0, 1.0, 1.0), "voxel", False)


def test_several_runs_segment_by_the_mean_of_their_probabilities(runs, image, tmp_path):
    one, two, both = (probabilities(image, tmp_path / "out", *some) for some in (runs[:1], runs[1:], runs))
    assert abs(one - two).max() > 0.01
    np.testing.assert_allclose(both, (one + two) / 2, atol=1e-6)


@pytest.mark.parametrize(("key", "value"), [("axis", 1), ("channels", 2), ("classes", {"RV": 1})])
def test_runs_that_do_not_fit_are_refused(runs, altered, image, tmp_path, key, value):
    with pytest.raises(Refused, match=rf"--workdir: .*altered has data.{key} .*{runs[0]} .*; they must agree"):
        predict.predict([runs[0], altered(key, value)], image, tmp_path / "out")


def test_slices_lie_across_the_axis_of_the_run(altered, image, tmp_path):
    """The network sees the volume as it is cut for training, and the answer lies on the file's own grid."""
    workdir = altered("axis", 0)
    found = probabilities(image, tmp_path / "out", workdir)
    segmenter, variables, _ = inference.load(workdir, branch="student")
    volume = volumes.read_image(image).voxels
    expected = segmenter.probabilities(variables, np.moveaxis(volume, 2, 0))["student"]
    np.testing.assert_allclose(found, np.moveaxis(expected, 0, 2), atol=1e-6)


def test_images_of_other_channels_are_refused(runs, image, tmp_path):
    two = np.random.default_rng(0).random((8, 9, 3, 2), np.float32)
    nib.save(nib.Nifti1Image(two, np.eye(4)), tmp_path / "two.nii.gz")
    with pytest.raises(Refused, match=r"two\.nii\.gz: has 2 channels, the run was trained on 1"):
        predict.predict(runs[:1], tmp_path / "two.nii.gz", tmp_path / "out")
