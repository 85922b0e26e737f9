r"""Weights of the papers' authors' network, as PyTorch stores them -> a run's folder.

python -m msl_jax.import_weights --weights=FILE.pth --workdir=RUN \
    [--size=256 --normalize=minmax --labels=LV=3 --layout=acdc]
"""

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
from msl_jax.errors import InputError, raise_all
from msl_jax.models.dual_branch import DualBranchUNet
from msl_jax.models.initial import Variables, initializer
from msl_jax.models.unet import HEAD
from msl_jax.runs import checkpoints, lock
from msl_jax.runs.config import as_text
from msl_jax.settings.resolved import filled_in, method_of, model_of
from msl_jax.settings.rules import check_config
from msl_jax.system import atomic
from msl_jax.system.optional import needed

DEPTH = 5
BRANCHES = {"A": "teacher", "B": "student"}
"""The authors' names of the decoders: A learns from full masks, B from weak labels."""
COUNTER = "num_batches_tracked"
"""What PyTorch's batch norm counts and no output depends on."""
Path = tuple[str, ...]
"""Of an array in the model's variables, like ("params", "encoder", "Block_0", "Conv_0", "kernel")."""


def names(depth: int) -> dict[str, Path]:
    """Name of an entry of the authors' state dict -> the array it becomes."""
    found: dict[str, Path] = {}

    def block(prefix: str, *part: str) -> None:
        for i, (conv, norm) in enumerate(((0, 1), (3, 4))):
            found[f"{prefix}.{conv}.weight"] = ("params", *part, f"Conv_{i}", "kernel")
            found[f"{prefix}.{conv}.bias"] = ("params", *part, f"Conv_{i}", "bias")
            found[f"{prefix}.{norm}.weight"] = ("params", *part, f"BatchNorm_{i}", "scale")
            found[f"{prefix}.{norm}.bias"] = ("params", *part, f"BatchNorm_{i}", "bias")
            found[f"{prefix}.{norm}.running_mean"] = ("batch_stats", *part, f"BatchNorm_{i}", "mean")
            found[f"{prefix}.{norm}.running_var"] = ("batch_stats", *part, f"BatchNorm_{i}", "var")

    def upsampling(prefix: str, *part: str) -> None:
        found[f"{prefix}.6.weight"] = ("params", *part, "DenseGeneral_0", "kernel")
        found[f"{prefix}.6.bias"] = ("params", *part, "bias")

    for level in range(1, depth):
        block(f"enc{level}.encode", "encoder", f"Block_{level - 1}")
    block("center.decode", "encoder", "centre")
    upsampling("center.decode", "encoder", "Upsample_0")
    for letter, branch in BRANCHES.items():
        for i, level in enumerate(range(depth - 1, 1, -1)):
            block(f"dec{level}_{letter}.decode", branch, f"Block_{i}")
            upsampling(f"dec{level}_{letter}.decode", branch, f"Upsample_{i}")
        block(f"dec1_{letter}", branch, f"Block_{depth - 2}")
        found[f"final_{letter}.weight"] = ("params", branch, HEAD, "kernel")
        found[f"final_{letter}.bias"] = ("params", branch, HEAD, "bias")
    return found


def to_variables(entries: Mapping[str, np.ndarray], depth: int) -> Variables:
    """The model's variables from a state dict that holds all of `names`; float32, whatever the entries' type."""
    return unflatten_dict(
        {path: jnp.asarray(_turned(entries[name], path), jnp.float32) for name, path in names(depth).items()}
    )


def _turned(entry: np.ndarray, path: Path) -> np.ndarray:
    """PyTorch's order of a kernel's axes, (out, in, y, x) or, transposed, (in, out, y, x), into ours."""
    if entry.ndim != 4:
        return entry
    return entry.transpose((0, 2, 3, 1) if "DenseGeneral_0" in path else (2, 3, 1, 0))


def read_state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Name -> array of a file that PyTorch's `torch.save(net.state_dict(), ...)` or safetensors wrote.

    Nothing in the file is run: PyTorch reads with weights_only=True.

    Raises:
      InputError: there is no such file, it holds anything else, or PyTorch is needed and not there.
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
    except Exception as error:  # of a file that is no state dict, PyTorch raises half a dozen kinds
        said = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: is no state dict of tensors ({said}); save one by torch.save(net.state_dict(), FILE), or as "
            "FILE.safetensors."
        ) from error


def _torch(path: pathlib.Path) -> Any:
    with needed(path, "PyTorch", "torch", instead="save the weights as FILE.safetensors"):
        import torch
    return torch


def _array(tensor: Any) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def check_entries(path: pathlib.Path, entries: Mapping[str, np.ndarray], model: DualBranchUNet, size: int) -> None:
    """Raises InputError for each entry that is missing, not of the network, of another shape, or not finite."""
    wanted = dict(_shapes(model, size))
    problems = [f"{path}: has no {name}" for name in wanted if name not in entries]
    for name, entry in entries.items():
        if name.endswith(COUNTER):
            continue
        if name not in wanted:
            problems.append(f"{path}: has {name}, which the network has not")
        elif entry.shape != wanted[name]:
            problems.append(f"{path}: {name} has shape {entry.shape}, the network {wanted[name]}")
        elif not np.issubdtype(entry.dtype, np.floating) or not np.isfinite(entry).all():
            problems.append(f"{path}: {name} holds something else than finite numbers")
    raise_all([f"{problem}; give the state dict of UNet_Mixed." for problem in problems])


def _shapes(model: DualBranchUNet, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name of every entry and the shape that it needs, in PyTorch's order of axes."""
    branches = tuple(BRANCHES.values())
    draw = initializer(model, (size, size), branches)
    variables = flatten_dict(jax.eval_shape(draw, jax.random.key(0)))
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
    """Makes a run's folder of a network that was trained elsewhere: config.json and a checkpoint of step 0.

    Args:
      weights: the state dict's file.
      workdir: the folder to make.
      size: side of the images that the network takes.
      normalize: a key of NORMALIZATIONS.
      labels: name -> value of every structure, in the order of the network's classes.
      layout: a key of READERS, by which images are found in a folder.

    Raises:
      InputError: the file does not hold this network's weights, or the folder holds something.
    """
    config = settings.defaults()
    config.model.name, config.model.depth = "released", DEPTH
    config.data.size, config.data.normalization, config.data.classes = size, normalize, "+".join(labels)
    config.data.layout = layout
    check_config(config)
    method = method_of(config)
    config = filled_in(config, method, labels, channels=1, contents="", directions=None)
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
