"""Trains the experiment of a config, then evaluates it on the test split; the same command again goes on.

python -m msl_jax.main --config=configs/acdc.py[:ARG] --workdir=RUN [--config.KEY=VALUE ...]
"""

from msl_jax.system import restart

if __name__ == "__main__":
    restart.restart_on_huge_pages()

from absl import flags
from etils import epath
import jax

from msl_jax import command
from msl_jax.errors import warn_all
from msl_jax.evaluation.test_split import evaluate_test
from msl_jax.experiments.cautions import cautions
from msl_jax.experiments.opening import open_experiment
from msl_jax.runs import lock
from msl_jax.runs.config import claim
from msl_jax.training import transfer
from msl_jax.training.loop import train


def main(_) -> None:
    """Trains, then evaluates the test split."""
    if DISTRIBUTED.value:
        jax.distributed.initialize()
    opened = open_experiment(CONFIG.value)
    workdir = epath.Path(WORKDIR.value)
    transfer.check(opened.config, workdir)
    with lock.held(workdir):
        claim(opened, workdir)
        warn_all(cautions(opened))
        train(opened, workdir)
        evaluate_test(opened, workdir)


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
