"""Times what a checkpoint takes from the training loop.

python tests/benchmarks/checkpoint.py --width 16 --size 128 [--strong 4 --weak 4 --saves 5]

A save is msl_jax.checkpoints.save of a real state, after a finished step, with the save before it written. Prints one
JSON line: "stall_s", until save returns; "written_s", until it is on disk, in the background; both the median of the
saves; "first_stall_s", the first, in which Orbax starts; the median "step_s" without saves and "step_while_writing_s",
that of the one begun when save returns; and "mb", what one checkpoint takes on disk (10^6 bytes).
"""

from msl_jax.methods.table import Method
from msl_jax.models.dual_branch import DualBranchUNet
from msl_jax.runs import checkpoints
from msl_jax.system import machine, restart

if __name__ == "__main__":
    restart.restart_on_huge_pages()

import argparse
import contextlib
import json
import pathlib
import statistics
import tempfile
import time

from etils import epath
import jax

from train_step import make_step, random_batch


def main() -> None:
    """Times it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--strong", type=int, default=4)
    parser.add_argument("--weak", type=int, default=4)
    parser.add_argument("--saves", type=int, default=5)
    a = parser.parse_args()
    machine.set_up()
    model = DualBranchUNet(width=a.width, classes=2)
    method = Method({"s": 1.0, "w": 0.1, "kd": 50.0, "ent": 1.0}, kd_on="strong", batch_norm="together")
    batch = random_batch(a.strong, a.weak, a.size, classes=2)
    step_fn, state = make_step(model, method, a.size)

    def take_step() -> float:
        nonlocal state
        start = time.perf_counter()
        state = jax.block_until_ready(step_fn(state, batch))
        return time.perf_counter() - start

    for _ in range(3):
        take_step()
    steps, stalls, steps_while_writing, written = [], [], [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(checkpoints.open_manager(epath.Path(folder), keep=2)) as manager,
    ):
        for number in range(a.saves + 1):  # the first is apart
            steps += [take_step() for _ in range(3)]
            start = time.perf_counter()
            checkpoints.save(manager, int(state.step), state.network(), state.training(), None)
            stalls.append(time.perf_counter() - start)
            if number % 2:  # a step takes from the writing what the writing takes from it: one of them at a time
                steps_while_writing.append(take_step())
            manager.wait_until_finished()
            if not number % 2:
                written.append(time.perf_counter() - start)
        newest = pathlib.Path(folder) / "checkpoints" / str(manager.latest_step())
        size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    report = {
        "width": a.width,
        "size": a.size,
        "saves": a.saves,
        "stall_s": round(statistics.median(stalls[1:]), 4),
        "first_stall_s": round(stalls[0], 4),
        "written_s": round(statistics.median(written), 4),
        "step_s": round(statistics.median(steps), 4),
        "step_while_writing_s": round(statistics.median(steps_while_writing), 4),
        "mb": round(size / 1e6, 2),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
