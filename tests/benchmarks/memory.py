"""Counts what a training step needs in memory, as compiled, with its batch in parts and with rematerialisation.

python tests/benchmarks/memory.py --width 64 --size 256 --strong 4 --weak 4 [--dtype bfloat16]

A JSON line for each of 1, 2 and 4 parts, plain and with model.remat. Parts are taken in a loop, as on a GPU or TPU, but
the program is XLA's for CPU, which lays its buffers out by other rules than those: the figures compare settings, they
do not say what a GPU will hold. `temporary_gb` is what the whole step needs beside its arguments and results;
`kept_gb` what the forward pass of one part keeps for its backward pass, parameters included, whatever the machine. The
compiler for CPU undoes rematerialisation, which shows in the latter alone. GB are 10^9 bytes. Nothing is run.
"""

import argparse
import json
from unittest import mock

import jax
import optax

from msl_jax.methods.table import METHODS
from msl_jax.models.dual_branch import DualBranchUNet
from msl_jax.models.initial import initializer
from msl_jax.training.state import TrainState
from msl_jax.training.step import make_train_step
from train_step import random_batch


def gigabytes(tree) -> float:
    """Of the arrays, or shapes of arrays, in a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / 1e9


def kept(model: DualBranchUNet, variables: dict, images: jax.ShapeDtypeStruct, strong: int) -> float:
    """GB that the backward pass of both branches needs of the forward pass."""
    rows = {"teacher": slice(0, strong), "student": slice(None)}

    def residuals(params, batch_stats, images):
        def forward(params, images):
            network = {"params": params, "batch_stats": batch_stats}
            return model.apply(network, images, rows, train=True, mutable=["batch_stats"])[0]

        return jax.vjp(forward, params, images)[1]

    return gigabytes(jax.eval_shape(residuals, variables["params"], variables["batch_stats"], images))


def count(a: argparse.Namespace, parts: int, remat: bool) -> dict:
    """The figures of one setting."""
    method, optimizer = METHODS["kl_ent"], optax.adam(1e-3)
    model = DualBranchUNet(width=a.width, remat=remat, dtype=a.dtype)

    def start():
        variables = initializer(model, (a.size, a.size), tuple(method.branches()))(jax.random.key(0))
        sums = {name: jax.numpy.zeros(()) for name in ("loss", "steps", *method.terms)}
        opt_state = optimizer.init(variables["params"])
        return TrainState(step=jax.numpy.zeros((), "int32"), **variables, opt_state=opt_state, sums=sums)

    state = jax.eval_shape(start)
    batch = jax.eval_shape(lambda: random_batch(a.strong, a.weak, a.size, model.classes))
    step = make_train_step(
        apply_fn=model.apply, optimizer=optimizer, method=method, devices=1, key=jax.random.key(0), parts=parts
    )
    with mock.patch.object(jax, "default_backend", lambda: "gpu"):
        lowered = jax.jit(step, donate_argnums=0).lower(state, batch)
    temporary = lowered.compile().memory_analysis().temp_size_in_bytes / 1e9
    images = jax.ShapeDtypeStruct((1, (a.strong + a.weak) // parts, a.size, a.size, 1), "float32")
    of_forward = kept(model, state.network(), images, a.strong // parts)
    return {"parts": parts, "remat": remat, "temporary_gb": round(temporary, 2), "kept_gb": round(of_forward, 2)}


def main() -> None:
    """Counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--strong", type=int, default=4)
    parser.add_argument("--weak", type=int, default=4)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    a = parser.parse_args()
    for remat in (False, True):
        for parts in (1, 2, 4):
            print(json.dumps(count(a, parts, remat)), flush=True)


if __name__ == "__main__":
    main()
