"""Times prediction from NIfTI to NIfTI: one volume of noise, a network as freshly drawn.

python tests/benchmarks/predict.py [--config configs/acdc_cpu.py] [--slices 10] [--height 256] [--width 216]

What is timed is msl_jax.predict.predict: reading config, checkpoint and image, segmenting, writing the label map.
Prints one JSON line: "cold_s", the first call of a process, with nothing compiled before, and "warm_median_s", the
median of the 5 calls after it. Imports are in neither.
"""

from msl_jax import settings
from msl_jax.experiments.opening import open_experiment
from msl_jax.inference.files import predict
from msl_jax.runs import checkpoints
from msl_jax.system import machine, restart
from msl_jax.training.state import init_state

if __name__ == "__main__":
    restart.restart_on_huge_pages()

import argparse
import contextlib
import json
import pathlib
import statistics
import sys
import tempfile
import time

from etils import epath
import jax
import nibabel as nib
import numpy as np
import optax

from msl_jax.runs.config import claim


def make_run(config_path: str, folder: epath.Path) -> epath.Path:
    """The folder of a run on a few phantoms that saved its network before the first step."""
    path, _, arg = config_path.partition(":")
    config = settings.load(path, arg).unlock()
    config.data.layout, config.data.source, config.data.cache = "phantom", "patients=8,seed=0", str(folder / "cache")
    config.data.split_sizes = ((5, 1, 2),)
    experiment = open_experiment(config)
    claim(experiment, folder / "run")
    state = init_state(experiment.config, experiment.method, optax.adam(1e-3))
    with contextlib.closing(checkpoints.open_manager(folder / "run", keep=1)) as manager:
        checkpoints.save(manager, 1, state.network(), state.training(), None)
        manager.wait_until_finished()
    return folder / "run"


def main() -> None:
    """Times it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/acdc_cpu.py", help="configs/NAME.py[:ARG]")
    parser.add_argument("--slices", type=int, default=10)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=216)
    a = parser.parse_args()
    machine.set_up()
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        folder = pathlib.Path(name)
        jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
        run = make_run(a.config, epath.Path(name))
        voxels = np.random.default_rng(0).integers(0, 1000, (a.width, a.height, a.slices)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 8, 1])), folder / "noise.nii.gz")
        times = []
        for _ in range(6):
            start = time.perf_counter()
            predict([run], folder / "noise.nii.gz", folder / "predictions", overwrite=True)
            times.append(time.perf_counter() - start)
    report = {
        "config": a.config,
        "shape": [a.slices, a.height, a.width],
        "cold_s": round(times[0], 3),
        "warm_median_s": round(statistics.median(times[1:]), 3),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
