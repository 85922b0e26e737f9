"""The pages: links lead somewhere, what they name exists, and the modules of the page on extending work."""

import json
import re
import tomllib

import nibabel as nib
import numpy as np
import pytest

from documents import PAGES, blocks, commands
from msl_jax.methods.mixing import MIXES
from msl_jax.methods.table import METHODS
from processes import ROOT

README, EXTENDING = ROOT / "README.md", ROOT / "msl_jax" / "EXTENDING.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]*)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_modules_that_are_named_exist(page):
    text = page.read_text()
    for name in re.findall(r"`((?:msl_jax|configs|tests|colab)/[\w/.]*\w)`", text):
        assert (ROOT / name).exists() or name.endswith(("mine.py",)), name
    for words in commands(page):
        if words[:2] == ["python", "-m"]:
            assert (ROOT / f"{words[2].replace('.', '/')}.py").exists(), words
        elif words[0] == "python":
            assert (ROOT / words[1]).exists() or (page.parent / words[1]).exists(), words


def test_the_readme_is_short():
    assert len(README.read_text().split()) < 1200


def test_every_room_has_its_line_and_no_file_is_made_up():
    package = ROOT / "msl_jax"
    listed = (package / "README.md").read_text().split("## The files")[1]
    rooms = {path.parent.relative_to(package).as_posix() for path in package.rglob("*.py")} - {"."}
    assert {f"{room}/" for room in rooms} == set(re.findall(r"^    ([a-z/]+/) ", listed, re.MULTILINE))
    assert set(re.findall(r"\b[a-z_]+\.py", listed)) <= {path.name for path in package.rglob("*.py")}


def test_every_method_and_mix_has_its_line():
    text = (ROOT / "msl_jax" / "methods" / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted([*METHODS, *MIXES])
    assert all(f"`{name}`" in README.read_text() for name in METHODS)


def test_one_address_in_badges_and_notebooks():
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    owner = address.removeprefix("https://github.com/")
    for path in (README, *sorted((ROOT / "colab").glob("*.ipynb"))):
        text = path.read_text()
        notebook = "quickstart.ipynb" if path == README else path.name
        assert f"colab-badge.svg)](https://colab.research.google.com/github/{owner}/blob/main/colab/{notebook})" in text
        cloned = re.findall(r"git clone [^\n]*(https://[^\s\\]*)", text)
        assert path == README or cloned == [address]


@pytest.fixture
def folder(tmp_path, command, tables, monkeypatch):
    """The current folder, with the modules that the page shows, each called as its first line says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for block in blocks(EXTENDING, "python"):
        name, code = block.split("\n", 1)
        (tmp_path / name.removeprefix("# ")).write_text(code)
    return tmp_path


def test_a_loss_and_a_method_are_added_as_the_page_says(command, folder, tiny_flags):
    small = [*tiny_flags, "--config.train.steps=1", "--workdir=run"]
    code, err = command("main", "--plugins=my_plugins", "--config=mine.py:method=kl_doubt", *small)
    assert code is None, err
    header, row = (folder / "run" / "metrics.csv").read_text().splitlines()
    values = dict(zip(header.split(","), row.split(","), strict=True))
    assert 0 < float(values["doubt"]) < 1


def test_a_guide_and_a_mix_are_added_as_the_page_says(command, folder, tiny_flags):
    small = [*tiny_flags, "--config.train.steps=1", "--workdir=run"]
    code, err = command("main", "--plugins=my_guesses", "--config=phantom:method=agreement", *small)
    assert code is None, err
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["method"]["mix"] == "thirds"
    header, row = (folder / "run" / "metrics.csv").read_text().splitlines()
    assert float(dict(zip(header.split(","), row.split(","), strict=True))["student_proposal"]) > 0


def test_a_data_set_is_added_as_the_page_says(command, folder, cache, capsys):
    data = folder / "data"
    data.mkdir()
    for number in range(4):
        voxels = np.random.default_rng(number).integers(1, 200, (20, 20, 3)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), data / f"p{number}_t1.nii.gz")
        if number:
            nib.save(nib.Nifti1Image((voxels > 150).astype(np.uint8), np.eye(4)), data / f"p{number}_lesion.nii.gz")
    settings = {"layout": "pairs", "source": data, "cache": cache, "split_sizes": "((None,1,1),)", "labels": ""}
    flags = [f"--config.data.{key}={value}" for key, value in settings.items()]
    code, err = command("prepare", "--plugins=my_reader", "--config=nifti", *flags, "--output=prepare")
    assert code is None, err
    said = capsys.readouterr().out
    assert "4 cases of 4 patients" in said and "lesion" in said
