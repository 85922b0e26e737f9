"""Starts a new run from the weights of another run's last checkpoint, config.init_from."""

from collections.abc import Mapping
import os

from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
import jax
from ml_collections import ConfigDict
import numpy as np

from msl_jax.errors import InputError
from msl_jax.inference.segmenter import load_network
from msl_jax.models.initial import Variables
from msl_jax.models.unet import HEAD
from msl_jax.runs import checkpoints
from msl_jax.runs.config import read_config
from msl_jax.system.paths import expanded

Arrays = Mapping[tuple[str, ...], np.ndarray]
"""Path of an array in a model's variables, like ("params", "teacher", "Conv_0", "bias") -> the array."""
SAME = (
    *(("model", key) for key in ("name", "norm", "width", "depth", "deep_supervision")),
    ("data", "channels"),
)
"""Settings that determine the arrays' shapes; both runs must have the same."""


def check(config: ConfigDict, workdir: os.PathLike) -> None:
    """Checks config.init_from for a new run; a run with a checkpoint in `workdir` no longer needs it.

    Args:
      config: the filled-in config.
      workdir: folder of the run.

    Raises:
      InputError: config.init_from contains no run, no checkpoint, or a network of another shape.
    """
    if config.init_from and checkpoints.open_manager(epath.Path(workdir)).latest_step() is None:
        _source(config)


def load(config: ConfigDict, branches: tuple[str, ...]) -> Arrays:
    """Loads the arrays that both networks have; the heads only if the classes and their order are the same.

    Prints which parts are loaded and which are initialised at random.

    Args:
      config: the filled-in config; without init_from nothing is loaded.
      branches: branches that the new run trains.

    Raises:
      InputError: as `check`.
    """
    if not config.init_from:
        return {}
    workdir, classes = _source(config)
    _, variables, step = load_network(workdir)
    source = jax.device_get(variables)
    same_classes = classes == list(config.data.classes)
    parts = [part for part in ("encoder", *branches) if part in source["params"]]
    random = [f"{branch} (not trained there)" for branch in branches if branch not in parts]
    if not same_classes:
        random.append(f"output convolutions (classes there: {'+'.join(classes)})")
    if jax.process_index() == 0:
        names = ", ".join(parts), ", ".join(random) or "nothing"
        print(f"Starts from {workdir}, step {step}: {names[0]}; randomly initialised: {names[1]}.", flush=True)
    return {
        path: array
        for path, array in flatten_dict(source).items()
        if path[1] in parts and (same_classes or not path[2].startswith(HEAD))
    }


def insert(loaded: Arrays, variables: Variables) -> Variables:
    """A model's variables with the loaded arrays in place of its own; arrays that it does not have are ignored."""
    own = flatten_dict(variables, keep_empty_nodes=True)
    return unflatten_dict({path: loaded.get(path, array) for path, array in own.items()})


def _source(config: ConfigDict) -> tuple[epath.Path, list[str]]:
    """The folder of config.init_from, checked, and its classes."""
    workdir = epath.Path(expanded(config.init_from))
    if not (workdir / "config.json").exists():
        raise InputError(f"config.init_from: {workdir} contains no run (no config.json); give a run's folder.")
    source = read_config(workdir)
    if checkpoints.open_manager(workdir).latest_step() is None:
        raise InputError(f"config.init_from: {workdir} contains no checkpoint; train that run first, or give another.")
    for group, key in SAME:
        if config[group][key] != source[group][key]:
            raise InputError(
                f"config.{group}.{key}: is {config[group][key]}, but {source[group][key]} in the run of "
                f"config.init_from={workdir}; give the same value, or another run."
            )
    return workdir, list(source.data.classes)
