"""Times a training step of kl_ent against the same with one choice made otherwise, and of simpler methods.

python tests/benchmarks/choices.py --width 8 --size 96 --rounds 30

All of them take turns, step by step, on the same random images. Prints a JSON line for each: median seconds of a step,
and that as a multiple of kl_ent's as it is.
"""

from msl_jax.methods.table import METHODS
from msl_jax.models.dual_branch import DualBranchUNet
from msl_jax.system import machine, restart

if __name__ == "__main__":
    restart.restart_on_huge_pages()

import argparse
import dataclasses
import json
import statistics
import time

from train_step import random_batch, training

KL_ENT = METHODS["kl_ent"]
CHOICES = {
    "kl_ent": KL_ENT,
    "kd_on=strong": dataclasses.replace(KL_ENT, kd_on="strong"),
    "kd_on=weak": dataclasses.replace(KL_ENT, kd_on="weak"),
    "w_on=weak": dataclasses.replace(KL_ENT, w_on="weak"),
    "kd_on=weak, w_on=weak": dataclasses.replace(KL_ENT, kd_on="weak", w_on="weak"),
    "batch_norm=together": dataclasses.replace(KL_ENT, batch_norm="together"),
    "kl": METHODS["kl"],
    "lower_bound": METHODS["lower_bound"],
}


def main() -> None:
    """Times them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--images", type=int, default=4, help="strong, and as many weak")
    parser.add_argument("--rounds", type=int, default=30)
    a = parser.parse_args()
    machine.set_up()
    batch = random_batch(a.images, a.images, a.size, classes=2)
    runs = {name: training(DualBranchUNet(width=a.width), method, batch) for name, method in CHOICES.items()}
    seconds = {name: [] for name in runs}
    for turn in range(a.rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= 2:  # the first compiles
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(json.dumps({"choice": name, "median_s": round(median, 4), "ratio": round(median / medians["kl_ent"], 2)}))


if __name__ == "__main__":
    main()
