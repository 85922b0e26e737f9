"""Runs predict with what they selected: their branches, and the components that all of them keep."""

import dataclasses
import shutil

from etils import epath
import nibabel as nib
import numpy as np
import pytest

from files import save
from maps import speckled_slabs
import msl_jax
from msl_jax.data.formats import volumes
from msl_jax.errors import InputError
from msl_jax.inference.components import largest_components
from msl_jax.inference.ensemble import Ensemble
from msl_jax.inference.files import predict
from msl_jax.inference.segmenter import Segmenter
from msl_jax.inference.temperature import scaled
from msl_jax.runs import selection
from msl_jax.runs.config import read_config
from msl_jax.system import machine

SPACING = (8, 1.4, 1.4)


@pytest.fixture
def select(untrained, tmp_path):
    """select(name, branch, teacher, student, temperature) -> a copy of an untrained run with this selection."""

    def make(name, branch, teacher=(), student=(), temperature=None):
        folder = epath.Path(shutil.copytree(untrained("method=kl_ent,classes=all"), tmp_path / name))
        chosen = selection.undecided(read_config(folder), 1)
        largest = {"teacher": teacher, "student": student}
        chosen = dataclasses.replace(chosen, branch=branch, largest_component=largest, temperature=temperature or {})
        selection.write(chosen, folder)
        return folder

    return make


@pytest.fixture
def image(phantoms):
    """float32 (slice, y, x)."""
    return phantoms.case(phantoms.entries[0]).image[..., 0]


def test_every_run_has_its_own_branch_and_all_must_agree_on_components(select):
    runs = [select("a", "teacher", ("RV", "LV"), ("MYO",)), select("b", "student", ("RV", "MYO"), ("LV", "MYO"))]
    both = Ensemble(runs)
    assert both.branches() == ["teacher", "student"] and both.branches("student") == ["student", "student"]
    assert both.selected_structures() == ["LV"]
    assert (both.selected_structures("teacher"), both.selected_structures("student")) == (["RV"], ["MYO"])
    assert Ensemble(runs[:1]).selected_structures() == ["RV", "LV"]


def test_components_of_the_selected_structures_alone_are_removed(select):
    """RV has the value 1, LV the value 3; both have a speck beside the structure."""
    labels = np.zeros((2, 3, 8), np.uint8)
    labels[:, :, :2], labels[0, 0, 3] = 1, 1
    labels[:, :, 5:7], labels[1, 0, 7], labels[0, 2, 3] = 3, 3, 3
    expected = labels.copy()
    expected[0, 2, 3] = 0
    ensemble = Ensemble([select("a", "teacher", ("LV",))])
    assert ensemble.configs[0].data.classes.to_dict() == {"RV": 1, "MYO": 2, "LV": 3}
    np.testing.assert_array_equal(ensemble.keep_largest(labels, ensemble.selected_structures()), expected)
    np.testing.assert_array_equal(ensemble.keep_largest(labels, ensemble.selected_structures("student")), labels)


@pytest.mark.parametrize("branch", [None, "teacher", "student"])
def test_files_and_arrays_are_segmented_as_selected(select, image, tmp_path, monkeypatch, capfd, branch):
    """The teacher is selected, with the largest component of RV; --branch and --largest_component overrule."""
    monkeypatch.setattr(machine, "set_up", lambda: None)
    monkeypatch.setattr(Segmenter, "slabs", speckled_slabs)
    run, path = select("a", "teacher", ("RV",)), save(tmp_path / "a.nii.gz", image, SPACING[::-1])

    def predicted(**options):
        (written,) = predict([run], path, tmp_path / "out", branch=branch, overwrite=True, **options)
        return volumes.read_labels(written).voxels

    every, selected = predicted(largest_component=False), predicted()
    said = capfd.readouterr().out
    uses_teacher = branch != "student"
    assert (f"{run}: predicts with the teacher (not chosen by validation)" in said) == (branch is None)
    assert ("largest component of RV" in said) == uses_teacher
    np.testing.assert_array_equal(selected, largest_components(every, [1]) if uses_teacher else every)
    np.testing.assert_array_equal(predicted(largest_component=True), largest_components(every))
    np.testing.assert_array_equal(msl_jax.load(run).predict(image, spacing=SPACING, branch=branch), selected)
    assert (every != largest_components(every, [1])).any(), "there is nothing to remove"


def test_calibrated_probabilities_are_those_of_each_run_at_its_temperature(select, image, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "set_up", lambda: None)
    runs = [select("a", "teacher", temperature={"teacher": 2.0}), select("b", "student", temperature={"student": 0.5})]
    of_a, of_b = (msl_jax.load(run).probabilities(image, spacing=SPACING) for run in runs)
    mean = (scaled(of_a, 2.0) + scaled(of_b, 0.5)) / 2
    found = msl_jax.load(runs).probabilities(image, spacing=SPACING, calibrated=True)
    np.testing.assert_allclose(found, mean, atol=1e-6)
    path = save(tmp_path / "a.nii.gz", image, SPACING[::-1])
    written = {}
    for calibrated in (False, True):
        folder = tmp_path / str(calibrated)
        predict(runs[:1], path, folder, save_probabilities=True, calibrated=calibrated)
        written[calibrated] = [nib.load(folder / name).get_fdata() for name in ("a.nii.gz", "a_prob.nii.gz")]
    np.testing.assert_array_equal(written[True][0], written[False][0])
    np.testing.assert_allclose(written[True][1], scaled(written[False][1].astype(np.float32), 2.0), atol=1e-6)
    with pytest.raises(InputError, match=r"a: has no temperature of the student; .* do not ask for calibrated"):
        predict(runs[:1], path, tmp_path / "out", branch="student", save_probabilities=True, calibrated=True)
    with pytest.raises(InputError, match=r"calibrated: has no effect on the label maps of a single run; "):
        predict(runs[:1], path, tmp_path / "out", calibrated=True)
    assert not (tmp_path / "out").exists()
