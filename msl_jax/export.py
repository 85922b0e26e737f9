"""A trained network for use elsewhere: a program of XLA, an ONNX model, or the arrays alone.

python -m msl_jax.export --workdir=RUN --format=stablehlo|onnx|safetensors [--output=FILE]

What is exported takes images as the network does, float32 (batch, y, x, channel) in [0, 1], and gives every branch's
probabilities, float32 (batch, y, x, class) with background first. How a volume becomes such images, and what the
classes are called, is said in JSON that travels along (`describe`): in the metadata of ONNX and safetensors, under
"msl_jax", and beside a program of XLA, which has none.

- stablehlo: of `jax.export`, for any batch, on CPU, CUDA and TPU; `jax.export.deserialize(bytes).call(images)` gives
  branch -> probabilities. JAX promises to read it for six months.
- onnx: one image at a time, (1, y, x, channel); an output a branch. Needs the extra msl_jax[onnx].
- safetensors: all arrays, under their names in Flax joined by "/": params/encoder/Block_0/Conv_0/kernel is (y, x, in,
  out), DenseGeneral_0/kernel of an upsampling (in, y, x, out), batch_stats/... the running mean and var.
"""

from absl import flags
from etils import epath

from msl_jax import command
from msl_jax.inference.export import FORMATS, export


def main(_) -> None:
    """Writes what --format names."""
    workdir = epath.Path(WORKDIR.value)
    default = workdir / "export" / f"model.{FORMAT.value}"
    export(workdir, FORMAT.value, epath.Path(OUTPUT.value or default), OVERWRITE.value)


if __name__ == "__main__":
    WORKDIR = command.define_path("workdir", None, "Folder of the run.")
    FORMAT = flags.DEFINE_enum(
        "format",
        None,
        list(FORMATS),
        "What to write: a program of XLA, a model for onnxruntime, or the arrays alone.",
        required=True,
    )
    OUTPUT = command.define_path("output", None, "File to write; RUN/export/model.FORMAT unless given.")
    OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a file that is there already.")
    flags.mark_flags_as_required(["workdir", "format"])
    command.run(main)
