"""Exported networks give the run's outputs and describe themselves."""

import json
import sys

from etils import epath
from flax.traverse_util import flatten_dict
import jax
from jax import export as jax_export
from ml_collections import ConfigDict
import numpy as np
import pytest
from safetensors import safe_open

from msl_jax.errors import InputError
from msl_jax.inference.export import FORMATS, KEY, describe, export
from msl_jax.inference.segmenter import load_network
from msl_jax.runs.config import read_config
from msl_jax.runs.selection import undecided

IMAGES = np.random.default_rng(0).uniform(size=(3, 32, 32, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def run(untrained):
    return untrained("method=kl_ent,classes=all")


@pytest.fixture(scope="module")
def trained(run):
    segmenter, variables, _ = load_network(run)
    return variables, jax.jit(segmenter.softmax)(variables, IMAGES)


@pytest.fixture
def exported(run, tmp_path):
    """make(format) -> the file."""

    def make(form):
        export(run, form, epath.Path(tmp_path / f"model.{form}"))
        return tmp_path / f"model.{form}"

    return make


def check_described(text):
    metadata = json.loads(text)
    assert metadata["branches"] == ["teacher", "student"] and metadata["method"] == "kl_ent" and metadata["step"] == 1
    assert metadata["branch"] == "student" and metadata["largest_component"] == {"teacher": [], "student": []}
    assert metadata["classes"] == {"background": 0, "RV": 1, "MYO": 2, "LV": 3} and metadata["channels"] == 1
    preprocessing = metadata["preprocessing"]
    assert preprocessing["size"] == 32 and preprocessing["normalization"] == "percentiles"
    assert preprocessing["spacing"] == 8 and "to pixels of `spacing`" in preprocessing["resampling"]
    assert preprocessing["windows"].startswith("images are windows of `size`") and preprocessing["mirror"] is False


@pytest.mark.parametrize(
    ("spacing", "told"),
    [("stretch", "resized to `size`"), ("native", "keep their pixels"), (0.7, "to pixels of `spacing`")],
)
def test_the_resampling_is_described(run, spacing, told):
    config = read_config(run)
    selected = undecided(config)
    config = config.to_dict()
    config["data"]["spacing"] = spacing
    preprocessing = describe(ConfigDict(config), ("student",), 1, selected)["preprocessing"]
    assert preprocessing["spacing"] == spacing and told in preprocessing["resampling"]


def test_stablehlo_accepts_any_batch_size(exported, trained):
    path = exported("stablehlo")
    program = jax_export.deserialize(bytearray(path.read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    for n in (1, 3):
        got = program.call(IMAGES[:n])
        for branch, expected in trained[1].items():
            np.testing.assert_allclose(got[branch], expected[:n], atol=1e-5)
    check_described(path.with_name("model.stablehlo.json").read_text())


def test_onnx_agrees_with_onnxruntime(exported, trained):
    pytest.importorskip("jax2onnx", reason="needs the extra msl_jax[onnx]")
    import onnxruntime

    with jax.numpy_rank_promotion("allow"):  # jax2onnx adds biases without the other axes
        path = exported("onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for i in range(len(IMAGES)):
        got = session.run(list(trained[1]), {"images": IMAGES[i : i + 1]})
        for mine, expected in zip(got, trained[1].values(), strict=True):
            np.testing.assert_allclose(mine[0], expected[i], atol=1e-4)
    check_described(session.get_modelmeta().custom_metadata_map[KEY])


def test_safetensors_contain_every_array(exported, trained):
    with safe_open(exported("safetensors"), framework="numpy") as file:
        got = {name: file.get_tensor(name) for name in file.keys()}
        check_described(file.metadata()[KEY])
    expected = flatten_dict(trained[0], sep="/")
    assert got.keys() == expected.keys() and "params/encoder/Block_0/Conv_0/kernel" in got
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_files_are_not_overwritten_by_default(run, tmp_path, form):
    path = epath.Path(tmp_path / "model")
    path.write_text("kept")
    with pytest.raises(InputError, match="exists; give another --output, or --overwrite"):
        export(run, form, path)
    assert path.read_text() == "kept" and len(list(tmp_path.iterdir())) == 1


def test_without_jax2onnx_its_format_is_refused(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(InputError, match=r"^--format=onnx: needs jax2onnx; .* 'msl_jax\[onnx\]'\.$"):
        exported("onnx")
