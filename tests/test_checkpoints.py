from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msl_jax import checkpoints
from msl_jax.checks import Refused


def network(step):
    return {"params": {"kernel": jnp.full((2, 3), step, jnp.float32)}, "batch_stats": {"mean": jnp.arange(3.0) + step}}


def training(step):
    return {"step": jnp.array(step, jnp.int32), "sums": {"loss": jnp.array(step / 8, jnp.float32)}}


def saved(workdir, dice, keep=2):
    """Saves steps 1, 2, ... with these validation Dice, and closes."""
    manager = checkpoints.open_manager(workdir, keep)
    for step, value in enumerate(dice, start=1):
        checkpoints.save(manager, step, network(step), training(step), value)
    manager.wait_until_finished()
    manager.close()
    return checkpoints.open_manager(workdir)


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    workdir = epath.Path(tmp_path_factory.mktemp("run"))
    return workdir, saved(workdir, [0.3, 0.9, 0.1, None, 0.2])


def test_the_newest_and_the_best_are_kept(kept):
    assert sorted(kept[1].all_steps()) == [2, 4, 5]


def test_last_and_best_are_found(kept):
    assert checkpoints.choose(kept[1], "last") == 5
    assert checkpoints.choose(kept[1], "best") == 2


def test_what_was_saved_comes_back(kept):
    for step in (2, 5):
        items = checkpoints.restore(kept[1], step, network=abstract(network(step)), training=abstract(training(step)))
        assert set(items) == {"network", "training"}
        for tree, expected in ((items["network"], network(step)), (items["training"], training(step))):
            for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)


def test_the_network_is_read_alone(kept):
    items = checkpoints.restore(kept[1], 5, network=abstract(network(5)))
    assert set(items) == {"network"}
    np.testing.assert_array_equal(items["network"]["params"]["kernel"], np.full((2, 3), 5))


def test_the_best_of_equals_and_a_newest_that_is_the_best(tmp_path):
    manager = saved(epath.Path(tmp_path), [0.1, 0.5, 0.7], keep=1)
    assert sorted(manager.all_steps()) == [3] and checkpoints.choose(manager, "best") == 3


def test_without_a_checkpoint_none_is_chosen(tmp_path):
    checkpoints.open_manager(epath.Path(tmp_path), keep=1).close()
    for which in ("last", "best"):
        with pytest.raises(Refused, match=f"{tmp_path}/checkpoints: holds no {which} checkpoint"):
            checkpoints.choose(checkpoints.open_manager(epath.Path(tmp_path)), which)


def test_without_a_validated_checkpoint_none_is_best(tmp_path):
    manager = saved(epath.Path(tmp_path), [None, None])
    assert checkpoints.choose(manager, "last") == 2
    with pytest.raises(Refused, match="holds no best checkpoint"):
        checkpoints.choose(manager, "best")


def test_a_folder_without_checkpoints_is_refused_and_left_as_it_was(tmp_path):
    with pytest.raises(Refused, match="holds no last checkpoint"):
        checkpoints.choose(checkpoints.open_manager(epath.Path(tmp_path)), "last")
    assert not list(tmp_path.iterdir())
