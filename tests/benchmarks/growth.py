"""Measures how a step's time and memory grow with width, image size, batch and classes, one varied at a time.

python tests/benchmarks/growth.py --output FOLDER [--steps 5] [--width 8 16 --size 64 ...]

Each point is two processes of train_step.py, the first of which compiles for the second. Memory is the most that was
ever resident: peak_gb of the second, compiling_gb of the first. What is not varied stays at width 16, size 128, 4 + 4
images, 2 classes. A batch is the images of each of the two sets. Writes growth.csv and growth.png and prints one JSON
line: the number of points and the files. Linux and macOS.
"""

import argparse
import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile

BASE = {"width": 16, "size": 128, "batch": 4, "classes": 2}
GRID = {"width": [8, 16, 32, 64], "size": [64, 128, 256], "batch": [2, 4, 8, 16], "classes": [2, 4, 8]}
STEP = pathlib.Path(__file__).with_name("train_step.py")


def run(point: dict[str, int], steps: int, cache: str) -> tuple[float, float]:
    """Median seconds of a step and peak GB (10^9 bytes) of a process that takes 3 steps and `steps` more."""
    sizes = {"width": point["width"], "size": point["size"], "classes": point["classes"], "steps": steps}
    sizes |= {"strong": point["batch"], "weak": point["batch"]}
    command = [sys.executable, str(STEP), *(f"--{name}={value}" for name, value in sizes.items())]
    environment = os.environ | {"XDG_CACHE_HOME": cache}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE)
    with process.stdout:
        output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    unit = 1 if sys.platform == "darwin" else 1024
    return json.loads(output.strip().splitlines()[-1])["median_s"], round(usage.ru_maxrss * unit / 1e9, 3)


def measure(point: dict[str, int], steps: int) -> dict[str, float]:
    """What the columns of growth.csv say of one point."""
    with tempfile.TemporaryDirectory() as cache:
        _, compiling = run(point, 1, cache)
        seconds, peak = run(point, steps, cache)
    return {"seconds_a_step": seconds, "peak_gb": peak, "compiling_gb": compiling}


def plot(rows: list[dict], path: pathlib.Path) -> None:
    """Time above, memory below, a column for each of what was varied."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure, axes = plt.subplots(2, len(GRID), figsize=(12, 5.5), sharex="col", sharey="row", layout="constrained")
    for column, name in enumerate(GRID):
        points = sorted((row for row in rows if row["varied"] == name), key=lambda row: row[name])
        x = [row[name] for row in points]
        for axis, key in zip(axes[:, column], ("seconds_a_step", "peak_gb"), strict=True):
            axis.loglog(x, [row[key] for row in points], "o-")
            axis.set_xticks(x, [str(value) for value in x])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
            axis.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.grid(True, which="both", alpha=0.3)
        axes[1, column].plot(
            x, [row["compiling_gb"] for row in points], "o--", color="tab:gray", label="with compiling"
        )
        axes[1, column].set_xlabel("images of each set" if name == "batch" else name)
    axes[0, 0].set_ylabel("seconds a step")
    axes[1, 0].set_ylabel("GB at most")
    axes[1, 0].legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measures every point once, also where several rows share it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=5)
    for name, values in GRID.items():
        parser.add_argument(f"--{name}", type=int, nargs="+", default=values)
    a = parser.parse_args()
    a.output.mkdir(parents=True, exist_ok=True)
    measured, rows = {}, []
    with open(a.output / "growth.csv", "w", newline="") as file:
        table = csv.DictWriter(
            file, ["varied", *BASE, "seconds_a_step", "peak_gb", "compiling_gb"], lineterminator="\n"
        )
        table.writeheader()
        for name in GRID:
            for value in getattr(a, name):
                point = BASE | {name: value}
                key = tuple(point.values())
                if key not in measured:
                    measured[key] = measure(point, a.steps)
                    print(point, measured[key], file=sys.stderr, flush=True)
                rows.append({"varied": name, **point, **measured[key]})
                table.writerow(rows[-1])
                file.flush()
    plot(rows, a.output / "growth.png")
    files = [str(a.output / name) for name in ("growth.csv", "growth.png")]
    print(json.dumps({"points": len(measured), "files": files}))


if __name__ == "__main__":
    main()
