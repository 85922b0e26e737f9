"""The files of a run, and that a killed run resumes to the same result."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from etils import epath
import numpy as np
import pytest

from files import one_sentence
from msl_jax.inference.segmenter import load_network
from processes import finished, run, start, table
from trees import unequal

STRUCTURES = {"LV": 3}


def test_a_runs_folder_is_complete(workdir):
    names = {path.name for path in workdir.iterdir()}
    assert {"config.json", "splits.json", "selection.json", "checkpoints", "metrics.csv", "results"} <= names
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


def test_metrics_have_a_row_per_report_and_no_clock(workdir):
    rows = table(workdir / "metrics.csv")
    dice = ["validation_dice_teacher", "validation_dice_student"]
    assert list(rows[0]) == ["step", "learning_rate", "loss", "s", "w", "kd", "ent", *dice, "skipped"]
    assert [int(row["step"]) for row in rows] == [3, 6, 9, 12]
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    assert [row["validation_dice_student"] != "" for row in rows] == [False, True, False, True]


def test_results_are_in_the_designs_format(summary):
    assert set(summary) == {
        *("units", "checkpoint", "branches", "cases", "patients", "protocol", "mirror", "postprocess", "calibration")
    }
    assert (summary["units"], summary["checkpoint"], summary["cases"], summary["patients"]) == ("mm", "last", 4, 2)
    assert set(summary["branches"]) == {"teacher", "student"}
    for structures in summary["branches"].values():
        assert set(structures) == set(STRUCTURES)
        for values in structures.values():
            assert set(values) == {"dice", "hd95", "assd", "empty"}
            assert all(set(values[metric]) == {"mean", "std"} for metric in ("dice", "hd95", "assd"))
            assert 0 <= values["dice"]["mean"] <= 1 and values["empty"] in range(5)


def test_results_contain_the_calibration_of_every_branch(summary, workdir, phantoms):
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


def checkpoints_of(workdir):
    """Steps with a complete checkpoint."""
    return [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()]


def wait_until(process, condition):
    """Waits until the condition is true while the process runs."""
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def test_a_killed_run_resumes_to_the_same_result(settings, workdir, tmp_path):
    """SIGKILL after the first checkpoint, and again during evaluation; the same command resumes."""
    killed = pathlib.Path(os.path.relpath(tmp_path / "run"))
    for moment in (lambda: checkpoints_of(killed), lambda: (killed / "results").exists()):
        process = start("main", *settings, f"--workdir={killed}")
        try:
            wait_until(process, moment)
        finally:
            process.kill()
        assert finished(process).returncode == -signal.SIGKILL
        assert not (killed / "results" / "test.json").exists()
    run("main", *settings, f"--workdir={killed}")
    assert_same_run(killed, workdir)


def test_a_signal_saves_and_ends_a_locked_run(settings, tmp_path, command):
    endless = [*settings, "--config.train.steps=100000", f"--workdir={tmp_path / 'run'}"]
    process = start("main", *endless)
    try:
        wait_until(process, lambda: checkpoints_of(tmp_path / "run"))
        one_sentence(*command("main", *endless), ["another process is training there"])
        sent = time.monotonic()
        process.send_signal(signal.SIGTERM)
        done = finished(process)
    finally:
        process.kill()
    assert time.monotonic() - sent < 30
    assert done.returncode == 128 + signal.SIGTERM
    (message,) = done.stderr.strip().splitlines()[-1:]
    step = int(re.search(r"stopped and saved after step (\d+) of 100000; rerun the same command to resume", message)[1])
    assert max(checkpoints_of(tmp_path / "run")) == step


@pytest.mark.soak
def test_a_run_killed_at_any_time_resumes_to_the_same_result(settings, workdir, tmp_path):
    """Twenty kills at random times of a run; if a run finishes before, another one starts."""
    began = time.monotonic()
    run("main", *settings, f"--workdir={tmp_path / 'timed'}")
    life, runs, kills = time.monotonic() - began, 0, 0
    moments = iter(np.random.default_rng(0).uniform(0.1, 1, 200))
    while kills < 20:
        killed = tmp_path / f"run{runs}"
        process = start("main", *settings, f"--workdir={killed}")
        try:
            process.wait(timeout=life * next(moments))
        except subprocess.TimeoutExpired:
            process.kill()
        code = finished(process).returncode
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        if code == 0:
            assert_same_run(killed, workdir)
            runs += 1
    run("main", *settings, f"--workdir={killed}")
    assert_same_run(killed, workdir)
    print(f"{kills} kills survived, {runs + 1} runs")


@pytest.mark.soak
def test_a_busy_machine_gives_the_same_bits(settings, workdir, tmp_path):
    """While more busy processes run than there are cores."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() + 1)]
    try:
        run("main", *settings, f"--workdir={tmp_path / 'run'}")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert_same_run(tmp_path / "run", workdir)


@pytest.mark.soak
@pytest.mark.parametrize("megabytes", [2, 3, 4, 6, 8])
def test_a_full_disk_gives_one_sentence_and_loses_nothing(settings, workdir, tmp_path, megabytes):
    """On a file system of this many MB, whichever file does not fit; with more space the run resumes."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", small]).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        done = finished(start("main", *settings, f"--workdir={small / 'run'}"))
        assert "Traceback" not in done.stderr
        if done.returncode:
            assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("msl_jax: "), done.stderr
        assert not (small / "run" / "results" / "test.json").exists() or done.returncode == 0
        shutil.copytree(small / "run", tmp_path / "run")
    finally:
        subprocess.run(["umount", small], check=True)
    run("main", *settings, f"--workdir={tmp_path / 'run'}")
    assert_same_run(tmp_path / "run", workdir)


def assert_same_run(one, other):
    for name in ("metrics.csv", "splits.json", "config.json", "results/test.json", "results/test.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    networks = [load_network(epath.Path(folder))[1] for folder in (one, other)]
    assert not unequal(*networks)
