"""A whole run: open the experiment, train or resume it, choose a branch, evaluate the test split."""

from etils import epath
import jax
from ml_collections import ConfigDict

from msl_jax.data.protocols import check_protocol
from msl_jax.errors import warn_all
from msl_jax.evaluation.selection import select
from msl_jax.evaluation.test_split import evaluate_test
from msl_jax.experiments.cautions import cautions
from msl_jax.experiments.opening import open_experiment
from msl_jax.experiments.planning import lines
from msl_jax.runs import lock
from msl_jax.runs.config import claim, resumed
from msl_jax.training import transfer
from msl_jax.training.loop import train


def train_and_evaluate(config: ConfigDict, workdir: epath.Path, *, distributed: bool = False) -> None:
    """Trains the experiment of a config, or resumes the run in `workdir`, then evaluates the test split.

    In between, the validation cases decide how the run predicts (selection.json).

    Args:
      config: as returned by `settings.load`.
      workdir: the run's folder, created if missing.
      distributed: this is one of several processes that train the run together.

    Raises:
      InputError: a setting, a file or the folder is invalid.
      Interrupted: SIGINT or SIGTERM was received; the state is saved.
    """
    if distributed:
        jax.distributed.initialize()
    opened = open_experiment(resumed(config, workdir))
    check_protocol(opened.config.eval.protocol, opened.config.data.spacing)
    transfer.check(opened.config, workdir)
    with lock.held(workdir):
        claim(opened, workdir)
        if jax.process_index() == 0 and opened.settled:
            print("\n".join(lines(opened.settled)), flush=True)
        warn_all(cautions(opened))
        train(opened, workdir)
        selection, remarks = select(opened, workdir)
        evaluate_test(opened, workdir)
        if jax.process_index() == 0:
            print(f"{workdir}: {selection}", flush=True)
        warn_all(remarks)
