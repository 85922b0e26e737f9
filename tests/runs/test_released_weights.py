"""The authors' network: its arrays, its outputs, and the import of its weights into a run's folder."""

import json
import pathlib
import runpy
import sys

from etils import epath
from flax.traverse_util import flatten_dict
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from msl_jax import settings
from msl_jax.errors import InputError
from msl_jax.inference.segmenter import load_network
from msl_jax.models.dual_branch import DualBranchUNet
from msl_jax.models.initial import initializer
from msl_jax.runs import released_weights
from msl_jax.runs.released_weights import BRANCHES, COUNTER, check_entries, names, to_variables

GOLDEN = pathlib.Path(__file__).parents[3] / "shared" / "golden"
SMALL = DualBranchUNet(width=2, depth=3, network="released")
SETS = dict.fromkeys(BRANCHES.values(), ("images",))


@pytest.fixture(scope="session")
def golden():
    """The entries of the authors' state dict, and their code's outputs for two images."""
    if not GOLDEN.is_dir():
        pytest.skip(f"needs {GOLDEN}")
    shapes = json.loads((GOLDEN / "unet_mixed_state_dict.json").read_text())
    value = runpy.run_path(str(GOLDEN / "unet_mixed_params.py"))["value"]
    with np.load(GOLDEN / "unet_mixed_golden.npz", allow_pickle=False) as arrays:
        return {name: value(name, tuple(shape)) for name, shape in shapes.items()}, dict(arrays)


def entries_of(model, size):
    """A state dict for a model of this shape; all entries differ."""
    generator = np.random.default_rng(0)
    return {
        name: generator.uniform(0.5, 1.5, shape).astype(np.float32)
        for name, shape in released_weights._shapes(model, size)
    }


def test_every_entry_of_the_authors_state_dict_has_its_place(golden):
    entries, _ = golden
    assert {name for name in entries if not name.endswith(COUNTER)} == set(names(5))
    check_entries(pathlib.Path("FILE"), entries, DualBranchUNet(network="released"), 256)


@pytest.mark.parametrize("image", ["a", "b"])
def test_logits_are_those_of_the_authors_code(golden, image):
    entries, arrays = golden
    model, variables = DualBranchUNet(network="released"), to_variables(entries, 5)
    images = jnp.asarray(arrays[f"{image}_input"].transpose(0, 2, 3, 1)[None])
    logits = jax.jit(lambda v, x: model.apply(v, {"images": x}, SETS, train=False))(variables, images)
    for branch in SETS:
        expected = arrays[f"{image}_{branch}_logits"].transpose(0, 2, 3, 1)
        assert abs(logits[branch]["images"][0] - expected).max() <= 1e-5 * np.ptp(expected)


def test_every_array_of_the_model_comes_from_one_entry():
    entries = entries_of(SMALL, 44)
    variables = to_variables(entries, SMALL.depth)
    drawn = jax.eval_shape(initializer(SMALL, (44, 44), tuple(SETS)), jax.random.key(0))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, drawn)
    assert len(flatten_dict(variables)) == len(entries)


def test_all_wrong_entries_are_listed():
    entries = entries_of(SMALL, 44)
    del entries["enc1.encode.0.weight"]
    entries["enc1.encode.1.num_batches_tracked"] = np.zeros((), np.int64)
    entries["dec9.weight"] = np.zeros(1, np.float32)
    entries["final_A.bias"] = np.zeros(3, np.float32)
    entries["final_B.bias"] = np.full(2, np.nan, np.float32)
    with pytest.raises(InputError) as error:
        check_entries(pathlib.Path("FILE"), entries, SMALL, 44)
    lines = str(error.value).splitlines()
    assert sorted(line.split(";")[0] for line in lines) == [
        "FILE: final_A.bias has shape (3,), the network (2,)",
        "FILE: final_B.bias contains values that are not finite numbers",
        "FILE: has dec9.weight, which the network does not have",
        "FILE: has no enc1.encode.0.weight",
    ]


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A weights file of a smaller network of the same kind; the default config is changed to match."""
    monkeypatch.setattr(released_weights, "DEPTH", 3)
    config = settings.defaults()
    config.model.width = 2
    monkeypatch.setattr(settings, "defaults", config.copy_and_resolve_references)
    entries = entries_of(SMALL, 44)
    save_file(entries, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors", entries


SETTINGS = {"size": 44, "normalize": "minmax", "labels": {"LV": 3}, "layout": "png_tree"}


def test_the_imported_run_segments_with_these_weights(weights, tmp_path):
    path, entries = weights
    workdir = epath.Path(tmp_path / "lr=0.1,b")
    released_weights.import_weights(path, workdir, **SETTINGS)
    segmenter, variables, step = load_network(workdir)
    assert step == 0 and segmenter.branches == ("teacher", "student") and segmenter.preparation.values == (0, 3)
    assert segmenter.preparation.size == (44, 44) and segmenter.preparation.normalization == "minmax"
    jax.tree.map(np.testing.assert_array_equal, variables, to_variables(entries, 3))
    volume = np.random.default_rng(0).uniform(-100, 100, (2, 30, 50, 1)).astype(np.float32)
    assert segmenter.probabilities(variables, volume, (1, 1, 1))["student"].shape == (2, 30, 50, 2)
    with pytest.raises(InputError, match="exists and is not empty"):
        released_weights.import_weights(path, workdir, **SETTINGS)


def test_errors_leave_nothing_behind(weights, tmp_path):
    path, _ = weights
    workdir = epath.Path(tmp_path / "run")
    with pytest.raises(InputError, match=r"final_A.weight has shape \(2, 2, 1, 1\), the network \(3, 2, 1, 1\)"):
        released_weights.import_weights(path, workdir, **SETTINGS | {"labels": {"LV": 3, "MYO": 2}})
    with pytest.raises(InputError, match=r"data.size: is 40; with .* give 44 or more"):
        released_weights.import_weights(path, workdir, **SETTINGS | {"size": 40})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is no state dict of tensors"):
        released_weights.import_weights(path, workdir, **SETTINGS)
    with pytest.raises(InputError, match="no such file"):
        released_weights.import_weights(tmp_path / "none.pth", workdir, **SETTINGS)
    assert not workdir.exists()


class Runs:
    """A malicious pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_a_pytorch_file_is_read_and_one_that_would_run_code_is_not(weights, tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch, the extra msl_jax[torch]")
    _, entries = weights
    torch.save({name: torch.from_numpy(entry) for name, entry in entries.items()}, tmp_path / "weights.pth")
    read = released_weights.read_state_dict(tmp_path / "weights.pth")
    assert read.keys() == entries.keys()
    for name, entry in entries.items():
        np.testing.assert_array_equal(read[name], entry)
    torch.save({"enc1.encode.0.weight": Runs(tmp_path / "it ran")}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=r"bad\.pth: is no state dict of tensors"):
        released_weights.read_state_dict(tmp_path / "bad.pth")
    assert not (tmp_path / "it ran").exists()


def test_without_pytorch_its_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "weights.pth").write_bytes(b"\x80")
    with pytest.raises(InputError, match=r"weights\.pth: needs PyTorch; .*'msl_jax\[torch\]', or save"):
        released_weights.read_state_dict(tmp_path / "weights.pth")
