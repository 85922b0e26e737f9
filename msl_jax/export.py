"""Exports a trained network as StableHLO, as an ONNX model, or as arrays.

python -m msl_jax.export --workdir=RUN --format=stablehlo|onnx|safetensors [--output=FILE]

The input is the network's, images float32 (batch, y, x, channel) in [0, 1]; the output is every branch's probabilities,
float32 (batch, y, x, class), background first. The preprocessing and the classes are described in JSON (`describe`):
under "msl_jax" in the metadata of ONNX and safetensors, and in a file beside StableHLO, which has no metadata.

- stablehlo: from `jax.export`, for any batch size, on CPU, CUDA and TPU; `jax.export.deserialize(bytes).call(images)`
  returns branch -> probabilities. JAX guarantees six months of compatibility.
- onnx: one image at a time, (1, y, x, channel); an output per branch. Needs the extra msl_jax[onnx].
- safetensors: all arrays, by their names in Flax joined by "/": params/encoder/Block_0/Conv_0/kernel is (y, x, in,
  out), DenseGeneral_0/kernel of an upsampling (in, y, x, out), batch_stats/... the running mean and var.
"""

from absl import flags
from etils import epath

from msl_jax import command
from msl_jax.inference.export import FORMATS, export


def main(_) -> None:
    """Writes the network in the format of --format."""
    workdir = epath.Path(WORKDIR.value)
    default = workdir / "export" / f"model.{FORMAT.value}"
    export(workdir, FORMAT.value, epath.Path(OUTPUT.value or default), OVERWRITE.value)


if __name__ == "__main__":
    WORKDIR = command.define_path("workdir", None, "Folder of the run.")
    FORMAT = flags.DEFINE_enum(
        "format",
        None,
        list(FORMATS),
        "Format: an XLA program, a model for onnxruntime, or only the arrays.",
        required=True,
    )
    OUTPUT = command.define_path("output", None, "File to write; by default RUN/export/model.FORMAT.")
    OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing file.")
    flags.mark_flags_as_required(["workdir", "format"])
    command.run(main)
