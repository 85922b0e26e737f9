"""A new run that starts from the weights of another one's last checkpoint, config.init_from."""

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
SAME = (("model", "name"), ("model", "width"), ("model", "depth"), ("data", "channels"))
"""Settings that give the arrays their shapes, in which both runs must agree."""


def check(config: ConfigDict, workdir: os.PathLike) -> None:
    """Refuses a config.init_from from which the run in `workdir` could not start; one that has a checkpoint need not.

    Args:
      config: filled in.
      workdir: of the run that may be new.

    Raises:
      InputError: config.init_from holds no run, none with a checkpoint, or one of a network of another shape.
    """
    if config.init_from and checkpoints.open_manager(epath.Path(workdir)).latest_step() is None:
        _source(config)


def load(config: ConfigDict, branches: tuple[str, ...]) -> Arrays:
    """What a new run takes over: all that both networks have, the heads only where the classes are the same, in order.

    Prints what is taken and what is drawn anew.

    Args:
      config: filled in; nothing is taken where its init_from is not set.
      branches: those the new run trains.

    Raises:
      InputError: as `check`.
    """
    if not config.init_from:
        return {}
    workdir, classes = _source(config)
    _, variables, step = load_network(workdir)
    there = jax.device_get(variables)
    same_classes = classes == list(config.data.classes)
    parts = [part for part in ("encoder", *branches) if part in there["params"]]
    anew = [f"{branch} (not trained there)" for branch in branches if branch not in parts]
    if not same_classes:
        anew.append(f"output convolutions (classes there: {'+'.join(classes)})")
    if jax.process_index() == 0:
        names = ", ".join(parts), ", ".join(anew) or "nothing"
        print(f"Starts from {workdir}, step {step}: {names[0]}; drawn anew: {names[1]}.", flush=True)
    return {
        path: array
        for path, array in flatten_dict(there).items()
        if path[1] in parts and (same_classes or path[2] != HEAD)
    }


def put(taken: Arrays, drawn: Variables) -> Variables:
    """A model's variables, freshly drawn, with what was taken over in its place."""
    return unflatten_dict({**flatten_dict(drawn), **taken})


def _source(config: ConfigDict) -> tuple[epath.Path, list[str]]:
    """The folder of config.init_from, where a new run can start from it, and its classes."""
    workdir = epath.Path(expanded(config.init_from))
    if not (workdir / "config.json").exists():
        raise InputError(f"config.init_from: {workdir} holds no run (no config.json); give the folder of one.")
    there = read_config(workdir)
    if checkpoints.open_manager(workdir).latest_step() is None:
        raise InputError(f"config.init_from: {workdir} holds no checkpoint; train that run first, or give another.")
    for group, key in SAME:
        if config[group][key] != there[group][key]:
            raise InputError(
                f"config.{group}.{key}: is {config[group][key]}, but {there[group][key]} in the run of "
                f"config.init_from={workdir}; give the same, or another run."
            )
    return workdir, list(there.data.classes)
