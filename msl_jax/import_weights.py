r"""Converts PyTorch weights of the network that the papers' authors released into a run's folder.

python -m msl_jax.import_weights --weights=FILE.pth --workdir=RUN \
    [--size=256 --normalize=minmax --labels=LV=3 --layout=acdc]
"""

import pathlib

from absl import flags
from etils import epath

from msl_jax import command
from msl_jax.data.intensity import NORMALIZATIONS
from msl_jax.data.readers import READERS
from msl_jax.runs.released_weights import import_weights
from msl_jax.settings.rules import parse_labels


def main(_) -> None:
    """Imports the weights of --weights."""
    import_weights(
        pathlib.Path(WEIGHTS.value),
        epath.Path(WORKDIR.value),
        size=SIZE.value,
        normalize=NORMALIZE.value,
        labels=parse_labels(LABELS.value, "--labels"),
        layout=LAYOUT.value,
    )


if __name__ == "__main__":
    WEIGHTS = command.define_path("weights", None, "File with a PyTorch state dict, or a .safetensors file.")
    WORKDIR = command.define_path("workdir", None, "Folder of the new run.")
    SIZE = flags.DEFINE_integer("size", 256, "Side of the network's input images in pixels.")
    NORMALIZE = flags.DEFINE_enum("normalize", "minmax", list(NORMALIZATIONS), "How intensities are scaled to [0, 1].")
    LABELS = flags.DEFINE_string("labels", "LV=3", "The network's structures and their values in label maps.")
    LAYOUT = command.define_choice("layout", "acdc", READERS, "Layout of the folders with images.")
    flags.mark_flags_as_required(["weights", "workdir"])
    command.run(main)
