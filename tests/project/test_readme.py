"""The pages: links lead somewhere, commands run, and what they tell to add works."""

import os
import re
import shutil
import subprocess
import sys
import tomllib

import nibabel as nib
import numpy as np
import pytest

from documents import PAGES, blocks, commands
from processes import ROOT

README = ROOT / "README.md"


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


def test_every_file_has_its_line():
    listed = (ROOT / "msl_jax" / "README.md").read_text().split("## The files")[1]
    modules = {path.name for path in (ROOT / "msl_jax").glob("*.py")} - {"__init__.py"}
    assert modules <= set(re.findall(r"\w+\.py", listed))


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
def copy(tmp_path):
    """A copy of the code, changed as the page tells."""
    for package in ("msl_jax", "configs"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for block in blocks(README, "python"):
        where, code = block.split("\n", 1)
        file, _, place = where.removeprefix("# ").partition(", ")
        path = tmp_path / file
        text = path.read_text() if path.exists() else ""
        if place.startswith("in "):
            row = re.search(rf"^{place.removeprefix('in ')}: .* = {{\n", text, re.MULTILINE)
            text = text[: row.end()] + code + text[row.end() :]
        elif place == "among the imports":
            first = text.index("from msl_jax")
            text = text[:first] + code + text[first:]
        else:
            text = f"{text}\n\n{code}" if text else code
        path.write_text(text)
    return tmp_path


def run(folder, *argv):
    command, one_device = [sys.executable, "-m", *map(str, argv)], os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=folder, env=one_device, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_loss_and_a_method_are_added_as_the_page_says(copy, tiny_flags):
    small = [*tiny_flags, "--config.train.steps=1", f"--workdir={copy / 'run'}"]
    run(copy, "msl_jax.main", "--config=mine.py:method=kl_doubt", *small)
    header, row = (copy / "run" / "metrics.csv").read_text().splitlines()
    values = dict(zip(header.split(","), row.split(","), strict=True))
    assert 0 < float(values["doubt"]) < 1


def test_a_data_set_is_added_as_the_page_says(copy, cache):
    folder = copy / "data"
    folder.mkdir()
    for number in range(4):
        voxels = np.random.default_rng(number).integers(1, 200, (20, 20, 3)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"p{number}_t1.nii.gz")
        if number:
            nib.save(nib.Nifti1Image((voxels > 150).astype(np.uint8), np.eye(4)), folder / f"p{number}_lesion.nii.gz")
    settings = {"layout": "pairs", "source": folder, "cache": cache, "split_sizes": "((None,1,1),)", "labels": ""}
    flags = [f"--config.data.{key}={value}" for key, value in settings.items()]
    said = run(copy, "msl_jax.prepare", "--config=configs/nifti.py", *flags, f"--output={copy / 'prepare'}")
    assert "4 cases of 4 patients" in said and "lesion" in said
