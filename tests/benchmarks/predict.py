"""Times prediction from NIfTI to NIfTI, and its memory: one volume of noise, a network as freshly drawn.

python tests/benchmarks/predict.py [--config configs/acdc_cpu.py] [--slices 10] [--height 256] [--width 216]
    [--dtype int16] [--pixel 1.5] [--structures 3] [--calls 6] [--ending .nii.gz] [--set KEY=VALUE ...]

What is timed is msl_jax.predict.predict: reading config, checkpoint and image, segmenting, writing the label map.
Prints one JSON line: "cold_s", the first call of a process, with nothing compiled before, "warm_median_s", the
median of the calls after it, and "peak_gb", the most resident memory of this process ("peak_gb_before": before the
first call). Imports are in none of the times. A large volume, 512 x 512 x 400 voxels and 10 classes, in 9 windows of
256 x 256 a slice:

python tests/benchmarks/predict.py --slices 400 --height 512 --width 512 --dtype float32 --pixel 0.8 --structures 9
    --calls 1 --set data.spacing=0.8 --set data.size=256 --set model.width=4 --set model.depth=3
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
import ast
import contextlib
import json
import pathlib
import resource
import statistics
import sys
import tempfile
import time

from etils import epath
import jax
from ml_collections import ConfigDict
import nibabel as nib
import numpy as np
import optax

from msl_jax.runs.config import claim
from msl_jax.settings.parsing import with_settings


def make_run(config: ConfigDict, structures: int, folder: epath.Path) -> epath.Path:
    """The folder of a run on a few phantoms that saved its network, of this many structures, before the first step."""
    config.data.layout, config.data.source, config.data.cache = "phantom", "patients=8,seed=0", str(folder / "cache")
    config.data.split_sizes = ((5, 1, 2),)
    experiment = open_experiment(config)
    if structures:
        with experiment.config.unlocked():
            experiment.config.data.classes = {f"S{value}": value for value in range(1, structures + 1)}
    claim(experiment, folder / "run")
    state = init_state(experiment.config, experiment.method, optax.adam(1e-3))
    with contextlib.closing(checkpoints.open_manager(folder / "run", keep=1)) as manager:
        checkpoints.save(manager, 1, state.network(), state.training(), None)
        manager.wait_until_finished()
    return folder / "run"


def noise(shape: tuple[int, ...], dtype: str, pixel: float, path: pathlib.Path) -> None:
    """Writes a volume (x, y, slice) of slices 8 mm apart."""
    voxels = (1000 * np.random.default_rng(0).random(shape, np.float32)).astype(dtype, copy=False)
    nib.save(nib.Nifti1Image(voxels, np.diag([pixel, pixel, 8, 1])), path)


def main() -> None:
    """Times it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/acdc_cpu.py", help="configs/NAME.py[:ARG]")
    parser.add_argument("--slices", type=int, default=10)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=216)
    parser.add_argument("--dtype", default="int16")
    parser.add_argument("--ending", default=".nii.gz")
    parser.add_argument("--pixel", type=float, default=1.5, help="in mm")
    parser.add_argument("--structures", type=int, default=0, help="default: those of the config")
    parser.add_argument("--calls", type=int, default=6)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the config")
    a = parser.parse_args()
    machine.set_up()
    path, _, arg = a.config.partition(":")
    changed = {key: ast.literal_eval(value) for key, value in (pair.split("=", 1) for pair in a.set)}
    config = with_settings(settings.load(path, arg), changed, "config").unlock()
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        folder = pathlib.Path(name)
        jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
        run = make_run(config, a.structures, epath.Path(name))
        image = folder / f"noise{a.ending}"
        noise((a.width, a.height, a.slices), a.dtype, a.pixel, image)
        before, times = peak_gb(), []
        for _ in range(a.calls):
            start = time.perf_counter()
            predict([run], image, folder / "predictions", overwrite=True)
            times.append(time.perf_counter() - start)
    report = {
        "config": a.config,
        "shape": [a.slices, a.height, a.width],
        "cold_s": round(times[0], 3),
        "warm_median_s": round(statistics.median(times[1:]), 3) if times[1:] else None,
        "peak_gb_before": before,
        "peak_gb": peak_gb(),
    }
    print(json.dumps(report))


def peak_gb() -> float:
    """The most resident memory so far of this process, in GB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


if __name__ == "__main__":
    main()
