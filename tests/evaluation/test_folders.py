"""Folders of label maps, compared file by file."""

import warnings

import nibabel as nib
import numpy as np
import pytest

from files import assert_input_error, save
from msl_jax.errors import OddInput
from msl_jax.evaluation.folders import evaluate_folders

SHAPE = (3, 8, 9)
MASK = np.zeros(SHAPE, np.uint8)
MASK[:, 2:6, 3:7] = 1


@pytest.fixture
def folders(tmp_path):
    """make(predictions, references) -> the two folders; both arguments are name -> voxels."""

    def make(predictions, references):
        for folder, files in (("predictions", predictions), ("references", references)):
            for name, voxels in files.items():
                save(tmp_path / folder / f"{name}.nii.gz", voxels)
        return tmp_path / "predictions", tmp_path / "references"

    return make


def scored(folders, *, labels=None, **settings):
    """Dice and HD95 of the structure, the number of cases, and the warnings."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", OddInput)
        summary, _ = evaluate_folders(*folders, labels or {"A": 1}, **settings)
    values = summary["branches"]["prediction"]["A"]
    return values["dice"]["mean"], values["hd95"]["mean"], summary["cases"], [str(one.message) for one in found]


@pytest.mark.parametrize(("value", "settings"), [(255, {}), (4, {"unlabeled": 4}), (0, {"unlabeled": 0})])
def test_unlabelled_voxels_are_not_scored(folders, value, settings):
    """The prediction is correct on labelled voxels and has structure on unlabelled ones."""
    reference, prediction = MASK.copy(), MASK.copy()
    reference[:, :3], prediction[:, :3] = value, 1
    if value == 0:
        reference[reference == 0], prediction[:] = 0, 1
    assert scored(folders({"x": prediction}, {"x": reference}), **settings) == (1.0, 0.0, 1, [])


def test_unlabelled_voxels_of_an_unknown_value_give_a_warning(folders):
    reference, prediction = MASK.copy(), MASK.copy()
    reference[:, :3], prediction[:, :3] = 4, 1
    dice, _, _, (warning,) = scored(folders({"x": prediction}, {"x": reference}))
    assert dice == pytest.approx(2 * 36 / (36 + 36 + 3 * 27))
    assert "the values [4], which count as background" in warning and "--unlabeled" in warning


def test_a_reference_without_labelled_voxels_is_left_out(folders):
    """It does not count as a case with two empty masks and a Dice of 1."""
    wrong = np.roll(MASK, 4, axis=2)
    dice, _, cases, (warning,) = scored(
        folders({"x": wrong, "y": MASK}, {"x": MASK, "y": np.full(SHAPE, 255, np.uint8)}), labels={"A": 1}
    )
    assert (dice, cases) == (0.0, 1)
    assert warning.startswith("1 reference without any labelled voxel, not scored: y;")


def test_unknown_values_of_predictions_give_a_warning(folders):
    dice, _, _, (warning,) = scored(folders({"x": MASK * np.uint8(255)}, {"x": MASK}))
    assert dice == 0 and warning.startswith("The predictions contain the values [255], which count as background;")


def test_predictions_may_have_another_orientation_than_references(folders):
    both = folders({"x": MASK}, {"x": MASK})
    path = both[0] / "x.nii.gz"
    nib.save(nib.load(path).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]])), path)
    assert nib.load(path).shape != SHAPE[::-1] and scored(both) == (1.0, 0.0, 1, [])


def test_255_may_be_a_structure(folders):
    both = folders({"x": MASK * np.uint8(255)}, {"x": MASK * np.uint8(255)})
    assert scored(both, labels={"A": 255}) == (1.0, 0.0, 1, [])
    assert_input_error(lambda: evaluate_folders(*both, {"A": 255}, unlabeled=255), "give another value as --unlabeled")


def test_references_without_a_prediction_are_named(folders):
    dice, _, cases, (warning,) = scored(
        folders({"x": MASK}, {"x_gt": MASK, "y_gt": MASK, "z_gt": MASK, "z": MASK}), suffix="_gt"
    )
    assert (dice, cases) == (1.0, 1)
    assert warning.startswith("2 references without a prediction") and "y_gt, z_gt;" in warning


def test_probabilities_are_skipped_only_beside_their_label_map(folders):
    probabilities = np.zeros((*SHAPE, 2), np.float32)
    both = folders({"x": MASK, "x_prob": probabilities, "y_prob": MASK}, {"x": MASK, "y_prob": MASK})
    assert scored(both) == (1.0, 0.0, 2, [])


def bare(path, sizes):
    """A mask without a unit; nibabel writes an s-form."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(MASK.T, np.diag([*sizes, 1])), path)


def test_one_case_of_size_1_without_a_unit_does_not_stop_the_others(tmp_path):
    for folder in ("predictions", "references"):
        bare(tmp_path / folder / "x.nii.gz", (1, 1, 1))
        save(tmp_path / folder / "y.nii.gz", MASK)
    summary, _ = evaluate_folders(tmp_path / "predictions", tmp_path / "references", {"A": 1})
    assert (summary["units"], summary["cases"]) == ("mm", 2)
    bare(tmp_path / "predictions" / "y.nii.gz", (1, 1, 1))
    bare(tmp_path / "references" / "y.nii.gz", (1, 1, 1))
    assert evaluate_folders(tmp_path / "predictions", tmp_path / "references", {"A": 1})[0]["units"] == "voxel"
