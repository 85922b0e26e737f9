"""Times the start of training: from the command to the report of its first step.

python tests/benchmarks/start.py --config=configs/acdc_cpu.py --config.data.source=ACDC [--repeats 3]

All flags but --repeats go to python -m msl_jax.main, which runs in a new folder each time and is ended at its first
report. A run before the first, not counted, builds the data set where it is not built. Prints one JSON line, medians:
"cold_s" with an empty cache of compiled programs, "warm_s" with the one that the cold run has filled.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time


def seconds_to_first_step(flags: list[str], cache: pathlib.Path) -> float:
    """Starts a run that keeps its compiled programs in `cache`, and ends it when it has reported step 1."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "msl_jax.main", *flags, f"--workdir={folder}", "--config.train.report_every=1"]
        start = time.perf_counter()
        with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE) as process:
            try:
                for line in process.stdout:
                    if line.lstrip().startswith("1/"):
                        return time.perf_counter() - start
            finally:
                process.kill()
                process.wait()
    raise RuntimeError(f"{' '.join(command)} ended without a first step.")


def main() -> None:
    """Times it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--repeats", type=int, default=3)
    a, flags = parser.parse_known_args()
    cold, warm = [], []
    for repeat in range(a.repeats):
        with tempfile.TemporaryDirectory() as folder:
            cache = pathlib.Path(folder)
            if repeat == 0:
                seconds_to_first_step(flags, cache / "uncounted")
            cold.append(seconds_to_first_step(flags, cache / "programs"))
            warm.append(seconds_to_first_step(flags, cache / "programs"))
    report = {
        "flags": " ".join(flags),
        "repeats": a.repeats,
        "cold_s": round(statistics.median(cold), 2),
        "warm_s": round(statistics.median(warm), 2),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
