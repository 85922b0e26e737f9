"""Trains the experiment of a config and evaluates it on the test split: flags, hosts and devices, then hand over.

python -m msl_jax.main --config=configs/acdc.py[:ARG] --workdir=RUN [--config.KEY=VALUE ...]
"""

from msl_jax import machine

if __name__ == "__main__":
    machine.restart_on_huge_pages()

from absl import flags
from etils import epath
import jax
from ml_collections import config_flags

from msl_jax import command, evaluate, experiment, lock, train, transfer


def main(_) -> None:
    """Trains, then evaluates the test split."""
    if DISTRIBUTED.value:
        jax.distributed.initialize()
    opened = experiment.open_experiment(CONFIG.value)
    workdir = epath.Path(WORKDIR.value).expanduser()
    transfer.check(opened.config, workdir)
    with lock.held(workdir):
        opened.claim(workdir)
        train.train(opened, workdir)
        evaluate.evaluate_test(opened, workdir)


if __name__ == "__main__":
    CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: configs/NAME.py[:ARG].", lock_config=True)
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; the same command again goes on with it.")
    DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of several processes: a TPU pod's, or Slurm's.")
    flags.mark_flags_as_required(["config", "workdir"])
    command.run(main)
