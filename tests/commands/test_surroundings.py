"""Unusual environments: another project's folder, no home, a plain terminal, folders with odd names."""

import ast
import os
import shutil
import subprocess
import sys

import nibabel as nib
import pytest

from files import arrays, save, write
from msl_jax import settings
from msl_jax.settings.configs import FOLDER
from processes import ROOT

OWN = ("configs", "configs.data", "configs.models", "data", "models", "tests", "src")
"""Packages of the user's own project that must not be imported."""
MODULES = ("configs", "settings", "methods", "metrics", "losses", "train", "utils", "paths", "experiment")
NOBODY = """
import pwd, runpy
def getpwuid(user): raise KeyError(user)
pwd.getpwuid = getpwuid
runpy.run_module("msl_jax.main", run_name="__main__", alter_sys=True)
"""
"""`python -m msl_jax.main` for a user without an entry, as under `docker run --user 12345`."""


def imported(path):
    """The top-level packages that a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        yield from (name.split(".")[0] for name in names)


def test_only_the_package_the_standard_library_and_what_is_required_is_imported():
    required = {"absl", "clu", "etils", "flax", "h5py", "jax", "matplotlib", "medpy", "ml_collections", "nibabel"}
    required |= {"numpy", "optax", "orbax", "PIL", "safetensors", "scipy", "SimpleITK", "skimage", "tensorflow"}
    required |= {"tensorflow_datasets", "torch", "jax2onnx", "IPython", "array_record", "tqdm"}
    for path in [*(ROOT / "msl_jax").rglob("*.py"), *settings.EXPERIMENTS.values()]:
        own = {"msl_jax"} if path.parent != FOLDER else {"msl_jax", "ml_collections"}
        allowed = own if path.parent == FOLDER else own | required | sys.stdlib_module_names
        assert set(imported(path)) <= allowed, path


@pytest.fixture
def project(tmp_path):
    """The folder of another project; importing one of its modules ends the process."""
    project, trap = tmp_path / "project", "raise SystemExit('a module of the user')\n"
    write(project, {f"{name.replace('.', '/')}/__init__.py": trap for name in OWN})
    return write(project, {f"{name}.py": trap for name in MODULES} | {"msl_jax/README.md": "a clone"})


def test_a_run_without_user_entry_in_another_project_on_a_plain_terminal(project, tiny_flags, cache):
    """Without HOME, with a locale without UTF-8, with an experiment's name, into a folder with a comma in its name."""
    before = {path.name for path in project.iterdir()}
    kept = ("PATH", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0", "XDG_CACHE_HOME": ""}
    short = [f"--config.train.{key}=2" for key in ("steps", "checkpoint_every", "validate_every")]
    argv = ["--config=phantom:method=kl_ent,strong=2", *tiny_flags, *short, "--workdir=läufe/lr=0.1,b"]
    command = [sys.executable, "-c", NOBODY, *argv]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "msl_jax: " not in done.stderr
    assert done.stdout.isascii() and " +- " in done.stdout and "Written to l\\xe4ufe/lr=0.1,b/results" in done.stdout
    assert {path.name for path in project.iterdir()} == before | {"läufe"}
    assert (project / "läufe" / "lr=0.1,b" / "results" / "test.json").exists()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The user's home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_every_path_expands_the_home_folder(command, home, workdir, settings):
    """In flags and in settings; no folder "~" is created."""
    shutil.copytree(workdir, home / "runs" / "a")
    for name in ("a", "b", "c", "d", "e", "f"):
        image, mask, _ = arrays(name, (3, 16, 16))
        save(home / "data" / "images" / f"{name}.nii.gz", image)
        save(home / "data" / "masks" / f"{name}.nii.gz", mask)
    write(home, {"roles.csv": "patient,role\na,strong\nb,weak\nc,validation\nd,test\n"})
    write(
        home, {"mine.py": "from msl_jax import settings\nget_config = lambda arg=None: settings.load('nifti', arg)\n"}
    )
    values = {"source": "~/data", "cache": "~/cache", "table": "~/roles.csv", "labels": "A=1,B=2,C=3", "size": 32}
    data = [f"--config.data.{key}={value}" for key, value in values.items()]
    calls = [
        ["prepare", "--config=~/mine.py", *data, "--config.init_from=~/runs/a", "--output=~/look"],
        ["predict", "--workdir=~/runs/a", "--input=~/data/images/a.nii.gz", "--output=~/predictions"],
        ["suggest", "--workdir=~/runs/a", "--input=~/data/images", "--output=~/suggest"],
        ["report", "--workdir=~/runs/a", "--output=~/page.html"],
        ["export", "--workdir=~/runs/a", "--format=safetensors", "--output=~/a.safetensors"],
        ["evaluate", "--workdir=~/runs/a", *settings, "--output=~/results.json"],
        ["evaluate", "--predictions=~/data/masks", "--references=~/data/masks", "--labels=A=1", "--output=~/r.json"],
    ]
    for argv in calls:
        code, err = command(*argv)
        assert code in (None, 0), err
    made = {"look", "predictions", "suggest", "page.html", "a.safetensors", "results.json", "r.json", "cache"}
    assert made <= {path.name for path in home.iterdir()}
    assert not (ROOT / "~").exists()
    code, err = command("main", *settings, "--config.init_from=~/nowhere", "--workdir=~/new")
    assert code == 2 and f"{home}/nowhere contains no run" in err


def test_a_run_in_a_folder_with_an_odd_name_works(command, workdir, tmp_path):
    image = save(tmp_path / "images" / "x.nii.gz", arrays("x")[0])
    odd = [shutil.copytree(workdir, tmp_path / "runs" / name) for name in ("lr=0.1,b", "a,b=2", "tried[1]")]
    for argv in (
        ["predict", f"--workdir={odd[0]}", f"--input={image}", f"--output={tmp_path}/one,1"],
        ["predict", f"--workdir={odd[0]},{odd[1]},{odd[2]}", f"--input={image}", f"--output={tmp_path}/all"],
        ["suggest", f"--workdir={odd[1]}", f"--input={image.parent}", f"--output={tmp_path}/suggest=1"],
        ["report", *(f"--workdir={run}" for run in odd)],
        ["export", f"--workdir={odd[1]}", "--format=safetensors"],
    ):
        code, err = command(*argv)
        assert code in (None, 0), err
    labels = [nib.load(tmp_path / folder / "x.nii.gz").get_fdata() for folder in ("one,1", "all")]
    assert (labels[0] == labels[1]).all()
    assert (odd[0] / "results" / "report.html").exists() and (odd[1] / "export" / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["main", "sweep"])
def test_a_run_does_not_start_where_its_checkpoints_cannot_be_read(refused, settings, tmp_path, name):
    more = ["--methods=kl", "--strong=2", "--seeds=0"] if name == "sweep" else []
    workdir = tmp_path / "tried[1]" / "run"
    refused([name, *settings, *more, f"--workdir={workdir}"], [str(workdir), "contains [1]"])
