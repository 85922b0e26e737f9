import csv
import fcntl
import json
import os
import shutil
import signal
import stat
import sys
import time

import jax
import numpy as np
import pytest

import msl_jax
from msl_jax.errors import InputError
from msl_jax.evaluation.comparison import Run
from msl_jax.experiments.opening import open_experiment
from msl_jax.runs.config import claim
from msl_jax.settings.auto import with_values
from msl_jax.system.machine import Machine
from msl_jax.system.signals import Interrupted
from msl_jax.training import sweep
from processes import QUICK, finished, run, start, table

ALONE = [sweep.Share()]
KL, SINGLE = Run("kl", 3, 0), Run("single", 3, 0)

# The list of runs


def test_the_first_seed_comes_first_and_all_masks_run_once_per_seed():
    runs = sweep.runs_of(["lower_bound", "upper_bound", "kl", "kl"], [3, 5], [0, 7])
    assert [str(run.folder) for run in runs] == [
        "lower_bound/strong3/seed0",
        "upper_bound/all/seed0",
        "kl/strong3/seed0",
        "lower_bound/strong5/seed0",
        "kl/strong5/seed0",
        "lower_bound/strong3/seed7",
        "upper_bound/all/seed7",
        "kl/strong3/seed7",
        "lower_bound/strong5/seed7",
        "kl/strong5/seed7",
    ]


def test_folds_are_runs_of_their_own():
    runs = sweep.runs_of(["kl", "upper_bound"], ["all"], [0], folds=2)
    assert [(str(run.folder), sweep.settings_of(run).get("data.strong")) for run in runs] == [
        ("kl/strongall/seed0/fold0", "all"),
        ("kl/strongall/seed0/fold1", "all"),
        ("upper_bound/all/seed0/fold0", None),
        ("upper_bound/all/seed0/fold1", None),
    ]
    assert [sweep.settings_of(run)["data.fold"] for run in runs] == ["0/2", "1/2"] * 2
    assert "data.fold" not in sweep.settings_of(KL), "a run without folds keeps the settings that it had"


def test_methods_whose_folds_hold_other_patients_are_not_compared():
    with pytest.raises(InputError, match=r"--folds=2: upper_bound .* --strong=3 "):
        sweep.runs_of(["kl", "upper_bound"], ["all", 3], [0], folds=2)


def test_numbers_of_strong_patients_or_all():
    assert sweep.numbers("strong", ["all", "3"], "all") == ["all", 3]
    with pytest.raises(InputError, match=r"--strong=few: give whole numbers or all"):
        sweep.numbers("strong", ["few"], "all")


@pytest.mark.parametrize("hosts", [1, 3, 4, 20])
def test_hosts_share_all_runs_and_none_twice(hosts):
    runs = sweep.runs_of(["lower_bound", "kl"], [3, 5], [0, 1, 2])
    parts = [runs[sweep.part_of(f"{host}/{hosts}")] for host in range(1, hosts + 1)]
    assert sorted(run for part in parts for run in map(str, part)) == sorted(map(str, runs))
    assert parts[0][0] == runs[0]


def test_a_runs_config_is_the_users_with_its_own_settings(tiny_config):
    config = tiny_config("strong=phantom001+phantom002,method=kl_ent,seed=5").lock()
    run = with_values(config, sweep.settings_of(Run("kl", 4, 2)))
    assert (run.method.name, run.data.strong, run.seed, run.data.size) == ("kl", 4, 2, 32)
    assert (config.method.name, config.seed) == ("kl_ent", 5)
    upper = with_values(config, sweep.settings_of(Run("upper_bound", None, 2)))
    assert upper.data.strong == config.data.strong == ["phantom001", "phantom002"]


# Finished runs


@pytest.fixture
def claimed(tiny_config, tmp_path):
    """The filled-in config of a run and its folder with config.json."""
    experiment = open_experiment(tiny_config())
    claim(experiment, tmp_path / "run")
    return experiment.config, tmp_path / "run"


def test_a_run_is_done_when_its_results_are_there(claimed):
    config, folder = claimed
    assert not sweep.is_done(folder / "other", config) and not sweep.is_done(folder, config)
    (folder / "results").mkdir()
    (folder / "results" / "test.json").write_text(
        json.dumps({"checkpoint": "last", "postprocess": {"setting": "auto"}})
    )
    assert sweep.is_done(folder, config)
    for key, other in (("checkpoint", "best"), ("postprocess", "largest"), ("mirror", True), ("protocol", "papers")):
        changed = with_values(config, {f"eval.{key}": other})
        assert not sweep.is_done(folder, changed), f"results of another {key} are not those that were asked for"


def test_results_of_older_versions_have_all_components(claimed):
    config, folder = claimed
    (folder / "results").mkdir()
    (folder / "results" / "test.json").write_text(json.dumps({"checkpoint": "last"}))
    assert not sweep.is_done(folder, config)
    assert sweep.is_done(folder, with_values(config, {"eval.postprocess": "none"}))


def test_a_folder_with_other_settings_is_refused(claimed):
    config, folder = claimed
    config.model.width = 4
    with pytest.raises(InputError, match=r"model\.width was 2 and is 4"):
        sweep.is_done(folder, config)


# Settings that are "auto"


def test_all_runs_get_the_values_of_the_machine_that_trains(tiny_config, tmp_path, monkeypatch):
    accelerator, machines = Machine(True, 4, memory=2**40), []
    monkeypatch.setattr(sweep, "machine_of_a_child", lambda environment: machines.append(environment) or accelerator)
    config, runs = tiny_config(), sweep.runs_of(["lower_bound", "kl"], [3], [0, 1])
    assert sweep.settled_values(config, tmp_path, runs, sweep.Share()) == {} and not machines
    config.model.width = config.train.weak_batch = "auto"
    values = sweep.settled_values(config, tmp_path, runs, sweep.Share(gpus=("5",)))
    assert values == {"model.width": 64, "train.weak_batch": 8} and machines[0]["CUDA_VISIBLE_DEVICES"] == "5"


def test_a_sweep_goes_on_with_the_values_of_its_runs(tiny_config, tmp_path, monkeypatch):
    config, runs = tiny_config(), sweep.runs_of(["lower_bound", "kl"], [3], [0, 1])
    config.model.width = 3
    claim(open_experiment(with_values(config, sweep.settings_of(runs[2]))), tmp_path / runs[2].folder)
    config.model.width = "auto"
    monkeypatch.delattr(sweep, "machine_of_a_child")
    assert sweep.settled_values(config, tmp_path, runs, sweep.Share()) == {"model.width": 3}


# Shares of the machine


def test_parallel_runs_share_cores_and_gpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 5}, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert sweep.shares(1) == [sweep.Share()]
    assert sweep.shares(2) == [sweep.Share((0, 2, 5), ("4",)), sweep.Share((1, 3), ("6",))]
    with pytest.raises(InputError, match="2 GPUs"):
        sweep.shares(3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [share.gpus for share in sweep.shares(5)] == [()] * 5
    with pytest.raises(InputError, match="5 CPU cores"):
        sweep.shares(6)


def executable(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_gpus_are_counted_by_the_driver(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sweep.shares(2) == [sweep.Share((0,)), sweep.Share((1,))]
    executable(tmp_path / "nvidia-smi", "echo 'GPU 0: H100 (UUID: a)'; echo '  MIG 1g (UUID: b)'; echo 'GPU 1: H100'")
    assert sweep.shares(2) == [sweep.Share((0,), ("0",)), sweep.Share((1,), ("1",))]


# Training, with a stand-in for main


@pytest.fixture
def main(monkeypatch, tmp_path):
    """main(script): the sweep starts this shell script instead of Python."""

    def replace(script):
        monkeypatch.setattr(sys, "executable", str(executable(tmp_path / "main", script)))

    monkeypatch.setattr(sweep, "WAIT", 0.01)
    return replace


def train(folder, runs, machine=ALONE):
    ended = []
    failed = sweep.train(folder, runs, lambda run: [f"--run={run.method}"], machine, lambda: ended.append(1))
    return failed, len(ended)


def test_a_run_that_fails_is_named_and_the_others_continue(main, tmp_path, capsys):
    main('echo "$@"; case "$*" in *=single*) echo out of memory >&2; exit 3;; esac')
    assert train(tmp_path, [SINGLE, KL]) == ([SINGLE], 1)
    failed, done = (tmp_path / run.folder / "train.log" for run in (SINGLE, KL))
    assert done.read_text() == f"-m msl_jax.main --run=kl --workdir={done.parent}\n"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0] == "[1/2] single/strong3/seed0: started"
    assert "FAILED" in lines[1] and "out of memory" in lines[1] and str(failed) in lines[1]
    assert lines[3].startswith("[2/2] kl/strong3/seed0: done in 0.0 min")


def test_a_second_attempt_keeps_the_log_of_the_first(main, tmp_path):
    main("echo once")
    train(tmp_path, [KL])
    train(tmp_path, [KL])
    assert (tmp_path / KL.folder / "train.log").read_text() == "once\n" * 2


def test_as_many_runs_in_parallel_as_shares(main, tmp_path):
    """The first two runs wait for each other, so they must run in parallel; the third gets a free share."""
    main(
        f"touch {tmp_path}/$$; echo on $CUDA_VISIBLE_DEVICES; i=0\n"
        f"while [ $(ls {tmp_path} | grep -c '^[0-9]') -lt 2 ]\n"
        "do sleep 0.05; i=$((i + 1)); [ $i -gt 200 ] && exit 1; done; exit 0"
    )
    runs = [KL, SINGLE, Run("kl", 5, 0)]
    machine = [sweep.Share(gpus=("4",)), sweep.Share(gpus=("6",))]
    assert train(tmp_path, runs, machine) == ([], 3)
    first, second, third = ((tmp_path / run.folder / "train.log").read_text() for run in runs)
    assert (first, second) == ("on 4\n", "on 6\n") and third in (first, second)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are chosen on Linux alone")
def test_a_run_stays_on_its_cores(main, tmp_path):
    before = os.sched_getaffinity(0)
    core = min(before)
    main(f'exec {sys.executable} -c "import os; print(os.sched_getaffinity(0))"')
    assert train(tmp_path, [KL], [sweep.Share(cores=(core,))]) == ([], 1)
    assert (tmp_path / KL.folder / "train.log").read_text() == f"{{{core}}}\n"
    assert os.sched_getaffinity(0) == before


def is_held(log):
    """Whether a process has locked a run's log, as a child does while it runs."""
    with log.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_runs_end_with_the_sweep(main, tmp_path, monkeypatch, number):
    log = tmp_path / KL.folder / "train.log"
    handler, held = signal.getsignal(number), []

    def interrupt(_):
        held.append(is_held(log))
        signal.raise_signal(number)

    main("exec sleep 60")
    monkeypatch.setattr(sweep.time, "sleep", interrupt)
    with pytest.raises(Interrupted, match="rerun the same command to resume") as interrupted:
        train(tmp_path, [KL])
    assert interrupted.value.number == number
    assert held == [True] and not is_held(log)
    assert signal.getsignal(number) == handler


def test_a_run_that_another_process_trains_is_refused(main, tmp_path):
    main("echo started")
    log = tmp_path / KL.folder / "train.log"
    log.parent.mkdir(parents=True)
    with log.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"):
            train(tmp_path, [KL])
    assert log.read_text() == ""


# The command, on phantoms


@pytest.fixture
def argv(tiny_flags):
    """Flags of a sweep of two methods that takes seconds."""
    short = [f"--config.{key}=2" for key in ("train.checkpoint_every", "train.validate_every")]
    methods = ["--methods=lower_bound,kl_ent", "--strong=2", "--seeds=1"]
    return ["--config=configs/phantom.py:steps=2,classes=LV", *tiny_flags, *short, *methods]


def test_a_sweep_trains_compares_and_does_nothing_when_rerun(command, argv, capsys, monkeypatch, tmp_path):
    assert jax.device_count() == 4  # those of this process are settled before its environment changes
    monkeypatch.setenv("XLA_FLAGS", QUICK)
    folder = tmp_path / "sweep=1,a"
    assert command("sweep", *argv, f"--workdir={folder}") == (None, "")
    out = capsys.readouterr().out
    assert "0 of them done; 2 to train" in out and out.count(": done in") == 2
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["branch"]) for row in rows] == [
        ("lower_bound", "teacher"),
        ("kl_ent", "teacher"),
        ("kl_ent", "student"),
    ]
    assert json.loads((folder / "kl_ent/strong2/seed1/config.json").read_text())["data"]["classes"] == {"LV": 3}
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {"table.md", "table.csv", "cases.csv", "runs.csv", "dice.png", "terms.png", "methods.png"}

    shutil.rmtree(folder / "lower_bound/strong2/seed1/checkpoints")
    runs = {path: path.stat().st_mtime_ns for path in folder.rglob("seed1/**/*")}
    assert command("sweep", *argv, f"--workdir={folder}") == (None, "")
    again = capsys.readouterr().out
    assert "2 of them done; 0 to train" in again and (folder / "table.md").read_text() in again
    assert runs == {path: path.stat().st_mtime_ns for path in folder.rglob("seed1/**/*")}


def test_a_cross_validation_scores_every_strong_mask_once(command, tiny_flags, phantoms, capsys, monkeypatch, tmp_path):
    """From the sweep to predictions with all of its folds."""
    assert jax.device_count() == 4
    monkeypatch.setenv("XLA_FLAGS", QUICK)
    short = [f"--config.{key}=2" for key in ("train.checkpoint_every", "train.validate_every")]
    argv = ["--config=configs/phantom.py:steps=2,classes=LV", *tiny_flags, *short, f"--workdir={tmp_path / 'cv'}"]
    argv += ["--methods=lower_bound", "--strong=all", "--seeds=1", "--folds=2"]
    code, err = command("sweep", *argv)
    assert code is None and "3 patients with full masks in no fold" in err, "of validation and test"
    out = capsys.readouterr().out
    assert out.count(": done in") == 2 and "the test cases of 2 folds" in out
    both = tmp_path / "cv" / "lower_bound" / "strongall" / "seed1"
    splits = [json.loads((both / fold / "splits.json").read_text()) for fold in ("fold0", "fold1")]
    tested = sorted(patient for split in splits for patient in split["test"])
    assert len(tested) == 5 and all(sorted(split["strong"] + split["test"]) == tested for split in splits)
    rows = table(tmp_path / "cv" / "cases.csv")
    assert sorted(row["case"] for row in rows) == sorted(entry.name for entry in phantoms.of_patients(tested))
    (row,) = table(tmp_path / "cv" / "table.csv")
    assert float(row["dice_mean"]) == pytest.approx(np.mean([float(row["LV_dice"]) for row in rows]))
    assert [row["fold"] for row in table(tmp_path / "cv" / "runs.csv")] == ["0/2", "1/2"]
    assert (tmp_path / "cv" / "methods.png").exists()

    image = np.random.default_rng(0).uniform(size=(2, 32, 32)).astype(np.float32)
    each = [msl_jax.load(both / fold).probabilities(image, spacing=(8, 4, 4)) for fold in ("fold0", "fold1")]
    np.testing.assert_array_equal(msl_jax.load(both).probabilities(image, spacing=(8, 4, 4)), np.mean(each, axis=0))
    assert not np.array_equal(*each)

    shutil.rmtree(both / "fold1" / "results")
    with pytest.raises(InputError, match=rf"{both}: the runs with config.data.fold=1/2 are missing or unfinished"):
        msl_jax.load(both)


@pytest.mark.soak
def test_a_stopped_sweep_resumes(argv, tmp_path):
    folder, first = tmp_path / "sweep", tmp_path / "sweep" / "lower_bound" / "strong2" / "seed1"
    endless = ["sweep", *argv, f"--workdir={folder}", "--config.train.steps=60"]
    process = start(*endless)
    try:
        while not (first / "checkpoints" / "2").exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGTERM)
    stopped = finished(process)
    assert stopped.returncode == 128 + signal.SIGTERM and "Traceback" not in stopped.stderr
    assert stopped.stdout.splitlines()[-1].endswith("started") and stopped.stderr.splitlines()[-1].endswith("resume.")
    assert not is_held(first / "train.log") and not (first / "results").exists()
    out = run(*endless)
    assert "0 of them done; 2 to train" in out and out.count(": done in") == 2
    reports = [line.split()[:1] for line in (first / "train.log").read_text().splitlines()]
    assert reports.count(["2/60"]) == 1, "it started again"
