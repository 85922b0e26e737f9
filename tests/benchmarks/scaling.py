"""Counts FLOPs and bytes of collectives of one step on many devices, and reckons from them how it would scale.

python tests/benchmarks/scaling.py --devices 8 64 [--width 64 --size 256 --strong 4 --weak 4]

The step is compiled for that many devices made up on the CPU, and not run; batch sizes are those of one device. Counts
are those of the compiled program of one device. The reckoning, a calculation and no measurement: a device computes at
`--share` of its peak in bfloat16; a ring all-reduce moves 2 (n - 1) / n of its bytes over a device's links; none of it
is hidden behind computation. Prints a JSON line for each number of devices.
"""

import argparse
import json
import os
import re
import subprocess
import sys

HARDWARE = {
    "H100 node, NVLink": {"flops": 989e12, "bytes_per_s": 450e9},
    "v5e pod, ICI": {"flops": 197e12, "bytes_per_s": 200e9},
}
"""Peak in bfloat16 and bandwidth in one direction of one device, from the makers' data sheets."""

COLLECTIVE = re.compile(r" = (.+?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\(")
ARRAY = re.compile(r"(f32|bf16|s32|u32|pred)\[([\d,]*)\]")
BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1}


def collectives(hlo: str) -> dict[str, int]:
    """Kind of collective -> bytes of its results in one device's program."""
    total = {}
    for shapes, kind in COLLECTIVE.findall(hlo):
        for dtype, sides in ARRAY.findall(shapes):
            size = BYTES[dtype]
            for side in filter(None, sides.split(",")):
                size *= int(side)
            total[kind] = total.get(kind, 0) + size
    return total


def count(a: argparse.Namespace) -> None:
    """Compiles the step for the devices of this process and prints what it holds."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec
    import optax

    from msl_jax.methods.table import METHODS
    from msl_jax.models.dual_branch import DualBranchUNet
    from msl_jax.models.initial import initializer
    from msl_jax.training.state import TrainState, make_mesh
    from msl_jax.training.step import make_train_step

    mesh = make_mesh()
    model, method, optimizer = DualBranchUNet(width=a.width, dtype="bfloat16"), METHODS["kl_ent"], optax.adam(1e-3)

    def start():
        variables = initializer(model, (a.size, a.size), tuple(method.branches()))(jax.random.key(0))
        sums = {name: jax.numpy.zeros(()) for name in ("loss", "steps", *method.terms)}
        return TrainState(
            jax.numpy.zeros((), jax.numpy.int32), **variables, opt_state=optimizer.init(variables["params"]), sums=sums
        )

    batch = {}
    for name, of_one in {"strong": a.strong, "weak": a.weak}.items():
        shape = (of_one * mesh.size, a.size, a.size)
        labels = jax.ShapeDtypeStruct(shape, "int32")
        batch[name] = {"image": jax.ShapeDtypeStruct((*shape, 1), "float32"), "label": labels, "weak_label": labels}
    step = make_train_step(
        apply_fn=model.apply, optimizer=optimizer, method=method, devices=mesh.size, key=jax.random.key(0)
    )
    replicated, sharded = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    jitted = jax.jit(step, in_shardings=(replicated, sharded), out_shardings=replicated)
    lowered = jitted.lower(jax.eval_shape(start), batch)
    moved = collectives(lowered.compile().as_text())
    flops = lowered.cost_analysis()["flops"] / mesh.size
    report = {"devices": mesh.size, "flops_per_device": flops, "collective_bytes_per_device": moved, "expected": {}}
    for name, peak in HARDWARE.items():
        computing = flops / (a.share * peak["flops"])
        talking = 2 * (mesh.size - 1) / mesh.size * sum(moved.values()) / peak["bytes_per_s"]
        report["expected"][name] = {
            "compute_ms": round(1e3 * computing, 2),
            "collectives_ms": round(1e3 * talking, 2),
            "efficiency": round(computing / (computing + talking), 3),
        }
    print(json.dumps(report))


def main() -> None:
    """Counts in a process for each number of devices: their number is fixed when JAX starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--strong", type=int, default=4)
    parser.add_argument("--weak", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.3, help="of the peak that is reached")
    a = parser.parse_args()
    if len(a.devices) == 1:
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={a.devices[0]}"
        count(a)
        return
    rest = [f"--{name}={value}" for name, value in vars(a).items() if name != "devices"]
    for devices in a.devices:
        subprocess.run([sys.executable, __file__, "--devices", str(devices), *rest], check=True)


if __name__ == "__main__":
    main()
