"""The memory that XLA sets aside for one training step, plain, with rematerialisation and in parts.

python tests/benchmarks/memory.py --width 64 --size 256 [--strong 4 --weak 4]

The step of train_step.py is compiled and not run. Prints one JSON line: GB (10^9 bytes) of temporary buffers, to which
parameters, optimizer state and batch come in every case ("arguments").
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

VARIANTS = {
    "plain": {},
    "remat": {"remat": True},
    "accumulate=2": {"parts": 2},
    "accumulate=4": {"parts": 4},
    "remat, accumulate=4": {"remat": True, "parts": 4},
}


def compiled_memory(a: argparse.Namespace, remat: bool = False, parts: int = 1):
    """What XLA says of the compiled step's memory."""
    model, method, optimizer = DualBranchUNet(width=a.width, remat=remat), METHODS["kl_ent"], optax.adam(1e-3)

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
    """Compiles every variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--strong", type=int, default=4)
    parser.add_argument("--weak", type=int, default=4)
    a = parser.parse_args()
    machine.set_up()
    memory = {name: compiled_memory(a, **options) for name, options in VARIANTS.items()}
    report = {name: round(m.temp_size_in_bytes / 1e9, 3) for name, m in memory.items()}
    print(json.dumps(report | {"arguments": round(memory["plain"].argument_size_in_bytes / 1e9, 3)}))


if __name__ == "__main__":
    main()
