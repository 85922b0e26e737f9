"""Segments files of volumes with a trained run, or several together: label maps on the input's own grid.

python -m msl_jax.predict --workdir=RUN[,RUN...] --input=FILE_OR_FOLDER --output=FOLDER
"""

import pathlib

from absl import flags
from etils import epath

from msl_jax import command
from msl_jax.errors import InputError
from msl_jax.inference.files import predict


def main(_) -> None:
    """Segments what --input names."""
    if OVERWRITE.value and SKIP_EXISTING.value:
        raise InputError("--overwrite: goes against --skip_existing; give one of them.")
    predict(
        [epath.Path(workdir) for workdir in WORKDIR.value],
        pathlib.Path(INPUT.value),
        pathlib.Path(OUTPUT.value),
        branch=BRANCH.value,
        save_probabilities=SAVE_PROBABILITIES.value,
        largest_component=LARGEST_COMPONENT.value,
        overwrite=OVERWRITE.value,
        skip_existing=SKIP_EXISTING.value,
    )


if __name__ == "__main__":
    WORKDIR = command.define_path_list(
        "workdir", "Folder of the run; of several, joined by commas, the mean of their probabilities is taken."
    )
    INPUT = command.define_path(
        "input",
        None,
        "An image, or a folder that is searched through, laid out as the run's data set or with images alone.",
    )
    OUTPUT = command.define_path("output", None, "Folder for the label maps, which are called as the images are.")
    BRANCH = flags.DEFINE_enum(
        "branch", None, ["student", "teacher"], "Whose label maps; the student's where there is one, unless given."
    )
    SAVE_PROBABILITIES = flags.DEFINE_bool(
        "save_probabilities", False, "Also write NAME_prob: a probability for each class, background first."
    )
    LARGEST_COMPONENT = flags.DEFINE_bool(
        "largest_component", False, "Keep the largest connected component of each structure alone."
    )
    OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace label maps that are there already.")
    SKIP_EXISTING = flags.DEFINE_bool(
        "skip_existing", False, "Go on with a folder: pass over images whose label maps are there already."
    )
    flags.mark_flags_as_required(["workdir", "input", "output"])
    command.run(main)
