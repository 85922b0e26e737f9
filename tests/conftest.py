"""Environment of all tests: four fake devices, no implicit rank promotion, data sets built once for each session.

XLA compiles without optimisations, in half the time. Only the run of `test_surroundings.py` compiles as for a user.
"""

import os

from processes import QUICK, ROOT

os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=4 {QUICK} {os.environ.get('XLA_FLAGS', '')}"
os.environ.setdefault("GLIBC_TUNABLES", "")  # no restart on huge pages

from collections.abc import Callable
import fcntl
import functools
import pathlib
import runpy
import sys

from absl import app, flags, logging
from etils import epath
import hypothesis
import jax
import jax.numpy as jnp
import pytest

from msl_jax import plugins, settings
from msl_jax.data import builder
from msl_jax.data.case import Source
from msl_jax.data.readers import READERS
from msl_jax.data.weak_labels import RECIPES
from msl_jax.experiments.opening import open_experiment
from msl_jax.methods.mixing import MIXES
from msl_jax.methods.table import METHODS
from msl_jax.methods.terms import TERMS
from msl_jax.models.dual_branch import NETWORKS
from msl_jax.models.initial import init_variables
from msl_jax.runs import checkpoints
from msl_jax.runs.config import claim
from msl_jax.settings.objects import model_of, preparation_of
from msl_jax.system import machine

PHANTOMS = Source("phantom", "patients=8,seed=0")
SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"

jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def common(tmp_path_factory) -> pathlib.Path:
    """The session's folder, shared by all pytest-xdist workers; their own folders are inside it."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def once(common):
    """once(name, make) -> the folder common/name; the first worker that calls it runs make(folder)."""

    def get(name: str, make: Callable[[pathlib.Path], object]) -> pathlib.Path:
        done = common / f"{name}.done"
        with (common / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                make(common / name)
                done.touch()
        return common / name

    return get


@pytest.fixture(scope="session", autouse=True)
def programs(common):
    """Caches compiled programs for this session and its processes, because many runs compile the same ones."""
    settings = {
        "jax_compilation_cache_dir": str(common / "programs"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield


@pytest.fixture(scope="session")
def cache(once) -> str:
    """The session's TFDS folder, with the eight phantom patients."""
    return str(once("tfds", lambda folder: builder.build(PHANTOMS, folder)))


@pytest.fixture(scope="session")
def phantoms(cache) -> builder.Dataset:
    """The data set of eight phantom patients."""
    return builder.build(PHANTOMS, cache)


@pytest.fixture(scope="session")
def tiny_config(cache, phantoms):
    """make(arg) -> unlocked config of the papers' experiment on phantoms, reduced to seconds."""

    def make(arg: str = ""):
        config = settings.load("phantom", f"strong=3,classes=LV,{arg}".rstrip(",")).unlock()
        config.data.source, config.data.cache = "patients=8,seed=0", cache
        config.data.split_sizes = ((5, 1, 2),)
        config.data.weak, config.data.weak_background = "erosion", False
        config.method.weak_weight = None
        config.data.spacing, config.data.size = 8.0, 32  # slices of about 37 x 37 pixels
        config.model.width, config.model.depth = 2, 1
        config.train.steps = 4
        config.train.report_every = 1
        config.train.checkpoint_every = config.train.validate_every = 2
        return config

    return make


@pytest.fixture
def opened(tiny_config):
    """make(arg, **settings) -> the experiment; names of settings have two underscores for each dot."""

    def make(arg="", **settings):
        config = tiny_config(arg)
        config.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
        return open_experiment(config)

    return make


@pytest.fixture(scope="session")
def tiny_flags(cache, phantoms) -> list[str]:
    """Command-line flags that reduce the phantom experiment to seconds."""
    values = {"source": "patients=8,seed=0", "cache": cache, "split_sizes": "((5,1,2),)", "classes": "LV"}
    values |= {"spacing": 8.0, "size": 32}
    return [
        *(f"--config.data.{key}={value}" for key, value in values.items()),
        "--config.model.width=2",
        "--config.model.depth=1",
    ]


@pytest.fixture(scope="session")
def untrained(tiny_config, tmp_path_factory):
    """make(arg) -> read-only folder of a run of the tiny experiment with the untrained network of its seed."""

    @functools.cache
    def make(arg: str) -> epath.Path:
        opened, folder = open_experiment(tiny_config(arg)), epath.Path(tmp_path_factory.mktemp("untrained"))
        config = opened.config
        claim(opened, folder)
        size, branches = preparation_of(config).size, tuple(opened.method.branches())
        manager = checkpoints.open_manager(folder, keep=1)
        network = init_variables(model_of(config), size, branches, config.seed)
        checkpoints.save(manager, 1, network, {"step": jnp.ones((), jnp.int32)}, None)
        manager.wait_until_finished()
        manager.close()
        return folder

    return make


@pytest.fixture
def command(monkeypatch, capsys, phantoms):
    """call(name, *flags) -> exit code and standard error of a command, run in this process to save its start-up.

    `capsys` still captures its standard output.
    """

    def call(name, *argv):
        known, verbosity = set(flags.FLAGS), logging.get_verbosity()
        monkeypatch.setattr(sys, "argv", [name, *map(str, argv)])
        try:
            runpy.run_path(str(ROOT / "msl_jax" / f"{name}.py"), run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code
        finally:
            for flag in set(flags.FLAGS) - known:
                delattr(flags.FLAGS, flag)
            flags.FLAGS.unparse_flags()
            logging.set_verbosity(verbosity)
        out, err = capsys.readouterr()
        sys.stdout.write(out)
        return code, err

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(machine, "set_up", lambda: None)  # already done by this file
    app.define_help_flags()
    return call


@pytest.fixture
def tables(monkeypatch):
    """Restores tables and plugins after the test."""
    originals = [(table, dict(table)) for table in (METHODS, TERMS, MIXES, READERS, RECIPES, NETWORKS)]
    monkeypatch.setattr(plugins, "LOADED", [])
    yield
    for table, rows in originals:
        table.clear()
        table.update(rows)
    for name in plugins.LOADED:
        del sys.modules[name]


def _real(name: str) -> pathlib.Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs {name} in {SHARED}")
    return SHARED / name


@pytest.fixture(scope="session")
def acdc_folder() -> pathlib.Path:
    """80 patients of ACDC, if they are next to the repository."""
    return _real("acdc")


@pytest.fixture(scope="session")
def hippocampus_folder() -> pathlib.Path:
    """The decathlon's Task04, 220 small volumes, if they are next to the repository."""
    return _real("hippocampus")


@pytest.fixture(scope="session")
def prostate_folder() -> pathlib.Path:
    """One T2 volume with real voxel sizes, its mask and a scribble, if they are next to the repository."""
    return _real("prostate")
