"""Checks and builds a data set before training and reports its contents and splits.

Every unusable case is an error with its fix; suspicious ones are warnings. It also prints the values and the reasons of
settings that are "auto", takes a few training steps, and says how long training will take (--notimed: not).

python -m msl_jax.prepare --config=configs/acdc.py [--config.data.source=FOLDER] [--output=FOLDER]
"""

from absl import flags
from etils import epath

from msl_jax import command
from msl_jax.training.preview import prepare


def main(_) -> None:
    """Builds and reports."""
    prepare(CONFIG.value, epath.Path(OUTPUT.value), timed=TIMED.value)


if __name__ == "__main__":
    CONFIG = command.define_config()
    OUTPUT = command.define_path(
        "output", "runs/prepare", "Folder for the report, report.txt, and a page of pictures, cases.png."
    )
    TIMED = flags.DEFINE_bool("timed", True, "Also take a few training steps, and say how long training will take.")
    flags.mark_flags_as_required(["config"])
    command.run(main)
