"""Trains the experiment of a config, then evaluates it on the test split; rerun the same command to resume.

python -m msl_jax.main --config=configs/acdc.py[:ARG] --workdir=RUN [--config.KEY=VALUE ...]
"""

from msl_jax.system import restart

if __name__ == "__main__":
    restart.restart_on_huge_pages()  # before the imports, which would be done twice

from absl import flags
from etils import epath

from msl_jax import command
from msl_jax.training.complete import train_and_evaluate


def main(_) -> None:
    """Trains, then evaluates the test split."""
    train_and_evaluate(CONFIG.value, epath.Path(WORKDIR.value), distributed=DISTRIBUTED.value)


if __name__ == "__main__":
    CONFIG = command.define_config()
    WORKDIR = command.define_path(
        "workdir", None, "Folder of the run, created if missing; rerun the same command to resume."
    )
    DISTRIBUTED = flags.DEFINE_bool(
        "distributed", False, "This is one of several processes, on a TPU pod or under Slurm; start it on every host."
    )
    flags.mark_flags_as_required(["config", "workdir"])
    command.run(main)
