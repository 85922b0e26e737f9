"""What depends on the machine and not on the method: XLA's CPU kernels and loops, its cache.

Measured on 2 cores (AMD EPYC with AVX-512, jaxlib 0.10.2) with tests/benchmarks/train_step.py; see its README.
"""

from collections.abc import Callable
from importlib.metadata import version
import os
import pathlib
from typing import Any

import jax

EIGEN = "--xla_cpu_experimental_ynn_fusion_type="
"""Eigen's convolutions in place of YNNPACK's."""
CPU_FLAGS = {"0.10.2": EIGEN, "0.11.2": EIGEN, "0.12.0.1": EIGEN}
"""jaxlib -> flags. With Eigen a step at width 32 takes 0.82 s against 0.92 s in jaxlib 0.10.2; in others, on a slower
machine, medians of six steps in turn, 2.24 s against 3.13 s in 0.11.2 and 1.74 s against 2.56 s in 0.12.0.1. A flag
that a jaxlib does not know ends the process, so there is a row for each release that was measured.
"""
FEW_PASSES = {"xla_backend_optimization_level": "1"}
"""What XLA compiles so is ready sooner and runs slower: the drawing of acdc_cpu's network takes 9 s of CPU time in
place of 38 (on a slower machine of the same kind), and ends in the same bits.
"""


def set_up() -> None:
    """Chooses XLA's CPU kernels and keeps what it compiles in the user's cache folder; what the user set stays.

    To be called before JAX touches a device.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "ynn" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {CPU_FLAGS.get(version('jaxlib'), '')}".strip()
    cache = _cache()
    if cache and not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _cache() -> pathlib.Path | None:
    """Our folder among the user's caches, made if need be; None where there is no home or it may not be written into.

    Nothing takes its place then: in a folder open to all, others could leave programs for this process to run.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")  # which counts where it is absolute, by the XDG specification
    folder = pathlib.Path(given if os.path.isabs(given) else os.path.expanduser("~/.cache")) / "msl_jax"
    if not folder.is_absolute():
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def jit_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` of a function that is called once, and whose compilation on CPU would take longer than its call."""
    return jax.jit(function, compiler_options=FEW_PASSES if jax.default_backend() == "cpu" else None)


def fold(add: Callable[[Any, Any], Any], start: Any, items: Any) -> Any:
    """add(add(start, items[0]), items[1]) and so on, along the first axis of the arrays in `items`, in traced code.

    One after the other in a loop of XLA's, whose memory is that of one item; but on CPU unrolled, where XLA takes the
    items side by side: inside a loop its convolutions there are many times slower (a step of 0.25 s takes 9 s).
    """
    if jax.default_backend() == "cpu":
        for i in range(len(jax.tree.leaves(items)[0])):
            start = add(start, jax.tree.map(lambda a, i=i: a[i], items))
        return start
    return jax.lax.scan(lambda carry, item: (add(carry, item), None), start, items)[0]
