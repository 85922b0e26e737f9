"""Whole runs with averaged weights, and with every setting of the recipe that is off by default."""

import shutil

from etils import epath
import jax
import pytest

from msl_jax.experiments.opening import open_experiment
from msl_jax.inference.segmenter import load_network
from msl_jax.runs.config import claim
from msl_jax.training.loop import train
from msl_jax.training.validation import make_validator
from trees import paths, unequal

AVERAGED = {"train.average": 0.5}
RECIPE = AVERAGED | {
    "method.dice": 1.0,
    "model.depth": 4,
    "model.deep_supervision": True,
    "optimizer.schedule": "polynomial",
    "optimizer.weight_decay": 0.01,
    "optimizer.clip_norm": 12.0,
}


@pytest.fixture(scope="module")
def go(tmp_path_factory, tiny_config):
    """go(name, settings, ...) -> experiment, folder and last state; a checkpoint every 2 steps, a report every 3."""

    def run(name, settings, method="kl_ent", steps=4):
        config = tiny_config(f"method={method}")
        config.train.steps, config.train.report_every = steps, 3
        config.update_from_flattened_dict(settings)
        experiment, workdir = open_experiment(config), epath.Path(folder / name)
        claim(experiment, workdir)
        return experiment, workdir, jax.device_get(train(experiment, workdir))

    folder = tmp_path_factory.mktemp("runs")
    return run


@pytest.fixture(scope="module")
def averaged(go):
    """A run with averaged weights."""
    return go("averaged", AVERAGED)


def test_averaging_changes_the_network_and_not_the_training(go, averaged):
    (_, _, plain), (experiment, workdir, state) = go("plain", {}), averaged
    assert not unequal(plain.network(), state.trained())
    _, network, step = load_network(workdir)
    assert step == 4 and not unequal(network, state.average)
    assert unequal(network, state.trained()) == paths(network)
    header, *_, last = ((workdir / "metrics.csv").read_text()).splitlines()
    row = dict(zip(header.split(","), last.split(","), strict=True))
    for column, value in make_validator(experiment, ("teacher", "student"))(network, 4).items():
        assert float(row[column]) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "method"), [("averaged", AVERAGED, "kl_ent"), ("recipe", RECIPE, "lower_bound")]
)
def test_runs_resume_bit_for_bit(go, averaged, name, settings, method):
    """From the checkpoint of step 2, between two reports."""
    _, whole, state = averaged if name == "averaged" else go(name, settings, method)
    broken_off = whole.parent / f"{name}_broken_off"
    shutil.copytree(whole, broken_off)
    (broken_off / "checkpoints" / "4").rmtree()
    _, _, resumed = go(broken_off.name, settings, method)
    assert int(resumed.step) == 4 and not unequal(state, resumed)
    assert (whole / "metrics.csv").read_bytes() == (broken_off / "metrics.csv").read_bytes()


def test_the_next_stage_is_guided_by_the_average_of_the_first(go):
    _, _, both = go("proposals", AVERAGED, method="proposals", steps=2)
    _, _, first = go("first", AVERAGED, method="lower_bound", steps=2)
    assert not unequal(both.guide, first.average) and unequal(first.average, first.trained())
