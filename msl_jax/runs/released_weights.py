"""Converts PyTorch weights of the network that the papers' authors released into a run's folder."""

from collections.abc import Iterator, Mapping
import json
import pathlib
from typing import Any

from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from msl_jax import plugins, settings
from msl_jax.data.preparation import STRETCH
from msl_jax.errors import InputError, raise_all
from msl_jax.models.dual_branch import DualBranchUNet
from msl_jax.models.initial import Variables, initializer
from msl_jax.models.unet import HEAD
from msl_jax.runs import checkpoints, lock
from msl_jax.runs.config import as_text
from msl_jax.settings.objects import filled_in, method_of, model_of
from msl_jax.settings.rules import check_config
from msl_jax.system import atomic
from msl_jax.system.optional import needed

DEPTH = 5
BRANCHES = {"A": "teacher", "B": "student"}
"""The authors' names of the decoders: A learns from full masks, B from weak labels."""
COUNTER = "num_batches_tracked"
"""Batch counter of PyTorch's batch norm; outputs do not depend on it."""
Path = tuple[str, ...]
"""Path of an array in the model's variables, like ("params", "encoder", "Block_0", "Conv_0", "kernel")."""


def names(depth: int) -> dict[str, Path]:
    """Name of an entry of the authors' state dict -> path of its array in the model's variables."""
    paths: dict[str, Path] = {}

    def block(prefix: str, *part: str) -> None:
        for i, (conv, norm) in enumerate(((0, 1), (3, 4))):
            paths[f"{prefix}.{conv}.weight"] = ("params", *part, f"Conv_{i}", "kernel")
            paths[f"{prefix}.{conv}.bias"] = ("params", *part, f"Conv_{i}", "bias")
            paths[f"{prefix}.{norm}.weight"] = ("params", *part, f"BatchNorm_{i}", "scale")
            paths[f"{prefix}.{norm}.bias"] = ("params", *part, f"BatchNorm_{i}", "bias")
            paths[f"{prefix}.{norm}.running_mean"] = ("batch_stats", *part, f"BatchNorm_{i}", "mean")
            paths[f"{prefix}.{norm}.running_var"] = ("batch_stats", *part, f"BatchNorm_{i}", "var")

    def upsampling(prefix: str, *part: str) -> None:
        paths[f"{prefix}.6.weight"] = ("params", *part, "DenseGeneral_0", "kernel")
        paths[f"{prefix}.6.bias"] = ("params", *part, "bias")

    for level in range(1, depth):
        block(f"enc{level}.encode", "encoder", f"Block_{level - 1}")
    block("center.decode", "encoder", "centre")
    upsampling("center.decode", "encoder", "Upsample_0")
    for letter, branch in BRANCHES.items():
        for i, level in enumerate(range(depth - 1, 1, -1)):
            block(f"dec{level}_{letter}.decode", branch, f"Block_{i}")
            upsampling(f"dec{level}_{letter}.decode", branch, f"Upsample_{i}")
        block(f"dec1_{letter}", branch, f"Block_{depth - 2}")
        paths[f"final_{letter}.weight"] = ("params", branch, HEAD, "kernel")
        paths[f"final_{letter}.bias"] = ("params", branch, HEAD, "bias")
    return paths


def to_variables(entries: Mapping[str, np.ndarray], depth: int) -> Variables:
    """The model's variables, float32, from a state dict with all entries of `names`."""
    return unflatten_dict(
        {path: jnp.asarray(_transposed(entries[name], path), jnp.float32) for name, path in names(depth).items()}
    )


def _transposed(entry: np.ndarray, path: Path) -> np.ndarray:
    """A kernel with PyTorch's order of axes, (out, in, y, x) or, for upsampling, (in, out, y, x), in Flax's order."""
    if entry.ndim != 4:
        return entry
    return entry.transpose((0, 2, 3, 1) if "DenseGeneral_0" in path else (2, 3, 1, 0))


def read_state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Name -> array of a file written by `torch.save(net.state_dict(), ...)` or safetensors.

    No code in the file is executed: PyTorch reads it with weights_only=True.

    Raises:
      InputError: there is no such file, it is not a state dict, or PyTorch is needed and not installed.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the weights as --weights=FILE.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)
        tensors = _torch(path).load(path, map_location="cpu", weights_only=True)
        return {name: _array(tensor) for name, tensor in tensors.items()}
    except InputError:
        raise
    except Exception as error:  # PyTorch raises many types for a file that is not a state dict
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: is no state dict of tensors ({reason}); save one with torch.save(net.state_dict(), FILE), or as "
            "FILE.safetensors."
        ) from error


def _torch(path: pathlib.Path) -> Any:
    with needed(path, "PyTorch", "torch", instead="save the weights as FILE.safetensors"):
        import torch
    return torch


def _array(tensor: Any) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def check_entries(path: pathlib.Path, entries: Mapping[str, np.ndarray], model: DualBranchUNet, size: int) -> None:
    """Raises InputError if entries are missing, unknown, of the wrong shape, or not finite; lists all of them."""
    shapes = dict(_shapes(model, size))
    problems = [f"{path}: has no {name}" for name in shapes if name not in entries]
    for name, entry in entries.items():
        if name.endswith(COUNTER):
            continue
        if name not in shapes:
            problems.append(f"{path}: has {name}, which the network does not have")
        elif entry.shape != shapes[name]:
            problems.append(f"{path}: {name} has shape {entry.shape}, the network {shapes[name]}")
        elif not np.issubdtype(entry.dtype, np.floating) or not np.isfinite(entry).all():
            problems.append(f"{path}: {name} contains values that are not finite numbers")
    raise_all([f"{problem}; give the state dict of UNet_Mixed." for problem in problems])


def _shapes(model: DualBranchUNet, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The name and shape of every entry, in PyTorch's order of axes."""
    branches = tuple(BRANCHES.values())
    init = initializer(model, (size, size), branches)
    variables = flatten_dict(jax.eval_shape(init, jax.random.key(0)))
    for name, path in names(model.depth).items():
        shape = variables[path].shape
        if len(shape) == 4:
            order = (0, 3, 1, 2) if "DenseGeneral_0" in path else (3, 2, 0, 1)
            shape = tuple(shape[axis] for axis in order)
        yield name, shape


def import_weights(
    weights: pathlib.Path,
    workdir: epath.Path,
    *,
    size: int,
    normalize: str,
    labels: Mapping[str, int],
    layout: str,
) -> None:
    """Creates a run's folder for a network trained elsewhere: config.json and a checkpoint at step 0.

    Args:
      weights: file of the state dict.
      workdir: the folder to create.
      size: side of the network's input images in pixels.
      normalize: a key of NORMALIZATIONS.
      labels: name -> value of every structure, in the order of the network's classes.
      layout: a key of READERS, which finds images in a folder.

    Raises:
      InputError: the file does not contain this network's weights, or the folder is not empty.
    """
    config = settings.defaults()
    config.model.name, config.model.depth = "released", DEPTH
    config.data.size, config.data.normalization, config.data.classes = size, normalize, "+".join(labels)
    config.data.layout, config.data.spacing = layout, STRETCH
    check_config(config)
    method = method_of(config)
    config = filled_in(config, method, labels, channels=1, contents="", directions=None, units=None)
    model = model_of(config)
    entries = read_state_dict(weights)
    check_entries(weights, entries, model, size)
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise InputError(f"{workdir}: exists and is not empty; give a new folder as --workdir.")
    with lock.held(workdir):
        manager = checkpoints.open_manager(workdir, keep=1)
        checkpoints.save(manager, 0, to_variables(entries, DEPTH), {"step": jnp.zeros((), jnp.int32)}, None)
        checkpoints.finish(manager)
        manager.close()
        atomic.write_text(workdir / "config.json", as_text(json.loads(config.to_json()), plugins.LOADED))
    structures = ", ".join(labels)
    print(f"{workdir}: {len(names(DEPTH))} arrays of {weights}, structures {structures}, images of {size} x {size}.")
