import pathlib
import shutil

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msl_jax.errors import InputError
from msl_jax.runs import checkpoints
from trees import unequal


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


@pytest.mark.parametrize("name", ["lr=0.1,b", "a[b@2*{c}", "ö ~'\"#%?:;|"])
def test_a_folder_may_have_an_odd_name(tmp_path, name):
    manager = saved(epath.Path(tmp_path / name), [0.3])
    assert checkpoints.load(manager, "last", network=abstract(network(1)))[0] == 1


def test_restored_items_equal_the_saved_ones(kept):
    for step in (2, 5):
        items = checkpoints.restore(kept[1], step, network=abstract(network(step)), training=abstract(training(step)))
        assert set(items) == {"network", "training"}
        for tree, expected in ((items["network"], network(step)), (items["training"], training(step))):
            for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)


def test_the_network_can_be_read_without_the_rest(kept):
    items = checkpoints.restore(kept[1], 5, network=abstract(network(5)))
    assert set(items) == {"network"}
    np.testing.assert_array_equal(items["network"]["params"]["kernel"], np.full((2, 3), 5))


def test_the_best_of_equals_and_a_newest_that_is_the_best(tmp_path):
    manager = saved(epath.Path(tmp_path), [0.1, 0.5, 0.7], keep=1)
    assert sorted(manager.all_steps()) == [3] and checkpoints.choose(manager, "best") == 3


def test_without_a_checkpoint_none_is_chosen(tmp_path):
    checkpoints.open_manager(epath.Path(tmp_path), keep=1).close()
    for which in ("last", "best"):
        with pytest.raises(InputError, match=f"{tmp_path}/checkpoints: contains no {which} checkpoint"):
            checkpoints.choose(checkpoints.open_manager(epath.Path(tmp_path)), which)


def test_without_a_validated_checkpoint_none_is_best(tmp_path):
    manager = saved(epath.Path(tmp_path), [None, None])
    assert checkpoints.choose(manager, "last") == 2
    with pytest.raises(InputError, match="contains no best checkpoint"):
        checkpoints.choose(manager, "best")


def test_a_folder_without_checkpoints_is_refused_and_not_changed(tmp_path):
    with pytest.raises(InputError, match="contains no last checkpoint"):
        checkpoints.choose(checkpoints.open_manager(epath.Path(tmp_path)), "last")
    assert not list(tmp_path.iterdir())


# Damage

SPOILED = {
    "emptied": lambda contents: b"",
    "cut in half": lambda contents: contents[: len(contents) // 2],
    "a bit flipped": lambda contents: contents[:-9] + bytes([contents[-9] ^ 4]) + contents[-8:],
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with checkpoints of steps 1 and 2."""
    workdir = epath.Path(tmp_path_factory.mktemp("two"))
    saved(workdir, [0.1, 0.2]).close()
    return workdir


def files(workdir, step):
    return sorted(path for path in pathlib.Path(workdir, "checkpoints", str(step)).rglob("*") if path.is_file())


def read_newest(workdir):
    items = {"network": abstract(network(1)), "training": abstract(training(1))}
    return checkpoints.restore_newest(checkpoints.open_manager(workdir), lambda step: items)


@pytest.mark.parametrize("how", SPOILED)
def test_damage_is_found_or_harmless(two, tmp_path, capsys, how):
    """For every damaged file of the newest checkpoint: its arrays are unchanged, or the previous checkpoint is used."""
    fallen_back = 0
    for file in files(two, 2):
        shutil.copytree(two, tmp_path / "run", dirs_exist_ok=True)
        path = epath.Path(tmp_path / "run") / file.relative_to(two)
        path.write_bytes(SPOILED[how](path.read_bytes()))
        folder = (tmp_path / "run" / "checkpoints").resolve()
        try:
            step, items = read_newest(epath.Path(tmp_path / "run"))
        except InputError as error:
            assert path.name == checkpoints.METRICS and f"{path}: is damaged" in str(error)
            continue
        assert not unequal(items, {"network": network(step), "training": training(step)}), file
        warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
        assert len(warnings) == (step == 1)
        for line in warnings:
            assert f"{folder / '2'}: is damaged" in line and f"using the earlier {folder / '1'}." in line
        fallen_back += step == 1
    assert fallen_back >= 5


def test_all_checkpoints_damaged_is_an_error(two, tmp_path):
    shutil.copytree(two, tmp_path / "run")
    for step in (1, 2):
        (tmp_path / "run" / "checkpoints" / str(step) / "network" / "_METADATA").write_bytes(b"")
    with pytest.raises(InputError, match="all 2 checkpoints are damaged, 2 because"):
        read_newest(epath.Path(tmp_path / "run"))


def test_numbers_that_changed_on_disk_are_noticed(two):
    """Orbax itself does not detect this."""
    manager = checkpoints.open_manager(two)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manager, "restore", lambda step, args: {"network": jax.tree.map(lambda x: x + 1, network(2))})
        with pytest.raises(checkpoints.Damaged, match="its network differs from what was saved"):
            checkpoints.restore(manager, 2, network=abstract(network(2)))


def test_a_damaged_best_is_not_replaced_by_another(two, tmp_path):
    shutil.copytree(two, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "2" / "network" / "_METADATA").write_bytes(b"{")
    manager = checkpoints.open_manager(epath.Path(tmp_path / "run"))
    with pytest.raises(InputError, match="the best checkpoint is damaged"):
        checkpoints.load(manager, "best", network=abstract(network(2)))
    step, items = checkpoints.load(manager, "last", network=abstract(network(2)))
    assert step == 1 and not unequal(items["network"], network(1))


def test_a_checkpoint_without_checksums_is_not_checked(tmp_path):
    """Older versions saved no checksums."""
    saved(epath.Path(tmp_path), [0.1])
    path = tmp_path / "checkpoints" / "1" / "_CHECKPOINT_METADATA"
    path.write_text(path.read_text().replace('"crc32"', '"other"'))
    manager = checkpoints.open_manager(epath.Path(tmp_path))
    assert not unequal(checkpoints.restore(manager, 1, network=abstract(network(1)))["network"], network(1))


def test_a_checkpoint_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    manager = checkpoints.open_manager(epath.Path(tmp_path), keep=1)

    def full(step, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr(manager, "save", full)
    with pytest.raises(InputError, match=r"a checkpoint cannot be written \(RESOURCE_EXHAUSTED.*free some space"):
        checkpoints.save(manager, 1, network(1), training(1), None)
