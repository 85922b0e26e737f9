"""Runs from versions without some row of the tables, or with a row that no longer exists."""

import dataclasses
import json
import pathlib

from etils import epath
import jax
import pytest

from msl_jax.errors import InputError
from msl_jax.evaluation import comparison
from msl_jax.evaluation.comparison import Run
from msl_jax.experiments.opening import open_experiment
from msl_jax.methods.terms import TERMS
from msl_jax.runs import checkpoints, journal
from msl_jax.runs.config import claim, read_config
from msl_jax.settings.older import completed
from msl_jax.training.loop import train
from msl_jax.training.sweep import is_done
from trees import unequal


class Broken(Exception):
    pass


@pytest.fixture
def go(tmp_path, tiny_config):
    """go(name, **terms) -> experiment, folder and last state of a run of 4 steps, checkpointed every 2."""

    def run(name, **terms):
        config = tiny_config("method=kl_ent")
        for term, weight in terms.items():
            config.method.terms[term] = weight
        experiment, workdir = open_experiment(config), epath.Path(tmp_path) / name
        claim(experiment, workdir)
        return experiment, workdir, jax.device_get(train(experiment, workdir))

    return run


def edit(workdir, change):
    """Changes the method in a run's config.json."""
    config = json.loads((workdir / "config.json").read_text())
    change(config["method"])
    (workdir / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def without(*terms):
    """A change of config.json to that of a version without these terms."""

    def change(method):
        for term in terms:
            del method["terms"][term], method["rampup"][term]

    return change


@pytest.fixture
def broken_off(go, tmp_path, monkeypatch):
    """A run interrupted after step 3, with step 2 on disk, from a version without the term "dice"."""

    def print_row(self, step, row):
        if step == 3:
            raise Broken

    def save(manager, *items):
        original(manager, *items)
        manager.wait_until_finished()

    original = checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(journal.Clock, "print_row", print_row)
        patch.setattr(checkpoints, "save", save)
        with pytest.raises(Broken):
            go("older")
    workdir = epath.Path(tmp_path) / "older"
    edit(workdir, without("dice"))
    return workdir


def test_every_setting_has_a_value_for_the_oldest_run(tiny_config):
    """A kept run of the first version lacks most settings; the value of each is known, or follows from the data."""
    kept = pathlib.Path(__file__).parents[2] / "configs/results/acdc_cpu/kl_ent/strong3/seed0/config.json"
    oldest = completed(json.loads(kept.read_text()))
    now = json.loads(open_experiment(tiny_config("method=kl_ent")).config.to_json())
    for group in now:
        if isinstance(now[group], dict):
            assert now[group].keys() <= oldest[group].keys(), group


def test_a_run_older_than_a_term_resumes_bit_for_bit(go, broken_off, monkeypatch):
    _, whole, state = go("whole")
    monkeypatch.setitem(TERMS, "later", dataclasses.replace(TERMS["ent"]))
    experiment, older, resumed = go("older")
    assert older == broken_off and "later" in experiment.config.method.terms
    assert not unequal(state, resumed)
    assert (older / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    header = (older / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "later" not in header and "dice" not in header
    saved = [
        checkpoints.load(checkpoints.open_manager(folder), "last", network=state.network()) for folder in (whole, older)
    ]
    assert saved[0][0] == saved[1][0] == 4 and not unequal(saved[0][1]["network"], saved[1][1]["network"])
    kept = json.loads((older / "config.json").read_text())["method"]
    assert (kept["terms"]["dice"], kept["terms"]["later"], kept["rampup"]["later"]) == (0.0, 0.0, 0)


def test_a_sweep_accepts_a_run_that_is_older_than_a_term(tiny_config, tmp_path, monkeypatch):
    experiment = open_experiment(tiny_config("method=kl_ent"))
    claim(experiment, epath.Path(tmp_path))
    (tmp_path / "results").mkdir()
    results = {"checkpoint": "last", "postprocess": {"setting": "auto"}, "branches": {}}
    (tmp_path / "results" / "test.json").write_text(json.dumps(results))
    (tmp_path / "results" / "test.csv").write_text("case\n")
    edit(tmp_path, without("dice", "proposal"))
    edit(tmp_path, lambda method: method.pop("dice_sums"))
    monkeypatch.setitem(TERMS, "later", dataclasses.replace(TERMS["ent"]))
    now = tiny_config("method=kl_ent")  # whose terms have a row more
    assert is_done(tmp_path, open_experiment(now).config)
    read = comparison.read(tmp_path, Run("kl_ent", 3, 0))
    assert list(read.config["method"]["terms"]) == list(TERMS) and read.config["method"]["terms"]["later"] == 0.0
    now.method.terms.later = 1.0
    with pytest.raises(InputError, match=r"\(method.terms.later was 0.0 and is 1.0\)"):
        is_done(tmp_path, open_experiment(now).config)


def test_a_term_that_no_longer_exists(tiny_config, tmp_path):
    """It is ignored if its weight is 0, and an error otherwise."""
    experiment = open_experiment(tiny_config("method=kl_ent"))
    claim(experiment, epath.Path(tmp_path))
    edit(tmp_path, lambda method: method["terms"].update(gone=0.0))
    claim(experiment, epath.Path(tmp_path))
    edit(tmp_path, lambda method: method["terms"].update(gone=0.0))
    assert "gone" not in read_config(epath.Path(tmp_path)).method.terms
    edit(tmp_path, lambda method: method["terms"].update(gone=0.5))
    for use in (lambda: claim(experiment, epath.Path(tmp_path)), lambda: read_config(epath.Path(tmp_path))):
        with pytest.raises(InputError, match=r"config.json: the run was trained with gone, .*--plugins=MODULE\.$"):
            use()


@pytest.mark.parametrize(("dice", "sums"), [(0.5, "images"), (None, None)])
def test_dice_of_older_runs_is_that_of_images(tiny_config, tmp_path, dice, sums):
    """It goes on with its loss if that is asked for, and refuses the later default."""
    config = tiny_config("method=kl_ent")
    config.method.dice, config.method.dice_sums = dice, sums
    experiment = open_experiment(config)
    claim(experiment, epath.Path(tmp_path))
    edit(tmp_path, lambda method: method.pop("dice_sums"))
    assert read_config(epath.Path(tmp_path)).method.dice_sums == sums
    claim(experiment, epath.Path(tmp_path))
    if dice:
        config.method.dice_sums = None
        with pytest.raises(InputError, match=r'method\.dice_sums was "images" and is "batch"'):
            claim(open_experiment(config), epath.Path(tmp_path))
