"""The main job on real ACDC, shortened: train, predict the test split's files, evaluate them (`make soak`)."""

import json
import shutil
import subprocess
import sys

import pytest


def run(name, *argv):
    done = subprocess.run([sys.executable, "-m", f"msl_jax.{name}", *map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.soak
def test_files_predicted_and_evaluated_give_the_runs_own_results(acdc_folder, tmp_path):
    workdir, images, predictions = (tmp_path / name for name in ("run", "images", "predictions"))
    config = ["--config=configs/acdc_cpu.py:method=kl_ent,strong=3,steps=300", f"--config.data.source={acdc_folder}"]
    run("main", *config, f"--workdir={workdir}")
    for patient in json.loads((workdir / "splits.json").read_text())["test"]:
        shutil.copytree(acdc_folder / "training" / patient, images / patient)
    run("predict", f"--workdir={workdir}", f"--input={images}", f"--output={predictions}")
    output = tmp_path / "results.json"
    run(
        "evaluate",
        f"--predictions={predictions}",
        f"--references={acdc_folder}",
        "--labels=LV=3",
        "--reference_suffix=_gt",
        f"--output={output}",
    )
    ours, theirs = json.loads(output.read_text()), json.loads((workdir / "results" / "test.json").read_text())
    assert (ours["units"], ours["cases"], ours["patients"]) == ("voxel", 30, 15)
    assert (theirs["units"], theirs["cases"], theirs["patients"]) == ("voxel", 30, 15)
    for metric, values in theirs["branches"]["student"]["LV"].items():
        assert ours["branches"]["prediction"]["LV"][metric] == pytest.approx(values, rel=1e-6), metric
