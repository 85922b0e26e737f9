"""Times train_step.py and a peer, say the same work in PyTorch, in turn, so that both meet the same noise.

python tests/benchmarks/compare.py --peer PATH/torch_msl.py --peer-python PYTHON [--repeats 5] [--width 16 ...]

All other flags go to both scripts, each of which prints JSON with "median_s" as its last line. Prints one JSON line:
medians over the repeats in seconds, "ratio" (that of the medians, ours / peer: below 1 ours is faster) and the least
and most of the ratios of neighbouring runs. Ours starts itself on huge pages; for a peer on huge pages too, set
GLIBC_TUNABLES=glibc.malloc.hugetlb=1. Cores are those of this process: taskset -c 0,1 python ...
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

OURS = pathlib.Path(__file__).with_name("train_step.py")


def measure(python: str, script: pathlib.Path, flags: list[str]) -> dict:
    """The JSON that a script prints last."""
    result = subprocess.run([python, str(script), *flags], check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(result.stdout.strip().splitlines()[-1])


def main() -> None:
    """Runs both, in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--peer", type=pathlib.Path, required=True)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--repeats", type=int, default=5)
    a, flags = parser.parse_known_args()
    ours, peer = [], []
    for _ in range(a.repeats):
        ours.append(measure(sys.executable, OURS, flags)["median_s"])
        peer.append(measure(a.peer_python, a.peer, flags)["median_s"])
    ratios = [o / p for o, p in zip(ours, peer, strict=True)]
    report = {
        "flags": " ".join(flags),
        "repeats": a.repeats,
        "ours_median_s": round(statistics.median(ours), 4),
        "peer_median_s": round(statistics.median(peer), 4),
        "ratio": round(statistics.median(ours) / statistics.median(peer), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
