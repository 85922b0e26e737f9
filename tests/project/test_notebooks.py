"""Every notebook runs from top to bottom, and is kept without what it printed."""

import os
import pathlib

import nbclient
import nbformat
import pytest

from processes import QUICK, ROOT

NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
SHORT = ("method", "quickstart")
"""Those that run in `make test`; `make soak` runs the others."""


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=[pytest.mark.soak] * (p.stem not in SHORT)) for p in NOTEBOOKS]
)
def test_it_runs(path: pathlib.Path, monkeypatch):
    """In a kernel of its own, with the settings that make it short; no command in it fails or refuses anything."""
    for name, value in {"MSL_SMALL": "1", "XLA_FLAGS": QUICK}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": os.fspath(ROOT)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(output.get("text", "") for output in outputs)
    assert "Traceback" not in said and "msl_jax: " not in said
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_what_it_printed(path: pathlib.Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
