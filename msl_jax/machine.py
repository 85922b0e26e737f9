"""What depends on the machine and not on the method: memory pages, XLA's CPU kernels and loops, its cache.

Measured on 2 cores (AMD EPYC with AVX-512, jaxlib 0.10.2) with tests/benchmarks/train_step.py; see its README.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import version
import os
import pathlib
import sys
from typing import Any

import jax

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""XLA takes its buffers from malloc anew for every step, and the kernel clears each page on first touch: with pages of
4 KiB that is a quarter of a step on CPU (0.36 s against 0.27 s at width 16), with transparent huge pages next to none.
"""

EIGEN = "--xla_cpu_experimental_ynn_fusion_type="
"""Eigen's convolutions in place of YNNPACK's."""
CPU_FLAGS = {"0.10.2": EIGEN, "0.11.2": EIGEN, "0.12.0.1": EIGEN}
"""jaxlib -> flags. With Eigen a step at width 32 takes 0.82 s against 0.92 s in jaxlib 0.10.2; in others, on a slower
machine, medians of six steps in turn, 2.24 s against 3.13 s in 0.11.2 and 1.74 s against 2.56 s in 0.12.0.1. A flag
that a jaxlib does not know ends the process, so there is a row for each release that was measured.
"""

UTF8 = "PYTHONUTF8"
"""Python's variable for UTF-8 in files and their names, whatever the terminal has."""

FEW_PASSES = {"xla_backend_optimization_level": "1"}
"""What XLA compiles so is ready sooner and runs slower: the drawing of acdc_cpu's network takes 9 s of CPU time in
place of 38 (on a slower machine of the same kind), and ends in the same bits.
"""


def restart_on_huge_pages() -> None:
    """Starts this process anew with huge pages, which glibc looks for at the very start; what the user set stays.

    To be called by a script before its imports, so that nothing is done twice. Does nothing where the script is run
    inside another program, as by a notebook's %run: that one's arguments are not the script's.
    """
    if sys.platform == "linux" and not HUGE_PAGES.keys() & os.environ.keys():
        _restart(HUGE_PAGES)


def restart_in_utf8() -> None:
    """Starts this process again where it takes file names for another encoding than UTF-8, as with PYTHONUTF8=0.

    What it prints stays in the terminal's own encoding.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get(UTF8) != "1":
        _restart({UTF8: "1", "PYTHONIOENCODING": os.environ.get("PYTHONIOENCODING") or sys.stdout.encoding})


def _restart(environment: Mapping[str, str]) -> None:
    """Starts this process again with these variables, unless it runs inside another program."""
    arguments = sys.argv[1:]
    if sys.orig_argv[len(sys.orig_argv) - len(arguments) :] == arguments:
        os.execve(sys.executable, sys.orig_argv, os.environ | environment)


def set_up() -> None:
    """Chooses XLA's CPU kernels and keeps what it compiles in the user's cache folder; what the user set stays.

    To be called before JAX touches a device.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "ynn" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {CPU_FLAGS.get(version('jaxlib'), '')}".strip()
    cache = _cache()
    if cache and not jax.config.jax_compilation_cache_dir:
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
