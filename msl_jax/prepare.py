"""Checks a data set, builds it and says what is in it and who is in which role, before anything trains.

Every case that cannot be used is named, each with what is wrong and what to do; what looks odd is a warning.

python -m msl_jax.prepare --config=configs/acdc.py [--config.data.source=FOLDER] [--output=FOLDER]
"""

from absl import flags
from etils import epath

from msl_jax import command
from msl_jax.training.preview import prepare


def main(_) -> None:
    """Builds and reports."""
    prepare(CONFIG.value, epath.Path(OUTPUT.value))


if __name__ == "__main__":
    CONFIG = command.define_config()
    OUTPUT = command.define_path(
        "output", "runs/prepare", "Folder for what it finds, report.txt, and a page of pictures, cases.png."
    )
    flags.mark_flags_as_required(["config"])
    command.run(main)
