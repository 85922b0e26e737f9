"""Segments image files with one or more trained runs; label maps have the input's own grid.

python -m msl_jax.predict --workdir=RUN[,RUN...] --input=FILE_OR_FOLDER --output=FOLDER
"""

import pathlib

from absl import flags
from etils import epath

from msl_jax import command
from msl_jax.errors import InputError
from msl_jax.inference.files import predict


def main(_) -> None:
    """Segments the images of --input."""
    if OVERWRITE.value and SKIP_EXISTING.value:
        raise InputError("--overwrite: conflicts with --skip_existing; give only one of them.")
    predict(
        [epath.Path(workdir) for workdir in WORKDIR.value],
        pathlib.Path(INPUT.value),
        pathlib.Path(OUTPUT.value),
        branch=BRANCH.value,
        save_probabilities=SAVE_PROBABILITIES.value,
        calibrated=CALIBRATED.value,
        largest_component=LARGEST_COMPONENT.value,
        overwrite=OVERWRITE.value,
        skip_existing=SKIP_EXISTING.value,
    )


if __name__ == "__main__":
    WORKDIR = command.define_path_list(
        "workdir",
        "Folder of the run, or of all its folds; for several, separated by commas, probabilities are averaged.",
    )
    INPUT = command.define_path(
        "input",
        None,
        "An image, or a folder, searched recursively, in the layout of the run's data set or with images only.",
    )
    OUTPUT = command.define_path("output", None, "Folder for the label maps, which have the images' names.")
    BRANCH = flags.DEFINE_enum(
        "branch", None, ["student", "teacher"], "Branch to use; by default the one with the better validation Dice."
    )
    SAVE_PROBABILITIES = flags.DEFINE_bool(
        "save_probabilities", False, "Also write NAME_prob: a probability for each class, background first."
    )
    CALIBRATED = flags.DEFINE_bool(
        "calibrated", False, "Scale probabilities by the temperature that was fitted on each run's validation cases."
    )
    LARGEST_COMPONENT = flags.DEFINE_bool(
        "largest_component",
        None,
        "Keep only the largest connected component of every structure, or with --nolargest_component of none; by "
        "default of those where it raised validation Dice (config.eval.postprocess).",
    )
    OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace existing label maps.")
    SKIP_EXISTING = flags.DEFINE_bool("skip_existing", False, "Skip images that already have label maps.")
    flags.mark_flags_as_required(["workdir", "input", "output"])
    command.run(main)
