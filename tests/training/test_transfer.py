"""A new run from the weights of another: loaded and initialised parts, errors, resuming."""

from etils import epath
import jax
import numpy as np
import optax
import pytest

from msl_jax.errors import InputError
from msl_jax.methods.table import METHODS
from msl_jax.models.initial import init_variables
from msl_jax.runs import checkpoints
from msl_jax.runs.config import claim
from msl_jax.settings.objects import model_of, preparation_of
from msl_jax.training import transfer
from msl_jax.training.loop import train
from msl_jax.training.state import init_state
from trees import paths, unequal


def initial(experiment, method=None):
    """The initial variables of a run without init_from."""
    config, branches = experiment.config, tuple((method or experiment.method).branches())
    return jax.device_get(init_variables(model_of(config), preparation_of(config).size, branches, config.seed))


@pytest.fixture
def source(opened, tmp_path):
    """make(arg, ...) -> (folder of a run with a checkpoint at step 7, its variables, all unlike initial ones)."""

    def make(arg="seed=5", **settings):
        experiment, workdir = opened(arg, **settings), epath.Path(tmp_path) / "source"
        claim(experiment, workdir)
        network = jax.tree.map(lambda a: a + np.float32(0.25), initial(experiment))
        manager = checkpoints.open_manager(workdir, keep=1)
        checkpoints.save(manager, 7, network, {"step": np.int32(7)}, dice=None)
        manager.close()
        return workdir, network

    return make


def started(experiment):
    """The state before the first step."""
    first = experiment.method.stages()[0]
    loaded = transfer.load(experiment.config, tuple(first.branches()))
    return init_state(experiment.config, first, optax.adam(1e-3), loaded=loaded)


def head(branch, level=""):
    return {f"['params']['{branch}']['Conv_0{level}']['{name}']" for name in ("kernel", "bias")}


def of(part, tree):
    return {path for path in paths(tree) if f"['{part}']" in path}


# Loaded parts


def test_the_same_network_starts_with_all_weights_of_the_other(opened, source, capsys):
    folder, network = source()
    state = started(opened("seed=1", init_from=str(folder)))
    assert not unequal(state.network(), network)
    assert f"{folder}, step 7: encoder, teacher, student; randomly initialised: nothing" in capsys.readouterr().out
    assert int(state.step) == 0 and not any(leaf.any() for leaf in jax.tree.leaves(state.opt_state))


@pytest.mark.parametrize("classes", ["RV", "all"])
def test_heads_of_other_classes_are_initialised(opened, source, capsys, classes):
    """Also with the same number of classes."""
    folder, network = source("seed=5,classes=LV")
    experiment = opened(f"seed=1,classes={classes}", init_from=str(folder))
    state = started(experiment)
    heads = head("teacher") | head("student")
    assert unequal(state.network(), initial(experiment)) == paths(network) - heads
    assert unequal(state.network(), network) == heads
    assert "randomly initialised: output convolutions (classes there: LV)." in capsys.readouterr().out


def test_heads_of_coarser_levels_are_initialised_too(opened, source):
    deep = {"model__depth": 4, "model__deep_supervision": True}
    folder, network = source("seed=5,classes=LV", **deep)
    state = started(opened("seed=1,classes=all", init_from=str(folder), **deep))
    heads = {path for branch in ("teacher", "student") for level in ("", "_1") for path in head(branch, level)}
    assert unequal(state.network(), network) == heads


def test_a_branch_that_was_not_trained_there_is_initialised(opened, source, capsys):
    folder, network = source("method=lower_bound,seed=5")
    experiment = opened("method=kl_ent,seed=1", init_from=str(folder))
    state = started(experiment)
    assert unequal(state.network(), initial(experiment)) == of("encoder", network) | of("teacher", network)
    assert "encoder, teacher; randomly initialised: student (not trained there)." in capsys.readouterr().out


def test_a_branch_that_is_trained_only_there_is_ignored(opened, source):
    folder, network = source("method=kl_ent,seed=5")
    state = started(opened("method=lower_bound,seed=1", init_from=str(folder)))
    assert set(state.params) == {"encoder", "teacher"}
    assert not unequal(state.params, {part: network["params"][part] for part in state.params})


def test_an_average_starts_as_the_network(opened, source):
    folder, _ = source("method=lower_bound,seed=5")
    state = started(opened("method=mean_teacher,seed=1", init_from=str(folder)))
    assert not unequal(state.guide, state.network())


def test_a_stage_that_continues_starts_with_the_weights_of_the_stage_before(opened):
    """And its guide, a moving average, too; a branch that only the stage before had is left out."""
    first, last = opened("method=bcp").method.stages()
    assert (first, last) == (METHODS["copy_paste"], METHODS["bcp"])
    experiment = opened("method=kl_ent")
    before = init_state(experiment.config, experiment.method, optax.adam(1e-3))
    network = jax.tree.map(lambda a: a + np.float32(0.25), before.network())
    state = init_state(experiment.config, last, optax.adam(1e-3), previous_network=network)
    assert set(state.params) == {"encoder", "teacher"}
    expected = {
        kind: {part: array for part, array in arrays.items() if part in state.params}
        for kind, arrays in network.items()
    }
    assert not unequal(state.network(), expected) and not unequal(state.guide, expected)


def test_a_network_without_running_statistics_starts_from_another(opened, source):
    folder, network = source(model__norm="instance")
    state = started(opened("seed=1", model__norm="instance", init_from=str(folder)))
    assert network["batch_stats"] == {} and not unequal(state.network(), network)


# The loop


def test_the_first_stage_starts_there_and_resuming_needs_no_source(opened, source, tmp_path):
    """With tiny steps: the second stage's guide is the end of the first, its own network is initialised."""
    folder, network = source("method=lower_bound,seed=5")
    settings = {"train__steps": 2, "optimizer__learning_rate": 1e-8, "init_from": str(folder)}
    experiment, workdir = opened("method=proposals,seed=1", **settings), epath.Path(tmp_path) / "new"
    transfer.check(experiment.config, workdir)
    claim(experiment, workdir)
    state = jax.device_get(train(experiment, workdir))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.guide["params"], network["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, initial(experiment)["params"])

    folder.rmtree()
    again = opened("method=proposals,seed=1", **settings)
    transfer.check(again.config, workdir)
    claim(again, workdir)
    assert not unequal(train(again, workdir), state)


# Errors


@pytest.mark.parametrize(
    ("key", "value", "there"),
    [
        ("model.norm", "instance", "batch"),
        ("model.width", 4, 2),
        ("model.depth", 3, 1),
        ("model.deep_supervision", True, False),
        ("data.channels", 2, 1),
    ],
)
def test_a_network_of_another_shape_is_refused(opened, source, tmp_path, key, value, there):
    folder, _ = source()
    experiment = opened(init_from=str(folder))
    experiment.config.update_from_flattened_dict({key: value})
    message = rf"config.{key}: is {value}, but {there} in the run of config.init_from={folder}; give the same value, or"
    with pytest.raises(InputError, match=message):
        transfer.check(experiment.config, tmp_path / "new")
    with pytest.raises(InputError, match=message):
        started(experiment)


def test_a_folder_without_a_run_or_a_checkpoint_is_refused(opened, tmp_path):
    experiment = opened(init_from=str(tmp_path / "source"))
    with pytest.raises(InputError, match=rf"config.init_from: {tmp_path}/source contains no run"):
        transfer.check(experiment.config, tmp_path / "new")
    claim(opened(), epath.Path(tmp_path) / "source")
    with pytest.raises(InputError, match=rf"config.init_from: {tmp_path}/source contains no checkpoint; train"):
        transfer.check(experiment.config, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
