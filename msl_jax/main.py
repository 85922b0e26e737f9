"""Trains the experiment of a config, then evaluates it on the test split; the same command again goes on.

python -m msl_jax.main --config=configs/acdc.py[:ARG] --workdir=RUN [--config.KEY=VALUE ...]
"""

from msl_jax import machine

if __name__ == "__main__":
    machine.restart_on_huge_pages()

from absl import flags
from etils import epath
import jax

from msl_jax import command, evaluate, experiment, lock, train, transfer
from msl_jax.cautions import cautions
from msl_jax.checks import warn_all


def main(_) -> None:
    """Trains, then evaluates the test split."""
    if DISTRIBUTED.value:
        jax.distributed.initialize()
    opened = experiment.open_experiment(CONFIG.value)
    workdir = epath.Path(WORKDIR.value)
    transfer.check(opened.config, workdir)
    with lock.held(workdir):
        opened.claim(workdir)
        warn_all(cautions(opened))
        train.train(opened, workdir)
        evaluate.evaluate_test(opened, workdir)


if __name__ == "__main__":
    CONFIG = command.define_config()
    WORKDIR = command.define_path(
        "workdir", None, "Folder of the run, made if need be; the same command again goes on with it."
    )
    DISTRIBUTED = flags.DEFINE_bool(
        "distributed", False, "This is one of several processes, on a TPU pod or under Slurm; start it on every host."
    )
    flags.mark_flags_as_required(["config", "workdir"])
    command.run(main)
