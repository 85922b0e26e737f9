"""The HTML report: it is complete and self-contained, and a browser shows it."""

import html
import html.parser
import json
import pathlib
import re
import shutil

from etils import epath
import pytest

from browser import needs_chromium, run_in_browser
from msl_jax.errors import InputError
from msl_jax.evaluation import html_report
from msl_jax.evaluation.test_split import evaluate_test
from msl_jax.experiments.opening import open_experiment
from msl_jax.runs import journal


@pytest.fixture(scope="module")
def runs(tiny_config, untrained, tmp_path_factory):
    """Two evaluated runs in one folder; the name of the second needs escaping."""
    parent = tmp_path_factory.mktemp("runs")
    folders = []
    for arg, name in (("method=kl_ent,strong=2", "one"), ("method=lower_bound,strong=2", "<b>two")):
        folder = parent / name
        shutil.copytree(untrained(arg), folder)
        journal.Table(epath.Path(folder / "metrics.csv"), ["step", "learning_rate", "loss", "s"], 0).add(
            {"step": 1, "loss": 0.5}
        )
        evaluate_test(open_experiment(tiny_config(arg)), epath.Path(folder))
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    html_report.write(runs, epath.Path(path))
    return path


class Tags(html.parser.HTMLParser):
    """Counts the tags and collects their links."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.rows = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]


def test_the_page_is_self_contained(page):
    text = page.read_text()
    found = Tags(text)
    assert found.links and all(link.startswith("data:") for link in found.links)
    assert not re.search(r"https?://|@import|url\(", text)
    assert found.tags.count("img") == 2 * (2 + 3)  # curves, calibration; worst, median, best
    assert "&lt;b&gt;two" in text and "<b>two" not in text


def test_the_page_contains_every_number(page, runs):
    text = page.read_text()
    for folder in runs:
        results = json.loads((folder / "results" / "test.json").read_text())
        for structures in results["branches"].values():
            dice = structures["LV"]["dice"]
            assert f"{100 * dice['mean']:.1f} ± {100 * dice['std']:.1f}" in text
        for line in (folder / "results" / "test.csv").read_text().splitlines()[1:]:
            assert f">{line.split(',')[0]}</td>" in text
        splits = json.loads((folder / "splits.json").read_text())
        assert all(", ".join(splits[role]) in text for role in ("strong", "weak", "test"))
    assert "method.terms.ent" in text and "train.strong_batch" in text


def test_the_difference_from_the_first_run_is_the_comparisons(page, runs):
    ones, others = (html_report.read(folder).patient_dice("teacher", "LV") for folder in reversed(runs))
    mean = sum(ones[patient] - others[patient] for patient in ones) / len(ones)
    assert f">{100 * mean:+.1f} [" in page.read_text()


@needs_chromium
@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_shows_it_without_errors(page, tmp_path, width):
    probe = """
      const table = document.querySelector("details table.sorts"), head = table.tHead.rows[0].cells[3];
      head.click();
      const values = [...table.tBodies[0].rows].map(row => Number(row.cells[3].dataset.value));
      result = {
        sorted: values.every((value, i) => !i || values[i - 1] <= value),
        shown: [...document.images].every(image => image.complete && image.naturalWidth > 0),
        fits: document.documentElement.scrollWidth <= window.innerWidth,
        rows: values.length,
      }"""
    result = run_in_browser(page.read_text(), probe, tmp_path, width)
    assert result == {"sorted": True, "shown": True, "fits": True, "rows": 8}


def test_folders_without_a_finished_run_are_refused(runs, untrained, tmp_path):
    for folders, message in (
        ([tmp_path], "config.json: is missing; give the folder of a run"),
        ([pathlib.Path(untrained("method=kl_ent,strong=2"))], "test.json: is missing; rerun the training command"),
        ([runs[0], runs[0]], "a folder is given twice"),
    ):
        with pytest.raises(InputError, match=message):
            html_report.write(folders, epath.Path(tmp_path / "report.html"))
    assert not (tmp_path / "report.html").exists()
