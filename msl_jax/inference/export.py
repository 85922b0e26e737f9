"""Exports a trained network as StableHLO, ONNX or arrays; `msl_jax/export.py` describes the formats."""

from collections.abc import Callable, Mapping
import contextlib
import importlib.metadata
import io
import json
import logging
from typing import Any

from etils import epath
from flax.traverse_util import flatten_dict
import jax
from jax import export as jax_export
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import safetensors.numpy

from msl_jax.data.preparation import NATIVE, STRETCH
from msl_jax.errors import InputError
from msl_jax.inference.segmenter import load_network
from msl_jax.models.initial import Variables
from msl_jax.runs import selection
from msl_jax.runs.config import read_config
from msl_jax.runs.selection import Selection
from msl_jax.system import atomic
from msl_jax.system.optional import needed

KEY = "msl_jax"
"""Metadata key of the JSON that `describe` returns."""
TO_SPACING = "slices are resized to pixels of `spacing` (y, x): linear, half-pixel centres, antialiased"
RESAMPLING = {
    NATIVE: "slices keep their pixels",
    STRETCH: "slices are resized to `size` (y, x), whatever their pixels: linear, half-pixel centres",
}
"""Value of data.spacing -> the resampling of slices; TO_SPACING for any other."""
WINDOWS = (
    "images are windows of `size`, each half covered by the next; slices smaller than that get 0 around them, half of "
    "it before, rounded down; probabilities are averaged with Gaussian weights of standard deviation size / 8"
)
Function = Callable[[jax.Array], Mapping[str, jax.Array]]
"""Images (batch, y, x, channel) -> branch -> probabilities (batch, y, x, class)."""


def describe(config: ConfigDict, branches: tuple[str, ...], step: int, selected: Selection) -> dict[str, Any]:
    """What a user of the exported network needs to know about the run, for JSON."""
    data = config.data.to_dict()
    preprocessing = ("axis", "directions", "normalization", "percentiles", "window", "spacing", "size")
    return {
        "version": importlib.metadata.version("msl_jax"),
        "step": step,
        "method": config.method.name,
        "network": config.model.name,
        "branches": branches,
        "branch": selected.branch,
        "largest_component": selected.largest_component,
        "temperature": selected.temperature,
        "classes": {"background": 0, **data["classes"]},
        "channels": data["channels"],
        "preprocessing": {
            **{key: data[key] for key in preprocessing},
            "resampling": RESAMPLING.get(str(data["spacing"]), TO_SPACING),
            "windows": WINDOWS,
            "mirror": config.eval.mirror,
        },
    }


def to_stablehlo(function: Function, variables: Variables, shape: tuple[int, ...], metadata: str) -> bytes:
    """The serialized program, including the weights."""
    batch, *rest = jax_export.symbolic_shape(f"batch, {', '.join(map(str, shape))}")
    images = jax.ShapeDtypeStruct((batch, *rest), jnp.float32)
    return bytes(jax_export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(images).serialize())


def to_onnx(function: Function, variables: Variables, shape: tuple[int, ...], metadata: str) -> bytes:
    """An ONNX model; raises InputError if jax2onnx is not installed."""
    with needed("--format=onnx", "jax2onnx", "onnx"):
        import jax2onnx
    branches = tuple(jax.eval_shape(function, jax.ShapeDtypeStruct((1, *shape), jnp.float32)))
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        logging.disable(logging.WARNING)
        try:
            model = jax2onnx.to_onnx(
                lambda images: tuple(function(images)[branch] for branch in branches),
                [(1, *shape)],
                model_name="msl_jax",
                input_names=["images"],
                output_names=list(branches),
            )
        finally:
            logging.disable(logging.NOTSET)
    model.metadata_props.add(key=KEY, value=metadata)
    return model.SerializeToString()


def to_safetensors(function: Function, variables: Variables, shape: tuple[int, ...], metadata: str) -> bytes:
    """Every array of the network by its name."""
    arrays = {name: np.asarray(array) for name, array in flatten_dict(variables, sep="/").items()}
    return safetensors.numpy.save(arrays, metadata={KEY: metadata})


FORMATS = {"stablehlo": to_stablehlo, "onnx": to_onnx, "safetensors": to_safetensors}
"""Format and file extension -> function: (function, variables, (y, x, channel), metadata as JSON) -> file content."""
HAVE_METADATA = ("onnx", "safetensors")
"""Formats that store metadata; for the others, it goes into a JSON file next to the output."""


def export(workdir: epath.Path, form: str, output: epath.Path, overwrite: bool = False) -> None:
    """Writes the network of a run's checkpoint, last or best as in its config.eval.checkpoint.

    Args:
      workdir: the run's folder.
      form: a key of FORMATS.
      output: the file to write.
      overwrite: replace existing files.

    Raises:
      InputError: there is no run, its selection.json is damaged, an output exists, or a package that the format needs
        is not installed.
    """
    config = read_config(workdir)
    selected = selection.read(workdir, config)
    beside = [] if form in HAVE_METADATA else [output.with_name(output.name + ".json")]
    for path in (output, *beside):
        if path.exists() and not overwrite:
            raise InputError(f"{path}: exists; give another --output, or --overwrite.")
    segmenter, variables, step = load_network(workdir, config.eval.checkpoint)
    metadata = json.dumps(describe(config, segmenter.branches, step, selected), indent=2)
    shape = (*segmenter.preparation.size, config.data.channels)
    contents = FORMATS[form](lambda images: segmenter.softmax(variables, images), variables, shape, metadata)
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(output, contents)
    for path in beside:
        atomic.write_text(path, metadata + "\n")
    print(f"{output}: {', '.join(segmenter.branches)} of step {step}, {len(contents) / 1e6:.1f} MB")
