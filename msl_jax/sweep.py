r"""Trains and evaluates methods x numbers of strong patients x seeds, and compares them in one table.

python -m msl_jax.sweep --config=configs/acdc_cpu.py --methods=lower_bound,kl,kl_ent --strong=3,5,10 --seeds=0,1,2 \
    --workdir=SWEEP [--config.KEY=VALUE ...]

Every run is a process of `msl_jax.main` in a folder of its own, SWEEP/METHOD/strongN/seedS, or SWEEP/METHOD/all/seedS
for a method that takes every mask; what it says goes to train.log there. Settings of --config hold for all runs, also
a weight like --config.method.terms.ent, which then is every method's. The same command again trains what is missing
and goes on with what was interrupted; with longer lists it adds to the sweep.

--parallel=N trains N runs at once, each on its share of the CPU cores and of the NVIDIA GPUs. Several hosts divide a
sweep on a folder that all of them see: --share=1/4 takes every fourth run, beginning with the first. Each of them, and
a later call, writes the table of what is there then.

    SWEEP/table.md, table.csv    the comparison: a row for every method, number of strong patients, branch, structure
    SWEEP/cases.csv              every case under every run, to redo the statistics from
    SWEEP/runs.csv               test and last validation Dice of every run, and its terms' weights
    SWEEP/dice.png               Dice against the number of strong patients
    SWEEP/terms.png              KL, entropy and validation Dice while training, fewest strong patients
    SWEEP/methods.png            the median test case under every method, fewest strong patients, first seed

The tables are written after each run, the figures at the end. A run whose checkpoints were deleted still counts; it is
only missing from methods.png.
"""

import functools
import sys

from absl import flags
from ml_collections import config_flags

from msl_jax import command
from msl_jax.training.sweep import flags_of, numbers, part_of, runs_of, train_and_compare


def main(_) -> None:
    """Trains what is missing, then writes what is there."""
    config = flags.FLAGS["config"]
    failed = train_and_compare(
        WORKDIR.value,
        runs_of(NAMES.value, numbers("strong", STRONG.value), numbers("seeds", SEEDS.value)),
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
    NAMES = flags.DEFINE_list("methods", None, "Methods to compare, with commas between them.", required=True)
    STRONG = flags.DEFINE_list(
        "strong", None, "Numbers of training patients that give their full masks.", required=True
    )
    SEEDS = flags.DEFINE_list(
        "seeds", None, "Seeds of weights, batches and the draw of the strong patients.", required=True
    )
    WORKDIR = command.define_path("workdir", None, "Folder of the sweep; the same command again goes on with it.")
    PARALLEL = flags.DEFINE_integer(
        "parallel", 1, "Runs at once, each on its share of the CPU cores and of the NVIDIA GPUs.", lower_bound=1
    )
    SHARE = flags.DEFINE_string("share", "1/1", "I/N: of N hosts that share the folder, this is the I-th.")
    flags.mark_flags_as_required(["config", "methods", "strong", "seeds", "workdir"])
    command.run(main)
