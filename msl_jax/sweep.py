r"""Trains and evaluates methods x numbers of strong patients x seeds and compares them in one table.

python -m msl_jax.sweep --config=configs/acdc_cpu.py --methods=lower_bound,kl,kl_ent --strong=3,5,10 --seeds=0,1,2 \
    --workdir=SWEEP [--config.KEY=VALUE ...]

Every run is a process of `msl_jax.main` in its own folder, SWEEP/METHOD/strongN/seedS, or SWEEP/METHOD/all/seedS for a
method that always uses all masks; its output goes to train.log there. Settings of --config apply to all runs, weights
like --config.method.terms.ent to every method. Rerun the same command to train missing runs and resume interrupted
ones; longer lists extend the sweep.

--folds=4 cross-validates: the strong patients are divided into 4 parts, and 4 runs, SWEEP/METHOD/strongN/seedS/fold0 to
fold3, each leave one part out of training and are tested on it. The table compares the cases of all folds together.
--strong=all uses all full masks; for one method, this scores every mask once:

python -m msl_jax.sweep --config=configs/mine.py --methods=kl_ent --strong=all --seeds=0 --folds=4 --workdir=SWEEP

--parallel=N trains N runs at once, each on its share of the CPU cores and of the NVIDIA GPUs. Several hosts can divide
a sweep in a shared folder: --share=1/4 trains every fourth run, starting with the first. Every call writes the table of
the runs that are finished by then.

    SWEEP/table.md, table.csv    the comparison: a row for every method, number of strong patients, branch, structure
    SWEEP/cases.csv              every case of every run, for other statistics
    SWEEP/runs.csv               test and last validation Dice of every run, and its terms' weights
    SWEEP/dice.png               Dice against the number of strong patients
    SWEEP/terms.png              KL, entropy and validation Dice during training, fewest strong patients
    SWEEP/methods.png            the median test case of every method, fewest strong patients, first seed

The tables are written after each run, the figures at the end. Runs without checkpoints still count; they are only
missing from methods.png.
"""

import functools
import sys

from absl import flags
from ml_collections import config_flags

from msl_jax import command
from msl_jax.training.sweep import flags_of, numbers, part_of, runs_of, train_and_compare


def main(_) -> None:
    """Trains the missing runs, then writes tables and figures."""
    config = flags.FLAGS["config"]
    failed = train_and_compare(
        WORKDIR.value,
        runs_of(NAMES.value, numbers("strong", STRONG.value, "all"), numbers("seeds", SEEDS.value), FOLDS.value),
        CONFIG.value,
        functools.partial(
            flags_of,
            config=config_flags.get_config_filename(config),
            settings=config_flags.get_override_values(config),
        ),
        parallel=PARALLEL.value,
        part=part_of(SHARE.value),
    )
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    CONFIG = command.define_config("The experiment that the runs share")
    NAMES = flags.DEFINE_list("methods", None, "Methods to compare, separated by commas.", required=True)
    STRONG = flags.DEFINE_list("strong", None, "Numbers of training patients with full masks, or all.", required=True)
    SEEDS = flags.DEFINE_list(
        "seeds", None, "Seeds of weights, batches and the choice of strong patients.", required=True
    )
    FOLDS = flags.DEFINE_integer(
        "folds", None, "Cross-validation: parts of the strong patients, each tested by a run of its own.", lower_bound=2
    )
    WORKDIR = command.define_path("workdir", None, "Folder of the sweep; rerun the same command to resume.")
    PARALLEL = flags.DEFINE_integer(
        "parallel", 1, "Runs at once, each on its share of the CPU cores and of the NVIDIA GPUs.", lower_bound=1
    )
    SHARE = flags.DEFINE_string("share", "1/1", "I/N: this is host I of N hosts that share the folder.")
    flags.mark_flags_as_required(["config", "methods", "strong", "seeds", "workdir"])
    command.run(main)
