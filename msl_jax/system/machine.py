"""Settings that depend on the machine, not on the method: XLA's CPU kernels, loops and compilation cache.

Measured on 2 cores (AMD EPYC with AVX-512, jaxlib 0.10.2) with tests/benchmarks/train_step.py; see its README.
"""

from collections.abc import Callable, Mapping
import dataclasses
from importlib.metadata import version
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax

EIGEN = "--xla_cpu_experimental_ynn_fusion_type="
"""Convolutions by Eigen instead of YNNPACK."""
CPU_FLAGS = {"0.10.2": EIGEN, "0.11.2": EIGEN, "0.12.0.1": EIGEN}
"""jaxlib version -> flags. A training step at width 32 takes 0.82 s with Eigen and 0.92 s without in jaxlib 0.10.2; on
a slower machine (medians of six alternating steps) 2.24 s and 3.13 s in 0.11.2, 1.74 s and 2.56 s in 0.12.0.1. A flag
unknown to jaxlib ends the process, so only measured releases are listed.
"""
FAST_COMPILE = {"xla_backend_optimization_level": "1"}
"""Compiles faster, runs slower: initialising acdc_cpu's network takes 9 s of CPU time instead of 38 (on a slower
machine of the same kind), with bit-identical results.
"""


DEFAULT_MEMORY = 8 * 2**30
"""Bytes assumed where the system does not tell: those of nnU-Net's default plans (8 GB)."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """The devices that train.

    Attributes:
      accelerator: whether they are GPUs or TPUs.
      devices: their number, over all hosts.
      memory: bytes that one of them may use; for the CPU, the host's memory.
    """

    accelerator: bool
    devices: int
    memory: int

    def kind(self) -> str:
        """Its kind, for messages."""
        return "an accelerator" if self.accelerator else "a CPU"


def this_machine() -> Machine:
    """The devices that JAX uses in this process."""
    if jax.default_backend() == "cpu":
        return Machine(False, jax.device_count(), _host_memory())
    statistics = jax.local_devices()[0].memory_stats() or {}
    return Machine(True, jax.device_count(), statistics.get("bytes_limit", DEFAULT_MEMORY))


def machine_of_a_child(environment: Mapping[str, str]) -> Machine:
    """The devices that JAX would use in a child process with this environment; they are free again afterwards."""
    argv = [sys.executable, "-m", __name__]
    done = subprocess.run(argv, env=dict(environment), stdout=subprocess.PIPE, text=True, check=True)
    return Machine(**json.loads(done.stdout))


def _host_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows
        return DEFAULT_MEMORY


def set_up() -> None:
    """Selects XLA's CPU kernels and caches compiled programs in the user's cache folder. The user's settings win.

    Call it before JAX touches a device.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "ynn" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {CPU_FLAGS.get(version('jaxlib'), '')}".strip()
    cache = _cache()
    if cache and not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _cache() -> pathlib.Path | None:
    """The package's folder in the user's cache, created if missing; None without a home folder or write permission.

    There is no fallback: in a folder open to everyone, other users could plant programs that this process would run.
    """
    xdg = os.environ.get("XDG_CACHE_HOME", "")  # the XDG specification ignores relative paths
    folder = pathlib.Path(xdg if os.path.isabs(xdg) else os.path.expanduser("~/.cache")) / "msl_jax"
    if not folder.is_absolute():
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def jit_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` for a function that is called once and would take longer to compile than to run on CPU."""
    return jax.jit(function, compiler_options=FAST_COMPILE if jax.default_backend() == "cpu" else None)


def accumulate(add: Callable[[Any, Any], Any], start: Any, items: Any) -> Any:
    """add(add(start, items[0]), items[1]) and so on, along the first axis of the arrays in `items`, in traced code.

    Uses an XLA loop, which needs the memory of one item. On CPU the loop is unrolled and XLA runs the items in
    parallel, because convolutions inside a loop are many times slower there (a step of 0.25 s takes 9 s).
    """
    if jax.default_backend() == "cpu":
        for i in range(len(jax.tree.leaves(items)[0])):
            start = add(start, jax.tree.map(lambda a, i=i: a[i], items))
        return start
    return jax.lax.scan(lambda carry, item: (add(carry, item), None), start, items)[0]


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(this_machine())))
