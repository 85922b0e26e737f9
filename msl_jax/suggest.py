"""Ranks images that nobody annotated by how little a run knows of them: which case to annotate next.

python -m msl_jax.suggest --workdir=RUN --input=FOLDER [--output=FOLDER]

    suggest.csv    a row a case, the one to annotate first on top: score, entropy, disagreement, and its worst slice
    suggest.png    the worst slice of the first cases, with both branches' outlines and the entropy

The score is the mean of two numbers between 0 and 1. Entropy is the student's, as a share of log(classes), over the
voxels that either branch takes for a structure: over all voxels it would say how large the structures are. Disagreement
is 1 less the Dice of student and teacher, two networks that learned from other labels (query by committee, Seung et
al., COLT 1992). A run of one branch is asked for its entropy alone.
"""

import pathlib

from absl import flags
from etils import epath

from msl_jax import command
from msl_jax.evaluation.suggestions import report, suggest


def main(_) -> None:
    """Ranks what --input holds."""
    output = pathlib.Path(OUTPUT.value)
    print(report(suggest(epath.Path(WORKDIR.value), pathlib.Path(INPUT.value), output), output))


if __name__ == "__main__":
    WORKDIR = command.define_path("workdir", None, "Folder of the run.")
    INPUT = command.define_path("input", None, "Folder that is searched through for images without annotation.")
    OUTPUT = command.define_path(
        "output", "runs/suggest", "Folder for the ranking, suggest.csv, and the first cases drawn, suggest.png."
    )
    flags.mark_flags_as_required(["workdir", "input"])
    command.run(main)
