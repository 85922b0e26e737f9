"""Times one training step, or the forward pass alone, on random images that lie in memory.

python tests/benchmarks/train_step.py --width 16 --size 128 --strong 4 --weak 4 --steps 20 [--kd-on-all] [--infer]

The work: a 5-level network of this width, the teacher's cross-entropy on the strong images, the student's partial
cross-entropy on all, KL on the strong images (on all with --kd-on-all), the student's entropy on the weak ones, Adam.
With --infer: the student's label map of all images. Prints one JSON line: median, least and most seconds of a step,
and images per second at the median.
"""

from msl_jax.labels import UNLABELED
from msl_jax.methods.table import Method
from msl_jax.models.dual_branch import DualBranchUNet
from msl_jax.models.initial import init_variables
from msl_jax.system import machine, restart
from msl_jax.training.state import TrainState
from msl_jax.training.step import make_train_step

if __name__ == "__main__":
    restart.restart_on_huge_pages()

import argparse
from collections.abc import Callable
import json
import os
import statistics
import time

import jax
import jax.numpy as jnp
import jaxlib
import optax


def random_batch(strong: int, weak: int, size: int, classes: int) -> dict[str, dict[str, jax.Array]]:
    """Noise as images, labels for each pixel of the strong images, weak labels for one pixel in a hundred of all."""
    batch = {}
    for i, (name, count) in enumerate({"strong": strong, "weak": weak}.items()):
        image, label, chosen = jax.random.split(jax.random.key(i), 3)
        labels = jax.random.randint(label, (count, size, size), 0, classes)
        batch[name] = {
            "image": jax.random.normal(image, (count, size, size, 1)),
            "label": labels,
            "weak_label": jnp.where(jax.random.uniform(chosen, labels.shape) < 0.01, labels, UNLABELED),
        }
    return batch


def make_step(model: DualBranchUNet, method: Method, size: int) -> tuple[Callable, TrainState]:
    """The jitted step of a run, which takes over the state it is given, and the state before the first."""
    optimizer = optax.adam(1e-3)
    variables = init_variables(model, (size, size), tuple(method.branches()), seed=0)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        **variables,
        opt_state=optimizer.init(variables["params"]),
        sums={name: jnp.zeros(()) for name in ("loss", "steps", *method.terms)},
    )
    train_step = make_train_step(
        apply_fn=model.apply, optimizer=optimizer, method=method, devices=1, key=jax.random.key(1)
    )
    return jax.jit(train_step, donate_argnums=0), state


def training(model: DualBranchUNet, method: Method, batch: dict) -> Callable[[], None]:
    """A function that takes one step and waits for it."""
    step, state = make_step(model, method, batch["strong"]["image"].shape[1])

    def run():
        nonlocal state
        state = jax.block_until_ready(step(state, batch))

    return run


def inference(model: DualBranchUNet, batch: dict) -> Callable[[], None]:
    """A function that segments all images with the student and waits for the label maps."""
    images = jnp.concatenate([batch["strong"]["image"], batch["weak"]["image"]])[None]
    variables = init_variables(model, images.shape[2:4], ("student",), seed=0)
    segment = jax.jit(lambda v, x: model.apply(v, x, {"student": slice(None)}, train=False)["student"].argmax(-1))
    return lambda: jax.block_until_ready(segment(variables, images))


def main() -> None:
    """Times it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--strong", type=int, default=4)
    parser.add_argument("--weak", type=int, default=4)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--kd-on-all", action="store_true")
    parser.add_argument("--infer", action="store_true")
    a = parser.parse_args()
    machine.set_up()
    model = DualBranchUNet(width=a.width, classes=a.classes)
    method = Method(
        {"s": 1.0, "w": 0.1, "kd": 50.0, "ent": 1.0}, kd_on="both" if a.kd_on_all else "strong", batch_norm="together"
    )
    batch = random_batch(a.strong, a.weak, a.size, a.classes)
    run = inference(model, batch) if a.infer else training(model, method, batch)
    for _ in range(3):
        run()
    times = []
    for _ in range(a.steps):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    report = {
        "jaxlib": jaxlib.__version__,
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "work": "infer" if a.infer else "step",
        "naive": False,
        "kd_on_all": a.kd_on_all,
        "width": a.width,
        "size": a.size,
        "strong": a.strong,
        "weak": a.weak,
        "median_s": round(median, 4),
        "min_s": round(min(times), 4),
        "max_s": round(max(times), 4),
        "images_per_s": round((a.strong + a.weak) / median, 2),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
