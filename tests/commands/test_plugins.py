"""Users' modules that add rows to the tables: what they may do, and a run with one from sweep to prediction."""

import dataclasses
import json
import sys

from etils import epath
import nibabel as nib
import numpy as np
import pytest

from files import one_sentence, save, write
import msl_jax
from msl_jax import plugins, settings
from msl_jax.data.readers import READERS
from msl_jax.data.weak_labels import RECIPES
from msl_jax.errors import InputError
from msl_jax.methods.mixing import MIXES
from msl_jax.methods.table import METHODS, Method
from msl_jax.methods.terms import TERMS
from msl_jax.models.dual_branch import NETWORKS
from msl_jax.runs.config import claim, read
from msl_jax.training.sweep import is_done
from processes import finished, start

MINE = """
import dataclasses
import functools
from msl_jax import plugins
from msl_jax.data.readers import phantom
from msl_jax.data.weak_labels import erosion
from msl_jax.methods.losses import entropy
from msl_jax.methods.mixing import Mix, fixed_boxes, rotate
from msl_jax.methods.table import Method
from msl_jax.methods.terms import Term
from msl_jax.models.dual_branch import NETWORKS

def read(source):
    return phantom.READER.read(source)

def thin(mask, where, style):
    return erosion(mask, where, style)

plugins.register_term("doubt", Term(("student",), "weak", lambda logits, *_: entropy(logits["student"])))
halves = functools.partial(fixed_boxes, share=0.5)
plugins.register_mix("halves", Mix(("weak",), functools.partial(rotate, draw_boxes=halves, name="weak")))
plugins.register_method("mine", Method({"s": 1.0, "w": 0.5, "kd": 1.0, "doubt": 0.25}, mix="halves"))
plugins.register_reader("ours", dataclasses.replace(phantom.READER, read=read))
plugins.register_recipe("thin", thin)
plugins.register_network("again", NETWORKS["unet"])
"""


def test_a_run_of_a_plugin_from_its_sweep_to_its_masks(tmp_path, tiny_flags, command, tables, monkeypatch):
    write(tmp_path, {"my_plugin.py": MINE})
    save(tmp_path / "images" / "a.nii.gz", np.random.default_rng(0).random((3, 40, 40)).astype(np.float32))
    ours = {"data.layout": "ours", "data.weak": "thin", "model.name": "again", "method.terms.doubt": 0.75}
    short = {f"train.{key}": 2 for key in ("steps", "report_every", "checkpoint_every", "validate_every")}
    flags = [f"--config.{key}={value}" for key, value in (ours | short).items()]
    sweep = ["--methods=mine", "--strong=2", "--seeds=0", "--workdir=sweep", "--plugins=my_plugin"]
    done = finished(start("sweep", "--config=phantom", *tiny_flags, *flags, *sweep, folder=tmp_path))
    run = tmp_path / "sweep" / "mine" / "strong2" / "seed0"
    assert done.returncode == 0, done.stderr + (run / "train.log").read_text()
    config = json.loads((run / "config.json").read_text())
    assert config["plugins"] == ["my_plugin"] and config["method"]["terms"]["doubt"] == 0.75
    assert config["method"]["mix"] == "halves"
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header[:7] == ["step", "learning_rate", "loss", "s", "w", "kd", "doubt"]

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    predict = ["predict", f"--workdir={run}", "--input=images", "--output=masks"]
    words = [f"{run}/config.json", "needs plugins that are not loaded; give --plugins=my_plugin,"]
    for argv in (predict, ["main", "--config=phantom:method=mine", *flags, f"--workdir={run}"]):
        one_sentence(*command(*argv), words)
        assert not (tmp_path / "masks").exists()
    with pytest.raises(InputError, match=r"or in Python call plugins.load\(\['my_plugin'\]\)\.$"):
        msl_jax.load(run)
    assert command(*predict, "--plugins", "my_plugin")[0] is None
    files = [nib.load(tmp_path / folder / "a.nii.gz") for folder in ("images", "masks")]
    (image, labels), spacing = [file.get_fdata().T for file in files], files[0].header.get_zooms()[::-1]
    plugins.load(["my_plugin"])
    np.testing.assert_array_equal(msl_jax.load(run).predict(image, spacing=spacing), labels)


def test_registering_adds_a_row(tables):
    term = dataclasses.replace(TERMS["ent"])
    plugins.register_term("doubt", term)
    plugins.register_term("doubt", term)
    plugins.register_method("mine", Method({"s": 1.0, "doubt": 0.5}))
    plugins.register_method("mine", Method({"s": 1.0, "doubt": 0.5}))
    assert METHODS["mine"].branches() == {"teacher": ("strong",), "student": ("weak",)}
    assert "doubt" in settings.load("phantom", "method=mine").method.terms


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda: plugins.register_method("kl", Method({"s": 2.0})), "the method 'kl': the name is taken"),
        (lambda: plugins.register_term("loss", TERMS["s"]), "the term 'loss': the name is taken"),
        (lambda: plugins.register_term("a b", TERMS["s"]), "the term 'a b': is not a valid name"),
        (lambda: plugins.register_term("items", TERMS["s"]), "the term 'items': is not a valid name"),
        (lambda: plugins.register_mix("none", MIXES["weak"]), "the mix 'none': the name is taken"),
        (lambda: plugins.register_reader("acdc", READERS["msd"]), "the reader 'acdc': the name is taken"),
        (lambda: plugins.register_network("unet", NETWORKS["released"]), "the network 'unet': the name is taken"),
        (lambda: plugins.register_recipe("drawn", RECIPES["box"]), "the recipe 'drawn': the name is taken"),
    ],
)
def test_a_name_that_cannot_be_used(tables, add, message):
    with pytest.raises(InputError, match=f"^{message}; choose another"):
        add()


MODULES = {
    "nowhere_at_all": (None, ["there is no module nowhere_at_all", "PYTHONPATH"]),
    "my-module": (None, ["is not a module name", "like my_module"]),
    "fails_a": ("import nowhere_at_all", ["ModuleNotFoundError", "'nowhere_at_all'", "MSL_JAX_TRACEBACK"]),
    "fails_b": ("1 / 0", ["ZeroDivisionError", "correct it"]),
    "fails_c": (
        "from msl_jax import plugins\nplugins.register_recipe('box', print)",
        ["the recipe 'box': the name is taken", "choose another"],
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_cannot_be_loaded(tables, refused, tmp_path, monkeypatch, name):
    text, words = MODULES[name]
    write(tmp_path, {f"{name}.py": text} if text else {})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    refused(
        ["predict", f"--plugins={name}", "--workdir=RUN", "--input=x", "--output=y"], [f"--plugins={name}: ", *words]
    )


def test_runs_list_their_plugins_but_import_none(tables, untrained, tmp_path):
    run, config = untrained("method=kl_ent,strong=2,seed=1"), tmp_path / "config.json"
    settings = json.loads((run / "config.json").read_text())
    assert "plugins" not in settings
    write(tmp_path, {"lies_here.py": "raise SystemExit"})
    for given, message in (
        (["lies_here", "json"], r"not loaded; give --plugins=lies_here,json, or"),
        ("lies_here", "make it a list"),
        ([1], "make it a list"),
    ):
        config.write_text(json.dumps(settings | {"plugins": given}))
        with pytest.raises(InputError, match=f"config.json: .*{message}"):
            read(tmp_path)
    config.write_text(json.dumps(settings | {"plugins": ["json"]}))
    assert read(tmp_path)["plugins"] == ["json"] and "lies_here" not in sys.modules


def test_a_run_keeps_the_plugins_it_was_started_with(tables, opened, tmp_path, monkeypatch):
    experiment, workdir = opened(), epath.Path(tmp_path)
    for now, kept in ((["json"], ["json"]), (["json", "csv"], ["json"])):
        monkeypatch.setattr(plugins, "LOADED", now)
        claim(experiment, workdir)
        assert read(workdir)["plugins"] == kept and not is_done(tmp_path, experiment.config)
    assert plugins.flag() == "--plugins=json,csv"
