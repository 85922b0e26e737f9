"""Lets `main` train for as long as is asked, and watches its memory from outside.

python tests/benchmarks/soak.py --minutes 65 --output FOLDER -- --config=configs/acdc_cpu.py --config.data.source=ACDC

What follows `--` goes to `main`, whose run lies in FOLDER/run. Its steps are more than it can reach, it validates and
saves as its config says, and it is stopped with SIGTERM. FOLDER/memory.csv has a row every 10 seconds: seconds since
the start, step of the last report, resident memory in MB (10^6 bytes), open files, threads. Prints one JSON line:
hours, steps, the medians of resident memory over each tenth of the time, the most there was, the slope in MB an hour
of the second half (least squares), most open files and threads, and the exit code, which is 143. Linux alone.
"""

import argparse
import csv
import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np

EVERY = 10.0
NEVER = 10_000_000


def sample(pid: int, run: pathlib.Path) -> tuple[int, float, int, int]:
    """Step of the last report, resident MB, open files and threads of a process."""
    proc = pathlib.Path(f"/proc/{pid}")
    status = (proc / "status").read_text()
    resident = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024 / 1e6
    threads = int(re.search(r"Threads:\s+(\d+)", status)[1])
    metrics = run / "metrics.csv"
    rows = metrics.read_text().splitlines()[1:] if metrics.exists() else []
    step = int(rows[-1].split(",")[0]) if rows else 0
    return step, round(resident, 1), len(list((proc / "fd").iterdir())), threads


def watch(process: subprocess.Popen, run: pathlib.Path, seconds: float, path: pathlib.Path) -> list[tuple]:
    """A row every ten seconds until the time is over or the process has ended; written as they come."""
    start, rows = time.monotonic(), []
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("seconds", "step", "resident_mb", "open_files", "threads"))
        while (now := time.monotonic() - start) < seconds and process.poll() is None:
            rows.append((round(now, 1), *sample(process.pid, run)))
            writer.writerow(rows[-1])
            file.flush()
            time.sleep(EVERY)
    return rows


def main() -> None:
    """Runs, watches, stops, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=65)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="a new folder")
    parser.add_argument("argv", nargs="+", help="what `main` is given, after --")
    a = parser.parse_args()
    a.output.mkdir(parents=True)
    run = a.output / "run"
    command = [sys.executable, "-m", "msl_jax.main", *a.argv, f"--workdir={run}", f"--config.train.steps={NEVER}"]
    with (a.output / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        rows = watch(process, run, a.minutes * 60, a.output / "memory.csv")
        process.send_signal(signal.SIGTERM)
        code = process.wait()
    seconds, steps, resident, files, threads = np.asarray(rows).T
    late = seconds > seconds[-1] / 2
    report = {
        "hours": round(float(seconds[-1]) / 3600, 2),
        "steps": int(steps[-1]),
        "resident_mb": [round(float(np.median(part)), 1) for part in np.array_split(resident, 10)],
        "most_mb": float(resident.max()),
        "mb_an_hour": round(float(np.polyfit(seconds[late] / 3600, resident[late], 1)[0]), 1),
        "open_files": int(files.max()),
        "threads": int(threads.max()),
        "exit_code": code,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
