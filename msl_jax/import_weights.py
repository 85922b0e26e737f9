r"""Weights of the papers' authors' network, as PyTorch stores them -> a run's folder.

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
    """Reads what --weights names."""
    import_weights(
        pathlib.Path(WEIGHTS.value),
        epath.Path(WORKDIR.value),
        size=SIZE.value,
        normalize=NORMALIZE.value,
        labels=parse_labels(LABELS.value, "--labels"),
        layout=LAYOUT.value,
    )


if __name__ == "__main__":
    WEIGHTS = command.define_path("weights", None, "PyTorch's file of a state dict, or one that ends in .safetensors.")
    WORKDIR = command.define_path("workdir", None, "Folder of the run that is made of them.")
    SIZE = flags.DEFINE_integer("size", 256, "Side of the images that the network takes.")
    NORMALIZE = flags.DEFINE_enum(
        "normalize", "minmax", list(NORMALIZATIONS), "How a volume's intensities become [0, 1]."
    )
    LABELS = flags.DEFINE_string("labels", "LV=3", "The network's structures and their values in label maps.")
    LAYOUT = command.define_choice("layout", "acdc", READERS, "How the folders look in which images are found.")
    flags.mark_flags_as_required(["weights", "workdir"])
    command.run(main)
