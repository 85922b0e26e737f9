"""The commands of the pages run: short ones with other paths and fewer steps, long ones unchanged.

A command added to a page needs an entry in RUN.
"""

import json
import shutil

import numpy as np
import pytest

from documents import PAGES, commands
from files import save
from processes import ROOT, run

SHORT, LONG, SHORTENED = "make test", "make soak", "make soak, in 20 steps"
RUN = {
    "README.md": {"sweep": LONG, "prepare": SHORT, "main": SHORT, "predict": SHORT, "suggest": SHORT},
    "msl_jax/README.md": {
        "predict": SHORT,
        "evaluate": SHORT,
        "report": SHORT,
        "suggest": SHORT,
        "export": SHORT,
        "sweep": SHORTENED,
        "import_weights": "tests/runs/test_released_weights.py",
    },
    "msl_jax/DEVICES.md": {"main": "nowhere: needs several hosts; tests/training/test_devices.py has two processes"},
    "msl_jax/data/README.md": {"prepare": LONG, "main": LONG},
    "configs/results/README.md": {"sweep": SHORTENED, "main": SHORTENED},
}
"""Page -> command -> where it is tested."""
TINY = {"model.width": 2, "model.depth": 1, "train.steps": 2, "train.checkpoint_every": 2, "train.validate_every": 2}


def of_page(page, where, *, without="runs/released"):
    """The commands of a page that are tested there, as words after `python -m msl_jax.`, in their order."""
    found = [words for words in commands(ROOT / page) if words[:2] == ["python", "-m"]]
    named = [[words[2].removeprefix("msl_jax."), *words[3:]] for words in found]
    return [words for words in named if RUN[page][words[0]] == where and without not in " ".join(words)]


def with_stand_ins(words, folder, stand_ins):
    """Replaces a command's names in capitals and its output folder."""
    for name, thing in (stand_ins | {"=runs/": f"={folder}/runs/"}).items():
        words = [word.replace(name, str(thing)) for word in words]
    return words


def test_no_command_is_forgotten():
    for page in PAGES:
        known = RUN.get(str(page.relative_to(ROOT)), {})
        for words in commands(page):
            if words[:2] == ["python", "-m"]:
                assert words[2].removeprefix("msl_jax.") in known, f"{page}: {' '.join(words)}"
            else:
                assert words[0] in ("make", "pip", "cp"), words


@pytest.fixture(scope="module")
def folder(tmp_path_factory, phantoms):
    """Phantoms with MYO and LV as a user's data set: all have masks but one, which has an annotation."""
    folder = tmp_path_factory.mktemp("pages")
    entries = [entry for entry in phantoms.entries if entry.phase == "ED"]
    for entry in entries:
        case, name, last = phantoms.case(entry), f"{entry.patient}.nii.gz", entry is entries[-1]
        labels = np.where(case.mask == phantoms.labels["RV"], 0, case.mask).astype(np.uint8)
        save(folder / "data" / "images" / name, case.image[..., 0], case.spacing[::-1])
        save(folder / "data" / ("annotations" if last else "masks") / name, labels, case.spacing[::-1])
        if last:
            save(folder / "unlabelled" / name, case.image[..., 0], case.spacing[::-1])
    shutil.copy(ROOT / "configs" / "nifti.py", folder / "mine.py")
    return folder


def test_the_commands_for_your_own_data(command, folder, cache):
    stand_ins = {
        "configs/mine.py": folder / "mine.py",
        "FOLDER": folder / "data",
        "UNLABELLED": folder / "unlabelled",
        "=predictions": f"={folder / 'predictions'}",
    }
    tiny = [f"--config.{key}={value}" for key, value in ({"data.size": 32, "data.cache": cache} | TINY).items()]
    more = {"prepare": [*tiny, f"--output={folder / 'prepare'}"], "main": tiny, "predict": []}
    for name, *argv in of_page("README.md", SHORT):
        given = more.get(name, [f"--output={folder / name}"])
        code, errors = command(name, *with_stand_ins(argv, folder, stand_ins), *given)
        assert code in (0, None), errors
    assert len(list((folder / "predictions").glob("*.nii.gz"))) == 8
    assert (folder / "runs" / "mine" / "results" / "test.json").exists()
    assert (folder / "suggest" / "suggest.csv").exists()


def test_the_commands_on_a_run(command, workdir, hospital, tmp_path):
    for name in ("kl_ent", "kl"):
        shutil.copytree(workdir, tmp_path / "runs" / name)
    stand_ins = {
        "FILE_OR_FOLDER": hospital / "images",
        "FOLDER": hospital / "images",
        "MASKS": hospital / "references",
        "=predictions": f"={tmp_path / 'predictions'}",
        "=results.json": f"={tmp_path / 'results.json'}",
    }
    for name, *argv in of_page("msl_jax/README.md", SHORT):
        given = [f"--output={tmp_path / name}"] if name == "suggest" else []
        code, errors = command(name, *with_stand_ins(argv, tmp_path, stand_ins), *given)
        assert code in (0, None), errors
    made = ("results.json", "runs/kl_ent/results/report.html", "suggest/suggest.csv", "runs/kl_ent/export")
    assert all((tmp_path / path).exists() for path in made)


@pytest.mark.soak
def test_the_demo_ends_as_the_page_says(tmp_path):
    """The command of `make demo`, with the student above its teacher in every structure, and the sweep."""
    print(run("main", "--config=configs/phantom.py", f"--workdir={tmp_path / 'phantom'}", timeout=3600))
    for name, *argv in of_page("README.md", LONG):
        print(run(name, *with_stand_ins(argv, tmp_path, {}), timeout=3600))
    branches = json.loads((tmp_path / "phantom" / "results" / "test.json").read_text())["branches"]
    for structure, values in branches["student"].items():
        assert values["dice"]["mean"] > branches["teacher"][structure]["dice"]["mean"]


@pytest.mark.soak
def test_the_commands_on_acdc_as_they_stand(acdc_folder, tmp_path):
    for name, *argv in of_page("msl_jax/data/README.md", LONG, without="FOLDER"):
        output = [f"--output={tmp_path / 'prepare'}"] if name == "prepare" else []
        print(run(name, *with_stand_ins(argv, tmp_path, {"ACDC": acdc_folder}), *output, timeout=3600))
    assert (tmp_path / "runs" / "kl_ent" / "results" / "test.json").exists()


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "argv"),
    [
        pytest.param(name, argv, id=f"{page} {number}")
        for page in RUN
        for number, (name, *argv) in enumerate(of_page(page, SHORTENED))
    ],
)
def test_sweeps_begin_as_the_page_says(name, argv, acdc_folder, hippocampus_folder, tmp_path):
    """All their methods with one number of strong patients, one seed and 20 steps."""
    stand_ins = {
        "ACDC": acdc_folder,
        "Task04": hippocampus_folder,
        "SWEEP": tmp_path / "sweep",
        "=RUN": f"={tmp_path / 'run'}",
    }
    words = with_stand_ins(argv, tmp_path, stand_ins)
    words = ["--seeds=0" if word.startswith("--seeds=") else word for word in words]
    words = ["--strong=3" if word.startswith("--strong=") else word for word in words]
    short = {"train.steps": 20, "train.checkpoint_every": 20, "train.validate_every": 20}
    run(name, *words, *(f"--config.{key}={value}" for key, value in short.items()), timeout=3600)
