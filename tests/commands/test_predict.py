"""NIfTI files in and out: predict, evaluate, prepare, suggest."""

import json

import nibabel as nib
import numpy as np
import pytest

from documents import cells
from msl_jax.evaluation import calibration
from msl_jax.inference.components import largest_components
from processes import run, table

# predict, evaluate


def test_predictions_mirror_the_input(predicted, hospital):
    images = {path.relative_to(hospital / "images") for path in (hospital / "images").rglob("*.nii.gz")}
    labels = {path.relative_to(predicted[0]) for path in predicted[0].rglob("*") if path.is_file()}
    assert len(images) == 4 and len({path.parent for path in images}) == 2
    probabilities = {path.with_name(path.name.replace(".nii.gz", "_prob.nii.gz")) for path in images}
    assert labels == images | probabilities
    assert all(str(path) in predicted[1] for path in images) and "student" in predicted[1] and "LV=3" in predicted[1]


def test_predictions_have_the_inputs_grid(predicted, hospital):
    for image_file in (hospital / "images").rglob("*.nii.gz"):
        image = nib.load(image_file)
        label = nib.load(predicted[0] / image_file.relative_to(hospital / "images"))
        assert label.shape == image.shape
        np.testing.assert_array_equal(label.affine, image.affine)
        assert label.header.get_zooms() == image.header.get_zooms()
        assert label.header.get_xyzt_units() == image.header.get_xyzt_units()
        values = np.asarray(label.dataobj)
        assert label.get_data_dtype() == values.dtype == np.uint8 and set(np.unique(values)) <= {0, 3}


def test_probabilities_are_those_of_the_labels(predicted, summary):
    kept = summary["postprocess"]["largest_component"]["student"]
    found = sorted(predicted[0].rglob("*_prob.nii.gz"))
    assert len(found) == 4
    for path in found:
        label = nib.load(path.with_name(path.name.replace("_prob", "")))
        probabilities = nib.load(path)
        assert probabilities.shape == (*label.shape, 2) and probabilities.get_data_dtype() == np.float32
        np.testing.assert_array_equal(probabilities.affine, label.affine)
        p = np.asarray(probabilities.dataobj)
        np.testing.assert_allclose(p.sum(-1), 1, atol=1e-5)
        expected = largest_components((p.argmax(-1) * 3).astype(np.uint8), [3] if kept else [])
        np.testing.assert_array_equal(expected, np.asarray(label.dataobj))


def test_the_probabilities_are_as_calibrated_as_the_run_says(predicted, hospital, summary):
    """Calibration computed from NIfTI files equals that of the run's test split."""
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
    """Scores computed from NIfTI files equal those of the run's test split."""
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
    assert set(results) == set(summary) - {"calibration", "protocol", "mirror", "postprocess"}
    assert results["units"] == "mm"
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


def test_scoring_a_run_again_gives_its_results(command, settings, workdir, tmp_path):
    output = tmp_path / "results.json"
    assert command("evaluate", f"--workdir={workdir}", *settings, f"--output={output}") == (None, "")
    ours, theirs = (json.loads(path.read_text()) for path in (output, workdir / "results" / "test.json"))
    assert ours.keys() == theirs.keys()
    for branch, structures in theirs["branches"].items():
        assert ours["branches"][branch]["LV"]["dice"] == pytest.approx(structures["LV"]["dice"], rel=1e-5)
    assert len(table(output.with_suffix(".csv"))) == len(table(workdir / "results" / "test.csv"))


def test_the_teacher_can_be_selected(workdir, hospital, predicted, tmp_path):
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


def test_prepare_reports_the_roles(settings, workdir, tmp_path):
    lines = run("prepare", *settings, f"--output={tmp_path}").splitlines()
    roles = json.loads((workdir / "splits.json").read_text())
    assert lines[0].startswith("16 cases of 8 patients")
    starts = [line.split()[:2] for line in lines]
    counts = {start[0]: int(start[1]) for start in starts if start and start[0] in roles and start[1].isdecimal()}
    assert counts == {role: len(roles[role]) for role in ("strong", "weak", "validation", "test")}
    assert f"strong: {', '.join(roles['strong'])}" in lines
    assert (tmp_path / "report.txt").read_text().splitlines() == lines[: lines.index(f"Written to {tmp_path}") - 1]
    assert (tmp_path / "cases.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


# suggest


def test_suggest_ranks_the_images(workdir, hospital, tmp_path):
    out = run("suggest", f"--workdir={workdir}", f"--input={hospital}/images", f"--output={tmp_path}")
    rows = table(tmp_path / "suggest.csv")
    assert len(rows) == 4 and [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert [cells(line) for line in out.splitlines()[2:6]] == [list(row.values()) for row in rows]
