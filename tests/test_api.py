"""The Python API: the same voxels and files as the commands, and messages that name arguments."""

import csv
import importlib
import json
import pathlib
import shutil
import subprocess
import sys
import warnings

from etils import epath
from ml_collections import ConfigDict
import nibabel as nib
import numpy as np
import pytest

from files import save
import msl_jax
from msl_jax import api
from msl_jax.data.formats import volumes
from msl_jax.errors import OddInput
from msl_jax.inference.ensemble import Ensemble
from msl_jax.inference.files import predict
from msl_jax.inference.segmenter import joined, load_network
from msl_jax.settings.parsing import with_settings
from msl_jax.system import machine
from msl_jax.training.complete import train_and_evaluate
from processes import ROOT

SPACING = (8, 1.4, 1.4)


@pytest.fixture(autouse=True)
def unchanged_machine(monkeypatch):
    """Keeps XLA's flags from conftest."""
    monkeypatch.setattr(machine, "set_up", lambda: None)


@pytest.fixture(scope="module")
def image(phantoms):
    """float32 (slice, y, x), intensities as stored."""
    return phantoms.case(phantoms.entries[0]).image[..., 0]


@pytest.fixture(scope="module")
def drawn(untrained):
    """Two untrained runs with student and teacher."""
    return [untrained("method=kl_ent,seed=0"), untrained("method=kl_ent,seed=1")]


# The package


def test_importing_the_package_imports_neither_jax_nor_tensorflow():
    code = (
        "import sys, msl_jax\n"
        "assert msl_jax.InputError and {'train', 'load', 'evaluate', 'Run', 'InputError'} <= set(dir(msl_jax))\n"
        "assert not {'jax', 'tensorflow', 'numpy', 'flax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        _ = msl_jax.segment


def test_the_command_does_not_replace_the_function_of_its_name():
    command = importlib.import_module("msl_jax.evaluate")
    assert command.__name__ == "msl_jax.evaluate" and msl_jax.evaluate is api.evaluate


# Prediction


@pytest.mark.parametrize("branch", [None, "teacher"])
def test_an_array_is_segmented_as_the_command_segments_the_file(drawn, image, tmp_path, branch):
    path = save(tmp_path / "a.nii.gz", image, SPACING[::-1])
    (written,) = predict([drawn[0]], path, tmp_path / "out", branch=branch, save_probabilities=True)
    run = msl_jax.load(str(drawn[0]))
    labels = run.predict(image, spacing=SPACING, branch=branch)
    assert labels.dtype == np.uint8 and labels.shape == image.shape
    np.testing.assert_array_equal(labels, volumes.read_labels(written).voxels)
    probabilities = run.probabilities(image, spacing=SPACING, branch=branch)
    assert probabilities.dtype == np.float32 and probabilities.shape == (*image.shape, 2)
    stored = volumes.read_image(tmp_path / "out" / "a_prob.nii.gz").voxels
    np.testing.assert_array_equal(probabilities, stored)


def test_an_array_has_the_orientation_of_the_training_slices(drawn, image, tmp_path):
    """In any orientation: a file is reoriented, an array is not."""
    directions = np.array([[0, 0, -1.0], [0, 1, 0], [1, 0, 0]])
    folder = epath.Path(tmp_path / "run")
    config = json.loads((drawn[0] / "config.json").read_text())
    config["data"]["directions"] = directions.tolist()
    for path in drawn[0].iterdir():
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / path.name).symlink_to(path)
    (tmp_path / "run" / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    plain, turned = (msl_jax.load(path).probabilities(image, spacing=SPACING) for path in (drawn[0], folder))
    np.testing.assert_array_equal(plain, turned)
    affine = np.eye(4)
    affine[:3, :3] = (directions * np.array(SPACING)[:, None])[::-1].T
    nib.save(nib.Nifti1Image(image.T, affine), tmp_path / "a.nii")
    (written,) = predict([folder], tmp_path / "a.nii", tmp_path / "out")
    labels = msl_jax.load(folder).predict(image, spacing=SPACING)
    np.testing.assert_array_equal(volumes.read_labels(written).voxels, labels)


def test_several_runs_give_the_mean_of_their_probabilities(drawn, image):
    each = []
    for folder in drawn:
        segmenter, variables, _ = load_network(folder)
        each.append(segmenter.probabilities(variables, image[..., None], SPACING)["student"])
    run = msl_jax.load(drawn)
    np.testing.assert_array_equal(run.probabilities(image, spacing=SPACING), np.mean(each, axis=0))
    np.testing.assert_array_equal(run.predict(image, spacing=SPACING), 3 * np.mean(each, axis=0).argmax(-1))


def test_every_branch_of_several_runs_is_averaged(drawn, image):
    voxels = image[..., None]
    ensemble = Ensemble(drawn)
    found = joined(ensemble.slabs_by_branch(voxels, SPACING, ensemble.turns_of_slices()))
    each = [load_network(folder) for folder in drawn]
    each = [segmenter.probabilities(variables, voxels, SPACING) for segmenter, variables, _ in each]
    assert list(found) == ["teacher", "student"]
    for branch, probabilities in found.items():
        np.testing.assert_array_equal(probabilities, np.mean([one[branch] for one in each], axis=0))


def test_a_network_is_read_once_and_not_before_it_is_used(drawn, image, monkeypatch):
    calls = []

    def counted(*args):
        calls.append(args)
        return load_network(*args)

    monkeypatch.setattr("msl_jax.inference.ensemble.load_network", counted)
    run = msl_jax.load(drawn[0])
    assert run.config.method.name == "kl_ent" and not calls
    for branch in ("student", "teacher", None):
        run.probabilities(image, spacing=SPACING, branch=branch)
    assert len(calls) == 1


def test_a_channel_axis_of_one_and_other_number_types_are_the_same_image(drawn, image):
    run = msl_jax.load(drawn[0])
    whole = image.astype(np.int16)
    one, other = (run.predict(same, spacing=SPACING) for same in (whole, whole[..., None].astype(np.float64)))
    np.testing.assert_array_equal(one, other)


def test_a_run_without_a_student_predicts_by_the_teacher(untrained, image):
    run = msl_jax.load(untrained("method=single"))
    one, other = (run.probabilities(image, spacing=SPACING, branch=branch) for branch in (None, "teacher"))
    np.testing.assert_array_equal(one, other)
    with pytest.raises(msl_jax.InputError, match=r"^branch: is 'student', but .* trains teacher"):
        run.predict(image, spacing=SPACING, branch="student")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image.tolist(), "image: is of type list"),
        (lambda image: image[0], "image: has 2 axes"),
        (lambda image: image[None, None], "image: has 5 axes"),
        (lambda image: np.stack([image] * 2, -1), "image: has 2 channels, the run was trained on 1"),
        (lambda image: image[:0], "image: has shape .* has no voxel"),
        (lambda image: image.astype(str), "image: has values of type"),
        (lambda image: image.astype(complex), "image: has values of type complex"),
        (lambda image: np.where(image > image.mean(), np.nan, image), "image: the image contains NaN"),
        (lambda image: image.astype(np.float64) * np.inf, "image: the image contains NaN or infinite"),
        (lambda image: np.zeros_like(image), "image: every voxel has the same value"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_invalid_images_are_refused(drawn, image, change, message):
    with pytest.raises(msl_jax.InputError, match=f"^{message}"):
        msl_jax.load(drawn[0]).predict(change(image), spacing=SPACING)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, -2), (1, 1, np.nan), (1, 1, np.inf), 1.5, "mm"])
def test_a_wrong_spacing_is_refused(drawn, image, spacing):
    with pytest.raises(msl_jax.InputError, match=r"^spacing: is "):
        msl_jax.load(drawn[0]).predict(image, spacing=spacing)
    with pytest.raises(msl_jax.InputError, match=r"^spacing: is "):
        msl_jax.evaluate(CUBE, CUBE, {"A": 1}, spacing)


def test_only_runs_that_need_no_spacing_do_without(drawn, image, tmp_path):
    """A run that stretches its slices, or takes them as they are, ignores the voxel size."""
    with pytest.raises(msl_jax.InputError, match=r"^spacing: is missing, .* pixels of \d[\d.]* x \d"):
        msl_jax.load(drawn[0]).predict(image)
    folders = [with_spacing(drawn[0], tmp_path / spacing, spacing) for spacing in ("stretch", "native")]
    for run in map(msl_jax.load, folders):
        np.testing.assert_array_equal(run.predict(image), run.predict(image, spacing=(3, 2, 1)))
    with pytest.raises(msl_jax.InputError, match=r"^spacing: is missing"):
        msl_jax.load([folders[0], drawn[0]]).predict(image)


def with_spacing(run, folder, spacing):
    """A copy of a run with another data.spacing."""
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    config["data"]["spacing"] = spacing
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_unknown_branch_is_refused(drawn, image):
    with pytest.raises(msl_jax.InputError, match=r"^branch: is 'both', but .* trains teacher and student"):
        msl_jax.load(drawn).probabilities(image, spacing=SPACING, branch="both")


def test_folders_without_a_run_or_with_different_runs_are_refused(drawn, untrained, tmp_path):
    for workdir, message in (
        (tmp_path, "config.json: is missing"),
        ([], "^workdir: is empty"),
        ("", "^workdir: is empty"),
        ([3], "^workdir: is of type int"),
        ([drawn[0], untrained("classes=all")], "^workdir: .* has data.classes .* they must agree"),
    ):
        with pytest.raises(msl_jax.InputError, match=message):
            msl_jax.load(workdir)


# Training


@pytest.fixture(scope="module")
def trained(tiny_config, tmp_path_factory):
    """The config of a run, its folder, the run, and its metrics.csv after the first half, trained by the command."""
    folder = tmp_path_factory.mktemp("api") / "run"
    config = tiny_config("method=kl_ent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "set_up", lambda: None)
        train_and_evaluate(with_settings(config, {"train.steps": 2}, "config"), epath.Path(folder))
        half = (folder / "metrics.csv").read_text()
        run = msl_jax.train(config, str(folder))
    return config, folder, run, half


def test_training_resumes_a_run(trained):
    config, folder, run, half = trained
    assert config.train.steps == 4 and not config.is_locked, "the caller's config changed"
    text = (folder / "metrics.csv").read_text()
    assert text.startswith(half) and run.history["step"].tolist() == [1, 2, 3, 4]
    assert [path.name for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()]


def test_a_run_predicts_with_the_branch_that_was_better_in_validation(trained, image):
    chosen = json.loads((trained[1] / "selection.json").read_text())
    assert chosen["validation_dice"][chosen["branch"]] == max(chosen["validation_dice"].values())
    found = [trained[2].probabilities(image, spacing=SPACING, branch=branch) for branch in (None, chosen["branch"])]
    np.testing.assert_array_equal(*found)


def test_a_run_returns_the_content_of_its_files(trained):
    _, folder, run, _ = trained
    assert run.workdirs == (epath.Path(folder),) and repr(run) == f"msl_jax.load({str(folder)!r})"
    assert run.splits == json.loads((folder / "splits.json").read_text())
    assert run.results == json.loads((folder / "results" / "test.json").read_text())
    assert json.loads(run.config.to_json()) == json.loads((folder / "config.json").read_text())
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(run.history) == list(rows[0])
    for column, values in run.history.items():
        expected = [float(row[column]) if row[column] else np.nan for row in rows]
        np.testing.assert_array_equal(values, expected)


def test_missing_files_and_files_of_several_runs_are_errors(drawn):
    alone, both = msl_jax.load(drawn[0]), msl_jax.load(drawn)
    assert alone.history == {} and both.config.seed == 0
    with pytest.raises(msl_jax.InputError, match=r"test\.json: is missing"):
        _ = alone.results
    for name in ("splits", "history", "results"):
        with pytest.raises(msl_jax.InputError, match=r"^workdir: 2 runs were loaded"):
            getattr(both, name)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        ("nowhere", {}, "^config=nowhere: there is no file nowhere; give a file, or one of acdc, "),
        ("phantom:strong", {}, "^config=phantom:strong: 'strong' in the config's ARG"),
        ("phantom:steps=many", {}, "^config=phantom:steps=many: .* give a whole number"),
        (3, {}, "^config: is of type int"),
        (ConfigDict({"seed": 1, "sed": 2}), {}, "^config: unknown or missing settings: "),
        ("phantom", {"data.sorce": "x"}, r"^data\.sorce: there is no such setting"),
        ("phantom", {"data": {}}, r"^data: is a group of settings; set each one separately, like data\."),
        ("phantom", {"train.keep": "ten"}, r"^train\.keep: is 'ten'; give a value of the default's type"),
        ("phantom", {"train.steps": 0}, r"^config\.train\.steps: is 0"),
    ],
)
def test_invalid_configs_are_refused(tmp_path, config, settings, message):
    with pytest.raises(msl_jax.InputError, match=message):
        msl_jax.train(config, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_config_files_with_args_and_paths_of_any_type(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("msl_jax.api.train_and_evaluate", lambda config, folder: given.append((config, folder)))
    monkeypatch.setattr("msl_jax.api.Run", lambda folders: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = ROOT / "configs" / "phantom.py"
    for config, workdir, settings in (
        (f"{file}:seed=7", "~/run", {"data.source": "patients=9"}),
        (file, pathlib.Path("~/run"), {"seed": 7, "data.source": pathlib.Path("patients=9")}),
        ("phantom:seed=7", tmp_path / "run", {"data.source": "patients=9"}),
    ):
        msl_jax.train(config, workdir, **settings)
    first, *others = given
    assert (first[0].seed, first[0].data.source, first[1]) == (7, "patients=9", epath.Path(tmp_path / "run"))
    for config, folder in others:
        assert config.to_json() == first[0].to_json() and folder == first[1]


# Scores

CUBE = np.zeros((4, 8, 8), np.uint8)
CUBE[1:3, 2:6, 2:6] = 3


def quiet(*args, **settings):
    """Scores and warnings."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", OddInput)
        return msl_jax.evaluate(*args, **settings), [str(one.message) for one in found]


def test_scores_are_closed_forms():
    """A cube shifted by one voxel of 2 mm in y: Dice 3/4; the surfaces are 2 mm apart, or 0 if they coincide."""
    moved = np.roll(CUBE, 1, axis=1)
    scores, messages = quiet(moved, CUBE, labels={"LV": 3}, spacing=(8, 2, 2))
    assert list(scores) == ["LV"] and not messages
    # In each slice and direction all 4 x 4 voxels are surface, as the cube is two slices thick; 4 of them are 2 mm off.
    assert scores["LV"] == {"dice": 0.75, "hd95": 2.0, "assd": 0.5}


def test_same_maps_of_any_whole_number_type_are_perfect():
    scores, _ = quiet(CUBE.astype(np.float64), CUBE.astype(np.int64), {"LV": np.int64(3)}, SPACING)
    assert scores == {"LV": {"dice": 1.0, "hd95": 0.0, "assd": 0.0}}


def test_a_structure_that_is_missing_has_no_distances():
    scores, messages = quiet(np.zeros_like(CUBE), CUBE, {"LV": 3, "RV": 1}, SPACING)
    assert (scores["LV"]["dice"], scores["RV"]["dice"]) == (0.0, 1.0)
    assert np.isnan([scores[name][metric] for name in scores for metric in ("hd95", "assd")]).all()
    assert len(messages) == 1 and messages[0].startswith(
        "labels: neither prediction nor reference has the value 1 of RV"
    )


def test_unknown_values_give_a_warning():
    reference, prediction = CUBE.copy(), CUBE.copy()
    reference[0], prediction[3] = 2, 7
    _, messages = quiet(prediction, reference, {"LV": 3}, SPACING)
    assert [one.partition(",")[0] for one in messages] == [
        "reference: also has the values [2]",
        "prediction: also has the values [7]",
    ]


@pytest.mark.parametrize(("value", "settings"), [(255, {}), (4, {"unlabeled": 4})])
def test_unlabelled_voxels_of_the_reference_are_not_scored(value, settings):
    reference, prediction = CUBE.copy(), CUBE.copy()
    reference[0], prediction[0] = value, 3
    scores, messages = quiet(prediction, reference, {"LV": 3}, SPACING, **settings)
    assert scores["LV"]["dice"] == 1.0 and not messages


@pytest.mark.parametrize(
    ("prediction", "reference", "settings", "message"),
    [
        (CUBE[1:], CUBE, {}, "prediction: has shape"),
        (CUBE.tolist(), CUBE, {}, "prediction: is of type list"),
        (CUBE[0], CUBE[0], {}, "prediction: has 2 axes"),
        (CUBE, CUBE + 0.5, {}, "reference: contains 0.5"),
        (CUBE, CUBE.astype(np.int16) - 1, {}, "reference: contains -1"),
        (CUBE, np.where(CUBE, np.nan, 0), {}, "reference: contains nan"),
        (CUBE, np.full_like(CUBE, 255), {}, "reference: every voxel is unlabelled"),
        (CUBE, CUBE, {"labels": {}}, "labels: is {}"),
        (CUBE, CUBE, {"labels": "LV=3"}, "labels: is 'LV=3'"),
        (CUBE, CUBE, {"labels": {"LV": 0}}, "labels: LV has the value 0"),
        (CUBE, CUBE, {"labels": {"LV": 256}}, "labels: LV has the value 256"),
        (CUBE, CUBE, {"labels": {"LV": 1.0}}, "labels: LV has the value 1.0"),
        (CUBE, CUBE, {"labels": {"LV": 3, "RV": 3}}, "labels: .* gives two structures the same value"),
        (CUBE, CUBE, {"unlabeled": 3}, "labels: 3 is both a structure and the value of unlabelled voxels"),
        (CUBE, CUBE, {"unlabeled": 256}, "unlabeled: is 256"),
    ],
)
def test_invalid_label_maps_are_refused(prediction, reference, settings, message):
    with pytest.raises(msl_jax.InputError, match=f"^{message}"):
        msl_jax.evaluate(prediction, reference, **{"labels": {"LV": 3}, "spacing": SPACING, **settings})
