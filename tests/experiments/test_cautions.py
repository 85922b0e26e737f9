"""Warnings and errors before the first step, from the names and contents of an experiment's files."""

import itertools
import json
import re

from etils import epath
import nibabel as nib
from nibabel.orientations import axcodes2ornt
import numpy as np
import pytest

from files import save
from msl_jax.data.case import Source
from msl_jax.errors import InputError
from msl_jax.evaluation.test_split import score_test
from msl_jax.experiments import survey
from msl_jax.experiments.cautions import cautions
from msl_jax.experiments.opening import open_experiment
from msl_jax.experiments.time_points import patient_pattern
from msl_jax.inference.segmenter import Segmenter
from msl_jax.labels import UNLABELED
from msl_jax.models.initial import init_variables
from msl_jax.runs.config import claim
from msl_jax.settings.objects import model_of, preparation_of

ONE_EACH = {
    "a running number": [f"case{i:02d}" for i in range(25)],
    "from 1": [f"patient{i:03d}" for i in range(1, 111)],
    "with gaps, as in the decathlon": [f"hippocampus_{i:03d}" for i in (1, 3, 4, 6, 7, 8, 11, 14, 15, 17, 19, 20, 23)],
    "without leading zeros": [f"scan{i}" for i in range(1, 13)],
    "words": ["anna", "bert", "carl", "dora"],
    "two sites": [f"{site}_{i:03d}" for site in ("north", "south") for i in range(20)],
    "numbers by site": [f"{100 * site + i}" for site in (1, 2) for i in range(1, 12)],
    "one stem": ["case_a", "case_b", "case_c"],
    "one kind of image": [f"sub-{i:03d}_T1w" for i in range(1, 30)],
    "one phase": [f"{i:03d}_SA_ED" for i in range(1, 30)],
    "two kinds of scanner": [f"{of}_train_{i}_image" for of in ("ct", "mr") for i in range(1001, 1021)],
    "letters and digits": ["A0S9V9", "A1D0Q7", "A1D0Q8", "A1D9Z7", "A1E9Q1", "A2C0I1", "A2L1N6", "A3H1O5"],
    "one": ["a1"],
    "none": [],
}
SEVERAL = {
    "nnU-Net's ACDC": [[f"patient{p:03d}_frame{f:02d}" for f in (1, 12)] for p in range(1, 7)],
    "no separator": [[f"genius_{p:02d}{t:02d}" for t in range(3)] for p in range(8, 13)],
    "one digit": [[f"p{p:02d}{t}" for t in (1, 2)] for p in range(3)],
    "a letter": [[f"{p:02d}{side}" for side in "ab"] for p in range(4, 9)],
    "BIDS": [[f"sub-{p:02d}_ses-{t}" for t in (1, 2)] for p in range(1, 5)],
    "phases": [[f"p{p}_{phase}" for phase in ("ED", "ES")] for p in range(3)],
    "dates": [["p1_20240102", "p1_20240607"], ["p2_20230101"], ["p3_20240103"]],
    "dots": [[f"a{p}.{t}" for t in range(2)] for p in range(4)],
    "spaces": [[f"Patient {p} {phase}" for phase in ("ED", "ES")] for p in range(3)],
    "letters between": [[f"P{p}T{t}" for t in (1, 2)] for p in range(1, 12)],
    "the kind of image at the end": [[f"sub-{p:02d}_ses-{t}_T1w" for t in (1, 2)] for p in range(1, 5)],
    "runs of sessions": [[f"p{p}_ses-{t}_run-{r}.T2 w" for t in (1, 2) for r in (1, 2)] for p in range(1, 5)],
}


@pytest.mark.parametrize("names", ONE_EACH.values(), ids=ONE_EACH)
def test_names_of_one_case_each_have_no_pattern(names):
    assert patient_pattern(sorted(names)) is None


@pytest.mark.parametrize("patients", SEVERAL.values(), ids=SEVERAL)
def test_the_pattern_groups_time_points(patients):
    names = [name for cases in patients for name in cases]
    source = Source("folder", "", patient=patient_pattern(names))
    assert [list(group) for _, group in itertools.groupby(names, source.patient_of)] == patients


SHAPE = (3, 16, 16)


@pytest.fixture
def folder_config(tiny_config, tmp_path):
    """make(masks, **data) -> the tiny experiment on a folder of these masks, each with an image."""

    def make(masks, arg="classes=all", **data):
        for number, (name, mask) in enumerate(masks.items()):
            noise = np.random.default_rng(number).normal(0, 10, SHAPE)
            save(tmp_path / "images" / f"{name}.nii.gz", (100 * (mask > 0) + noise).astype(np.int16))
            save(tmp_path / "masks" / f"{name}.nii.gz", mask)
        config = tiny_config(arg)
        split = {"train": ["c0", "c1", "c2"], "validation": ["c3"], "test": ["c4", "c5"]}
        data = {"split": split, "strong": 2} | data
        settings = {"layout": "folder", "source": str(tmp_path), "cache": str(tmp_path / "cache"), "labels": "A=1,B=2"}
        config.data.update(settings | data)
        return config

    return make


def masks(values=(0, 1, 2), without=(), names=tuple(f"c{i}" for i in range(6))):
    """Name -> a mask whose rows have these values; the masks `without` lack the last value."""
    rows = np.repeat(np.uint8(values), -(-16 // len(values)))[:16]
    mask = np.broadcast_to(rows[:, None], SHAPE)
    return {name: np.where(np.isin(name, without) & (mask == values[-1]), 0, mask).astype(np.uint8) for name in names}


def test_masks_without_a_trained_structure_raise(folder_config):
    """Masks of 0 and 255 are read as background and unlabelled."""
    message = r"c0, c1, c2 and 3 more: no mask .* contains A=1, only 0, unlabelled; .* config.data.unlabeled \(now 255"
    with pytest.raises(InputError, match=message):
        open_experiment(folder_config(masks((0, 255)), labels="A=1"))


def test_255_can_be_a_structure_if_another_value_is_unlabelled(folder_config):
    experiment = open_experiment(folder_config(masks((4, 0, 255)), labels="A=255", unlabeled=4, strong=["c0", "c1"]))
    preparation, (entry, *_) = preparation_of(experiment.config), experiment.data.entries
    assert experiment.structures(experiment.strong) == {"A": 1} and not entry.full
    rows = np.where(masks((4, 0, 255))["c0"] == 255, 1, 0)
    case = experiment.data.case(entry)
    np.testing.assert_array_equal(preparation.reference(case.mask), rows)
    np.testing.assert_array_equal(case.mask == UNLABELED, masks((4, 0, 255))["c0"] == 4)
    assert preparation.value_of_class().tolist() == [0, 255]
    text = survey.report(experiment, survey.survey(experiment))
    assert "background=0 37.5 %, A=255 25 %, unlabelled 37.5 %" in text


def test_a_structure_absent_from_strong_cases_gives_a_warning(folder_config):
    experiment = open_experiment(folder_config(masks(without=("c0", "c1")), strong=["c0", "c1"]))
    (warning,) = cautions(experiment)
    assert warning == "No strong case contains B=2; choose other strong cases, or leave the structure out."


def test_a_fully_unlabelled_mask_counts_as_no_mask(folder_config):
    """A test case with such a mask cannot be scored."""
    files = masks() | {"c5": np.full(SHAPE, 255, np.uint8)}
    with pytest.raises(InputError, match="c5: is a test patient, but has no mask with labels"):
        open_experiment(folder_config(files))
    split = {"train": ["c0", "c1", "c5"], "validation": ["c3"], "test": ["c4"]}
    experiment = open_experiment(folder_config({}, split=split, strong=2, weak="drawn"))
    assert experiment.strong == ["c0", "c1"] and experiment.weak() == ["c5"]
    (finding,) = (finding for finding in survey.survey(experiment) if finding.role == "weak")
    assert finding.kind == "nothing" and set(finding.labelled) == {UNLABELED}


def test_strong_and_test_cases_without_a_trained_structure_raise(folder_config):
    config = folder_config(masks((0, 1), without=("c0", "c1", "c4", "c5")), labels="A=1", strong=["c0", "c1"])
    with pytest.raises(InputError) as error:
        open_experiment(config)
    strong, test = str(error.value).splitlines()
    assert "c0, c1: no mask of these strong cases contains A=1, only 0;" in strong
    assert "c4, c5: no mask of these test cases" in test


def test_a_structure_absent_from_test_cases_gives_a_warning_and_is_not_scored(folder_config):
    experiment = open_experiment(folder_config(masks(without=("c3", "c4", "c5"))))
    assert experiment.structures(experiment.strong) == {"A": 1, "B": 2}
    warnings = cautions(experiment)
    assert [text.split(",")[0] for text in warnings] == ["No validation case contains B", "No test case contains B"]
    config = experiment.config
    segmenter = Segmenter(model_of(config), preparation_of(config), ("teacher", "student"), config.eval.batch)
    variables = init_variables(segmenter.model, segmenter.preparation.size, segmenter.branches, 0)
    summary, rows = score_test(experiment, segmenter, variables)
    assert all(list(structures) == ["A"] for structures in summary["branches"].values())
    assert all(list(row["scores"]) == ["A"] for row in rows) and len(rows) == 4


def test_time_points_in_different_parts_of_the_split_give_a_warning(folder_config):
    names = [f"p{p}_t{t}" for p in range(3) for t in (1, 2)]
    split = {"train": names[:3], "validation": names[3:4], "test": names[4:]}
    (warning,) = cautions(open_experiment(folder_config(masks(names=names), split=split)))
    assert warning.startswith("p1_t1, p1_t2: count as different patients and are in different parts of the split")
    pattern = re.search("--config.data.patient='(.+)'", warning)[1]
    together = folder_config({}, split={"train": ["p0"], "validation": ["p1"], "test": ["p2"]}, strong="all")
    together.data.patient = pattern
    together.method.name = "lower_bound"
    assert cautions(open_experiment(together)) == []


def stored_as_spl(path):
    """Rewrites a file with permuted and flipped axes."""
    image = nib.load(path)
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), axcodes2ornt("SPL"))
    nib.save(image.as_reoriented(turn), path)


def test_reoriented_cases_give_a_warning(folder_config, tmp_path):
    config = folder_config(masks())
    for kind in ("images", "masks"):
        stored_as_spl(tmp_path / kind / "c1.nii.gz")
    (warning,) = cautions(open_experiment(config))
    assert warning == "1 case stored in another orientation than most (SPL) and reoriented to match: c1."


def test_an_older_run_resumes_if_no_case_is_reoriented(folder_config, tmp_path):
    """Its config.json has no directions."""
    workdir = epath.Path(tmp_path / "run")
    config = folder_config(masks())
    claim(open_experiment(config), workdir)
    before = json.loads((workdir / "config.json").read_text())
    assert before["data"].pop("directions") is not None
    (workdir / "config.json").write_text(json.dumps(before))
    claim(open_experiment(config), workdir)
    assert json.loads((workdir / "config.json").read_text())["data"]["directions"]


def test_an_older_run_on_files_of_several_orientations_does_not_resume(folder_config, tmp_path):
    workdir = epath.Path(tmp_path / "run")
    config = folder_config(masks())
    for kind in ("images", "masks"):
        stored_as_spl(tmp_path / kind / "c1.nii.gz")
    experiment = open_experiment(config)
    claim(experiment, workdir)
    before = json.loads((workdir / "config.json").read_text())
    del before["data"]["directions"]
    (workdir / "config.json").write_text(json.dumps(before))
    with pytest.raises(InputError, match="was started by a version that did not reorient images"):
        claim(experiment, workdir)
