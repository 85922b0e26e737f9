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

import pathlib
import sys

from absl import flags
import jax

from msl_jax import command
from msl_jax.errors import InputError
from msl_jax.evaluation import comparison
from msl_jax.evaluation.comparison import Finished, Run
from msl_jax.experiments.opening import open_experiment
from msl_jax.system.paths import check_name
from msl_jax.training import transfer
from msl_jax.training.sweep import (
    _flags_of,
    _numbers,
    _part,
    draw,
    is_done,
    runs_of,
    settings_of,
    shares,
    train,
    with_settings,
)


def main(_) -> None:
    """Trains what is missing, then writes what is there."""
    jax.config.update("jax_platforms", "cpu")  # the accelerators are the runs'
    if "://" in WORKDIR.value:
        raise InputError(f"--workdir={WORKDIR.value}: a sweep needs a folder of this machine, or one that is mounted.")
    sweep = pathlib.Path(WORKDIR.value)
    check_name(sweep)
    runs = runs_of(NAMES.value, _numbers("strong", STRONG.value), _numbers("seeds", SEEDS.value))
    opened = {run: open_experiment(with_settings(CONFIG.value, settings_of(run))) for run in runs}

    def done() -> list[Run]:
        return [run for run in runs if is_done(sweep / run.folder, opened[run].config)]

    def finished() -> list[Finished]:
        return [comparison.read(sweep / run.folder, run) for run in done()]

    def write() -> str:
        there = finished()
        return comparison.write(sweep, there, [run for run in runs if run not in [f.run for f in there]])

    there, machine = done(), shares(PARALLEL.value)
    missing = [run for run in runs[_part(SHARE.value)] if run not in there]
    for run in missing:
        transfer.check(opened[run].config, sweep / run.folder)
    print(f"{len(runs)} runs in {sweep}, {len(there)} of them done; {len(missing)} to train here", flush=True)
    failed = train(sweep, missing, _flags_of, machine, after_each=write)
    if done():
        print(f"\n{write()}", flush=True)
        draw(sweep, finished(), opened[runs[0]].data)
        print(f"Written to {sweep}")
    if failed:
        print(
            f"msl_jax: {len(failed)} of {len(missing)} runs failed; the same command tries them again.", file=sys.stderr
        )
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
