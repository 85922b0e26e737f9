"""The commands as a user types them, on phantoms, in processes of their own."""

import csv
import itertools
import json
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import time

from absl import app, flags, logging
import jax
import nibabel as nib
import numpy as np
import pytest

from msl_jax import calibration, machine

ROOT = pathlib.Path(__file__).parents[1]
STRUCTURES = {"LV": 3}
STEPS = 12


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    """What the processes inherit: one device, and the programs that an earlier one compiled."""
    assert jax.device_count() == 4  # those of this process are settled before its environment changes
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XLA_FLAGS")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("programs")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


def start(name, *argv):
    command = [sys.executable, "-m", f"msl_jax.{name}", *map(str, argv)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process):
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(name, *argv):
    done = finished(start(name, *argv))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def settings(cache, phantoms):
    """Flags that shrink the phantom experiment to seconds."""
    values = {
        "data.source": "patients=8,seed=0",
        "data.cache": cache,
        "data.split_sizes": "((5,1,2),)",
        "data.size": 32,
        "model.width": 2,
        "model.depth": 3,
        "train.steps": STEPS,
        "train.report_every": 3,
        "train.checkpoint_every": 2,
        "train.validate_every": 6,
        "optimizer.learning_rate": 0.01,
        "method.terms.w": 1.0,
    }
    return ["--config=configs/phantom.py:method=kl_ent,strong=2,seed=1"] + [
        f"--config.{key}={value}" for key, value in values.items()
    ]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, settings):
    """A run that was trained and evaluated."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run("main", *settings, f"--workdir={folder}")
    return folder


@pytest.fixture(scope="module")
def summary(workdir):
    return json.loads((workdir / "results" / "test.json").read_text())


@pytest.fixture(scope="module")
def hospital(tmp_path_factory, workdir, phantoms):
    """The test cases as NIfTI files: images in a folder a patient, references NAME_gt beside each other elsewhere."""
    folder = tmp_path_factory.mktemp("hospital")
    (folder / "references").mkdir()
    patients = json.loads((workdir / "splits.json").read_text())["test"]
    for index, entry in enumerate(phantoms.of_patients(patients)):
        case = phantoms.case(entry)
        affine = np.diag([*case.spacing[::-1], 1.0])
        affine[:3, 3] = (10 * index, -20, 30.5)
        if index == 0:
            affine[:2] = -affine[:2]
        image = folder / "images" / case.patient / f"{case.name}.nii.gz"
        image.parent.mkdir(parents=True, exist_ok=True)
        for path, volume in ((image, case.image), (folder / "references" / f"{case.name}_gt.nii.gz", case.mask)):
            file = nib.Nifti1Image(volume.T, affine)
            file.header.set_xyzt_units("mm")
            nib.save(file, path)
    return folder


@pytest.fixture(scope="module")
def predicted(tmp_path_factory, workdir, hospital):
    folder = tmp_path_factory.mktemp("predicted") / "new"
    out = run(
        "predict", f"--workdir={workdir}", f"--input={hospital}/images", f"--output={folder}", "--save_probabilities"
    )
    return folder, out


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


# main


def test_a_runs_folder_holds_what_it_should(workdir):
    names = {path.name for path in workdir.iterdir()}
    assert {"config.json", "splits.json", "checkpoints", "metrics.csv", "results"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert {"test.json", "test.csv", "overlays"} <= {path.name for path in (workdir / "results").iterdir()}
    assert not [name for name in names if name.startswith(".")]


def test_the_config_is_that_of_the_command(workdir):
    config = json.loads((workdir / "config.json").read_text())
    assert (config["seed"], config["data"]["strong"], config["method"]["name"]) == (1, 2, "kl_ent")
    assert config["data"]["classes"] == STRUCTURES and config["model"]["width"] == 2
    assert all(isinstance(weight, float) for weight in config["method"]["terms"].values())
    assert config["method"]["kd_on"] in ("strong", "weak", "both")


def test_the_split_is_written(workdir):
    roles = json.loads((workdir / "splits.json").read_text())
    sizes = {role: len(patients) for role, patients in roles.items()}
    assert sizes == {"train": 5, "validation": 1, "test": 2, "strong": 2, "weak": 3}


def test_metrics_hold_a_row_a_report_and_no_clock(workdir):
    rows = table(workdir / "metrics.csv")
    dice = ["validation_dice_teacher", "validation_dice_student"]
    assert list(rows[0]) == ["step", "learning_rate", "loss", "s", "w", "kd", "ent", *dice]
    assert [int(row["step"]) for row in rows] == [3, 6, 9, 12]
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    assert [row["validation_dice_student"] != "" for row in rows] == [False, True, False, True]


def test_results_are_in_the_designs_format(summary):
    assert set(summary) == {"units", "checkpoint", "branches", "cases", "patients", "calibration"}
    assert (summary["units"], summary["checkpoint"], summary["cases"], summary["patients"]) == ("mm", "last", 4, 2)
    assert set(summary["branches"]) == {"teacher", "student"}
    for structures in summary["branches"].values():
        assert set(structures) == set(STRUCTURES)
        for values in structures.values():
            assert set(values) == {"dice", "hd95", "assd", "empty"}
            assert all(set(values[metric]) == {"mean", "std"} for metric in ("dice", "hd95", "assd"))
            assert 0 <= values["dice"]["mean"] <= 1 and values["empty"] in range(5)


def test_results_hold_the_calibration_of_every_branch(summary, workdir, phantoms):
    cases = phantoms.of_patients(json.loads((workdir / "splits.json").read_text())["test"])
    voxels = sum(phantoms.case(case).mask.size for case in cases)
    assert list(summary["calibration"]) == ["teacher", "student"]
    for values in summary["calibration"].values():
        assert sum(values["reliability"]["all"]["count"]) == voxels
        assert 0 < values["ece"] < 1 and 0 < values["entropy"]["background"] < np.log(2)
        assert 0.5 <= values["confidence_where_wrong"] <= 1


def test_the_table_has_a_row_for_every_case_and_branch(workdir, summary):
    rows = table(workdir / "results" / "test.csv")
    assert list(rows[0]) == ["case", "patient", "branch", "LV_dice", "LV_hd95", "LV_assd"]
    assert len({(row["case"], row["branch"]) for row in rows}) == len(rows) == 4 * 2
    assert {row["patient"] for row in rows} == set(json.loads((workdir / "splits.json").read_text())["test"])
    for branch, structures in summary["branches"].items():
        dice = [float(row["LV_dice"]) for row in rows if row["branch"] == branch]
        assert structures["LV"]["dice"]["mean"] == pytest.approx(np.mean(dice))
        empty = sum(row["LV_hd95"] == "" for row in rows if row["branch"] == branch)
        assert structures["LV"]["empty"] == empty


def test_pictures_are_drawn(workdir):
    pictures = sorted((workdir / "results" / "overlays").iterdir())
    assert [picture.name.split("_")[0] for picture in pictures] == ["best", "median", "worst"]
    for picture in [*pictures, *(workdir / "results" / name for name in ("calibration.png", "curves.png"))]:
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_killed_run_goes_on_to_the_same_end(settings, workdir, tmp_path):
    """SIGKILL once the first checkpoint lies there; the same command again ends where the undisturbed run ended."""
    killed = pathlib.Path(os.path.relpath(tmp_path / "run"))
    process = start("main", *settings, f"--workdir={killed}")
    try:
        while not any(path.name.isdecimal() for path in (killed / "checkpoints").glob("*")):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
    finally:
        process.kill()
    assert finished(process).returncode == -signal.SIGKILL
    assert not (killed / "results").exists()
    assert (killed / "metrics.csv").read_bytes() != (workdir / "metrics.csv").read_bytes()
    run("main", *settings, f"--workdir={killed}")
    assert_same_run(killed, workdir)


@pytest.mark.soak
@pytest.mark.parametrize("seconds", np.random.default_rng(0).uniform(2, 40, 6).round(1).tolist())
def test_a_run_killed_at_any_moment_goes_on_to_the_same_end(settings, workdir, tmp_path, seconds):
    killed = tmp_path / "run"
    process = start("main", *settings, f"--workdir={killed}")
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    finished(process)
    run("main", *settings, f"--workdir={killed}")
    assert_same_run(killed, workdir)


def assert_same_run(one, other):
    for name in ("metrics.csv", "splits.json", "config.json", "results/test.json", "results/test.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


# predict, evaluate


def test_predictions_mirror_the_input(predicted, hospital):
    images = {path.relative_to(hospital / "images") for path in (hospital / "images").rglob("*.nii.gz")}
    labels = {path.relative_to(predicted[0]) for path in predicted[0].rglob("*") if path.is_file()}
    assert len(images) == 4 and len({path.parent for path in images}) == 2
    probabilities = {path.with_name(path.name.replace(".nii.gz", "_prob.nii.gz")) for path in images}
    assert labels == images | probabilities
    assert all(str(path) in predicted[1] for path in images) and "student" in predicted[1] and "LV=3" in predicted[1]


def test_predictions_lie_on_the_inputs_grid(predicted, hospital):
    for image_file in (hospital / "images").rglob("*.nii.gz"):
        image = nib.load(image_file)
        label = nib.load(predicted[0] / image_file.relative_to(hospital / "images"))
        assert label.shape == image.shape
        np.testing.assert_array_equal(label.affine, image.affine)
        assert label.header.get_zooms() == image.header.get_zooms()
        assert label.header.get_xyzt_units() == image.header.get_xyzt_units()
        values = np.asarray(label.dataobj)
        assert label.get_data_dtype() == values.dtype == np.uint8 and set(np.unique(values)) <= {0, 3}


def test_probabilities_are_those_of_the_labels(predicted):
    found = sorted(predicted[0].rglob("*_prob.nii.gz"))
    assert len(found) == 4
    for path in found:
        label = nib.load(path.with_name(path.name.replace("_prob", "")))
        probabilities = nib.load(path)
        assert probabilities.shape == (*label.shape, 2) and probabilities.get_data_dtype() == np.float32
        np.testing.assert_array_equal(probabilities.affine, label.affine)
        p = np.asarray(probabilities.dataobj)
        np.testing.assert_allclose(p.sum(-1), 1, atol=1e-5)
        np.testing.assert_array_equal(p.argmax(-1) * 3, np.asarray(label.dataobj))


def test_the_probabilities_are_as_calibrated_as_the_run_says(predicted, hospital, summary):
    """NIfTI out, compared as files: the calibration of the run's own test split."""
    cases = []
    for path in sorted(predicted[0].rglob("*_prob.nii.gz")):
        reference = nib.load(hospital / "references" / path.name.replace("_prob", "_gt"))
        probabilities = np.asarray(nib.load(path).dataobj).transpose(2, 1, 0, 3)
        cases.append(calibration.measure(probabilities, (np.asarray(reference.dataobj).T == 3).astype(int)))
    found, expected = calibration.summarise(calibration.total(cases)), summary["calibration"]["student"]
    assert found["entropy"] == pytest.approx(expected["entropy"], rel=1e-4)
    for name in ("ece", "ece_structure", "ece_predicted", "confidence_where_wrong"):
        assert found[name] == pytest.approx(expected[name], rel=1e-3), name


def test_evaluating_the_predictions_gives_the_runs_own_results(predicted, hospital, summary, workdir, tmp_path):
    """NIfTI in, NIfTI out and compared as files: the same figures as those of the run's own test split."""
    output = tmp_path / "deep" / "results.json"
    out = run(
        "evaluate",
        f"--predictions={predicted[0]}",
        f"--references={hospital}/references",
        "--labels=LV=3",
        "--reference_suffix=_gt",
        f"--output={output}",
    )
    results = json.loads(output.read_text())
    assert set(results) == set(summary) - {"calibration"} and results["units"] == "mm"
    assert (results["cases"], results["patients"]) == (summary["cases"], summary["patients"])
    assert set(results["branches"]) == {"prediction"}
    ours, theirs = results["branches"]["prediction"]["LV"], summary["branches"]["student"]["LV"]
    assert ours["empty"] == theirs["empty"] < results["cases"] and ours["dice"]["mean"] > 0
    for metric in ("dice", "hd95", "assd"):
        assert ours[metric] == pytest.approx(theirs[metric], rel=1e-5), metric
    rows = {row["case"]: row for row in table(output.with_suffix(".csv"))}
    students = [row for row in table(workdir / "results" / "test.csv") if row["branch"] == "student"]
    assert {name: float(row["LV_dice"]) for name, row in rows.items()} == pytest.approx(
        {row["case"]: float(row["LV_dice"]) for row in students}
    )
    assert "prediction" in out and "Dice" in out


def test_the_teacher_may_be_asked(workdir, hospital, predicted, tmp_path):
    image = next((hospital / "images").rglob("*.nii.gz"))
    probability = image.name.replace(".nii.gz", "_prob.nii.gz")
    flags = [f"--workdir={workdir}", f"--input={image}", f"--output={tmp_path}"]
    out = run("predict", *flags, "--branch=teacher", "--save_probabilities")
    assert {path.name for path in tmp_path.iterdir()} == {image.name, probability} and "teacher" in out
    teacher = np.asarray(nib.load(tmp_path / probability).dataobj)
    student_file = predicted[0] / image.relative_to(hospital / "images").with_name(probability)
    student = np.asarray(nib.load(student_file).dataobj)
    assert teacher.shape == student.shape and np.abs(teacher - student).max() > 0.01


# prepare


def test_prepare_says_who_is_who(settings, workdir):
    lines = run("prepare", *settings).splitlines()
    roles = json.loads((workdir / "splits.json").read_text())
    assert lines[0].startswith("16 cases of 8 patients")
    counts = {words[0]: int(words[1]) for words in map(str.split, lines) if words[0] in roles and words[1].isdecimal()}
    assert counts == {role: len(roles[role]) for role in ("strong", "weak", "validation", "test")}
    assert f"strong: {', '.join(roles['strong'])}" in lines


# Refusals


@pytest.fixture
def command(monkeypatch, capsys):
    """call(name, flags) -> exit code and standard error of a command run within this process, to save its start-up."""

    def call(name, *argv):
        monkeypatch.setattr(sys, "argv", [name, *map(str, argv)])
        try:
            runpy.run_path(str(ROOT / "msl_jax" / f"{name}.py"), run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().err

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(machine, "set_up", lambda: None)  # as conftest has it
    app.define_help_flags()
    known, verbosity = set(flags.FLAGS), logging.get_verbosity()
    yield call
    for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    logging.set_verbosity(verbosity)


def check_one_sentence(code, err, said):
    assert code not in (0, None) and "Traceback" not in err
    (line,) = err.splitlines()
    assert line.startswith("msl_jax: ") and not line.startswith("msl_jax:  ")
    assert all(word in line for word in said), line


MAIN = ["main", "--workdir=NEW", "SETTINGS"]
PREDICT = ["predict", "--workdir=RUN", "--output=NEW"]
EVALUATE = ["evaluate", "--predictions=PREDICTED", "--output=NEW.json"]
SWEEP = ["sweep", "--workdir=NEW", "SETTINGS", "--seeds=0"]
REFUSED = {
    "unknown flag": (["predict", "--wrokdir=x"], ["wrokdir"]),
    "missing flag": (["main", "--workdir=NEW"], ["--config"]),
    "argument": ([*MAIN, "train"], ["'train'", "--NAME=VALUE"]),
    "config key": ([*MAIN, "--config.model.widht=4"], ["widht"]),
    "config value": ([*MAIN, "--config.train.steps=many"], ["many"]),
    "config setting": ([*MAIN, "--config.train.steps=0"], ["config.train.steps", "is 0"]),
    "config file": (["main", "--workdir=NEW", "--config=configs/nowhere.py"], ["configs/nowhere.py"]),
    "config arg": (["main", "--workdir=NEW", "--config=configs/phantom.py:strnog=3"], ["strnog=3", "strong"]),
    "other run": (["main", "--workdir=RUN", "SETTINGS", "--config.seed=2"], ["seed was 1 and is 2"]),
    "no run to predict with": (["predict", "--workdir=NEW", "--input=IMAGES", "--output=NEW"], ["config.json"]),
    "no images": ([*PREDICT, "--input=EMPTY"], ["EMPTY", "holds no NIfTI"]),
    "no such image": ([*PREDICT, "--input=EMPTY/nothing.nii.gz"], ["EMPTY/nothing.nii.gz", "cannot be read"]),
    "no such branch": ([*PREDICT, "--input=IMAGES", "--branch=master"], ["master", "student", "teacher"]),
    "output exists": (["predict", "--workdir=RUN", "--input=IMAGES", "--output=PREDICTED"], ["exists", "--overwrite"]),
    "labels": ([*EVALUATE, "--references=REFERENCES", "--labels=LV"], ["--labels=LV", "NAME=VALUE"]),
    "no references": ([*EVALUATE, "--references=EMPTY", "--labels=LV=3"], ["EMPTY", "holds no NIfTI"]),
    "no such folder": ([*EVALUATE, "--references=NEW", "--labels=LV=3"], ["NEW", "no such folder"]),
    "a structure twice": ([*EVALUATE, "--references=EMPTY", "--labels=LV=3,LV=2"], ["LV=3,LV=2", "twice"]),
    "results that are no JSON": (
        ["evaluate", "--predictions=PREDICTED", "--references=EMPTY", "--labels=LV=3", "--output=NEW.csv"],
        [".csv", "ends in .json"],
    ),
    "a value that nobody has": (
        [*EVALUATE, "--references=REFERENCES", "--labels=LV=9", "--reference_suffix=_gt"],
        ["value 9 of LV"],
    ),
    "a sweep over an unknown method": ([*SWEEP, "--methods=kl,klx", "--strong=2"], ["klx", "kl_ent"]),
    "a sweep over too many strong patients": ([*SWEEP, "--methods=kl", "--strong=2,9"], ["data.strong", "9", "5"]),
    "a sweep over no numbers": ([*SWEEP, "--methods=kl", "--strong=few"], ["--strong=few", "whole numbers"]),
    "a sweep on a host too many": ([*SWEEP, "--methods=kl", "--strong=2", "--share=3/2"], ["--share=3/2"]),
    "a sweep in a bucket": ([*SWEEP, "--methods=kl", "--strong=2", "--workdir=gs://a/b"], ["gs://a/b", "mounted"]),
    "no reference of that name": ([*EVALUATE, "--references=REFERENCES", "--labels=LV=3"], ["0 references named"]),
}


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize(("argv", "said"), REFUSED.values(), ids=REFUSED)
def test_bad_input_ends_in_one_sentence(command, argv, said, settings, workdir, hospital, predicted, tmp_path):
    (tmp_path / "EMPTY").mkdir()
    new = tmp_path / "new"
    folders = {"RUN": workdir, "PREDICTED": predicted[0], "EMPTY": tmp_path / "EMPTY", "NEW": new}
    folders |= {"IMAGES": hospital / "images", "REFERENCES": hospital / "references"}

    def filled(text):
        return re.sub("|".join(folders), lambda match: str(folders[match[0]]), text)

    before = {path: path.stat().st_mtime_ns for folder in (workdir, predicted[0]) for path in folder.rglob("*")}
    flat = itertools.chain.from_iterable(settings if text == "SETTINGS" else [filled(text)] for text in argv)
    code, err = command(*flat)
    check_one_sentence(code, err, map(filled, said))
    assert not new.exists(), "a refused command wrote something"
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_bad_input_ends_in_one_sentence_in_a_process_of_its_own(settings, tmp_path):
    done = finished(start("main", *settings, f"--workdir={tmp_path}/new", "--config.model.widht=4"))
    check_one_sentence(done.returncode, done.stderr, ["widht"])
    assert not (tmp_path / "new").exists()


def test_overwrite_replaces(command, workdir, hospital, tmp_path):
    image = next((hospital / "images").rglob("*.nii.gz"))
    (tmp_path / image.name).write_text("an old file")
    argv = ["predict", f"--workdir={workdir}", f"--input={image}", f"--output={tmp_path}"]
    assert command(*argv)[0] == 2 and (tmp_path / image.name).read_text() == "an old file"
    command(*argv, "--overwrite")
    assert nib.load(tmp_path / image.name).shape == nib.load(image).shape
