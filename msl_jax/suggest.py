"""Ranks unannotated images by a run's uncertainty, to choose which case to annotate next.

python -m msl_jax.suggest --workdir=RUN --input=FOLDER [--output=FOLDER]

    suggest.csv    a row per case, the one to annotate first on top: score, entropy, disagreement, most uncertain slice
    suggest.png    that slice of the first cases, with both branches' outlines and the entropy

The score is the mean of entropy and disagreement, both between 0 and 1. Entropy is the student's entropy / log(classes)
over the voxels that either branch labels as a structure; over all voxels it would depend on the structures' size.
Disagreement is 1 - Dice of student and teacher, two networks that learned from different labels (query by committee,
Seung et al., COLT 1992). With a single branch, the score is the entropy.
"""

import pathlib

from absl import flags
from etils import epath

from msl_jax import command
from msl_jax.evaluation.suggestions import report, suggest


def main(_) -> None:
    """Ranks the images of --input."""
    output = pathlib.Path(OUTPUT.value)
    print(report(suggest(epath.Path(WORKDIR.value), pathlib.Path(INPUT.value), output), output))


if __name__ == "__main__":
    WORKDIR = command.define_path("workdir", None, "Folder of the run, or of all its folds.")
    INPUT = command.define_path("input", None, "Folder of unannotated images, searched recursively.")
    OUTPUT = command.define_path(
        "output", "runs/suggest", "Folder for the ranking, suggest.csv, and a picture of the first cases, suggest.png."
    )
    flags.mark_flags_as_required(["workdir", "input"])
    command.run(main)
