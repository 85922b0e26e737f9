"""What gradient accumulation and rematerialisation save of a training step's memory.

python tests/benchmarks/memory.py --width 64 --size 256 [--strong 4 --weak 4]

The step of train_step.py is compiled for this machine with its parts in a loop, as on GPU and TPU, and not run. XLA for
CPU does not honour rematerialisation, so for that what autodiff keeps of the forward pass is added up, before XLA.
Prints one JSON line, in GB (10^9 bytes): XLA's temporary buffers by the number of parts; "arguments" (parameters,
optimizer state, batch), which come to them; what is kept for the backward pass, without and with rematerialisation.
"""

import argparse
import functools
import json

import jax
import jax.numpy as jnp
import optax

from msl_jax import machine, train
from msl_jax.inference import init_variables
from msl_jax.methods import METHODS
from msl_jax.models.dual_branch import DualBranchUNet


def kept_bytes(a: argparse.Namespace, remat: bool) -> int:
    """Bytes of the intermediate values that the backward pass of the network reads."""
    model = DualBranchUNet(width=a.width, remat=remat)
    rows = {"teacher": slice(0, a.strong), "student": slice(None)}
    images = jnp.zeros((1, a.strong + a.weak, a.size, a.size, 1))

    def backward(variables, images):
        def forward(params):
            return model.apply({**variables, "params": params}, images, rows, train=True, mutable=["batch_stats"])[0]

        return jax.vjp(forward, variables["params"])[1]

    variables = jax.eval_shape(lambda: init_variables(model, (a.size, a.size), tuple(rows), seed=0))
    kept = jax.tree.leaves(jax.eval_shape(backward, variables, images))
    return sum(array.size * array.dtype.itemsize for array in kept)


def compiled_memory(a: argparse.Namespace, parts: int):
    """What XLA says of the compiled step's memory."""
    model, method, optimizer = DualBranchUNet(width=a.width), METHODS["kl_ent"], optax.adam(1e-3)

    def start() -> train.TrainState:
        variables = init_variables(model, (a.size, a.size), tuple(method.branches()), seed=0)
        sums = {name: jnp.zeros(()) for name in ("loss", "steps", *method.terms)}
        return train.TrainState(
            jnp.zeros((), jnp.int32), **variables, opt_state=optimizer.init(variables["params"]), sums=sums
        )

    shape = functools.partial(jax.ShapeDtypeStruct, dtype="int32")
    batch = {
        name: {
            "image": jax.ShapeDtypeStruct((images, a.size, a.size, 1), "float32"),
            "label": shape((images, a.size, a.size)),
            "weak_label": shape((images, a.size, a.size)),
        }
        for name, images in (("strong", a.strong), ("weak", a.weak))
    }
    step = train.make_train_step(
        apply_fn=model.apply, optimizer=optimizer, method=method, groups=1, key=jax.random.key(0), parts=parts
    )
    return jax.jit(step, donate_argnums=0).lower(jax.eval_shape(start), batch).compile().memory_analysis()


def main() -> None:
    """Compiles, and counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--strong", type=int, default=4)
    parser.add_argument("--weak", type=int, default=4)
    a = parser.parse_args()
    machine.set_up()
    machine.unrolled = lambda _: 1
    memory = {parts: compiled_memory(a, parts) for parts in (1, 2, 4)}
    report = {
        "temporary_by_parts": {parts: round(m.temp_size_in_bytes / 1e9, 3) for parts, m in memory.items()},
        "arguments": round(memory[1].argument_size_in_bytes / 1e9, 3),
        "kept": round(kept_bytes(a, remat=False) / 1e9, 3),
        "kept_with_remat": round(kept_bytes(a, remat=True) / 1e9, 3),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
