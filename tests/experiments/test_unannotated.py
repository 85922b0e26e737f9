"""Patients in whose labels nobody annotated some structures: a column of the table, and what training makes of it."""

import csv
import json

from etils import epath
import numpy as np
import pytest

from files import save
from msl_jax.data.case import ROLES
from msl_jax.errors import InputError
from msl_jax.experiments.survey import report, survey
from msl_jax.methods.losses import union_label
from msl_jax.runs.config import claim
from msl_jax.training.batches import streams
from msl_jax.training.loop import train

PATIENTS = "abcdef"
ONLY_LV = "bd"
"""The masks of these have no RV."""


@pytest.fixture
def data(tmp_path):
    """A folder of six cases with a mask of RV = 1 and LV = 2."""
    generator = np.random.default_rng(0)
    for patient in PATIENTS:
        mask = np.zeros((2, 40, 40), np.uint8)
        mask[:, 5:15, 5:15], mask[:, 20:35, 20:35] = patient not in ONLY_LV, 2
        image = 100 * mask + generator.normal(0, 10, mask.shape)
        save(tmp_path / "data" / "images" / f"{patient}.nii.gz", image.astype(np.float32), (8, 8, 8))
        save(tmp_path / "data" / "masks" / f"{patient}.nii.gz", mask, (8, 8, 8))
    return tmp_path / "data"


@pytest.fixture
def experiment(opened, data, tmp_path):
    """make(*rows, **settings) -> the experiment with a table of these rows."""

    def make(*rows, **settings):
        (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
        given = {"layout": "folder", "source": str(data), "classes": "all", "table": str(tmp_path / "table.csv")}
        given |= {"labels": "RV=1,LV=2", "split_sizes": ((None, 1, 2),), "strong": "all"}
        settings = {f"data__{key}": value for key, value in given.items()} | settings
        return opened("method=upper_bound", method__dice=1.0, **settings)

    return make


def test_background_of_their_masks_may_be_what_nobody_annotated(experiment, tmp_path):
    opened = experiment("patient,classes", "b,LV", "d,LV", "a,RV+LV")
    assert opened.unannotated == {"b": (1,), "d": (1,)} and opened.unions() == ((0, 1),)
    assert {p: opened.background_of(p) for p in "abd"} == {"a": 0, "b": union_label(0), "d": union_label(0)}
    assert not set(ONLY_LV) & {*opened.split["test"], *opened.split["validation"]}
    assert "RV: not annotated in 2 patients, whose background may be these, too" in report(opened, survey(opened))
    stream = streams(opened, opened.method)["strong"]
    seen = {}
    for position in range(40):
        draw = stream.draw(position)
        values = np.unique(stream.patches([position])["label"]).tolist()
        seen.setdefault(stream.cases[draw.case].entry.patient, set()).update(values)
    for patient, values in seen.items():
        # Patches are larger than slices, and what is outside is background in all of them.
        assert values - {0} == ({2, union_label(0)} if patient in ONLY_LV else {1, 2}), patient
    assert set(ONLY_LV) <= seen.keys()


def test_it_lowers_the_loss_is_in_splits_json_and_must_not_change(experiment, tmp_path):
    """Before the first update, the same batch has a smaller cross-entropy if background may also be RV."""
    opened = experiment("patient,classes", "b,LV", "d,LV")
    rows = [f"{p},{'train' if role in ('strong', 'weak') else role}" for role in ROLES for p in opened.roles()[role]]
    plain = experiment("patient,role", *rows, train__steps=1)
    rows = [f"{row},{'LV' * (row[0] in ONLY_LV)}" for row in rows]
    opened = experiment("patient,role,classes", *rows, train__steps=1)
    losses = {}
    for name, one in (("plain", plain), ("unions", opened)):
        claim(one, epath.Path(tmp_path / name))
        train(one, epath.Path(tmp_path / name))
        (row,) = csv.DictReader((tmp_path / name / "metrics.csv").read_text().splitlines())
        losses[name] = float(row["s"])
    assert losses["unions"] < losses["plain"] - 0.01
    assert json.loads((tmp_path / "unions" / "splits.json").read_text())["unannotated"] == {"b": [1], "d": [1]}
    with pytest.raises(InputError, match=r"splits.json names other patients or weak labels"):
        claim(plain, epath.Path(tmp_path / "unions"))


def test_folds_and_random_strong_patients_leave_them_out(experiment):
    table = "patient,classes", "b,LV", "d,LV"
    strong = {p for seed in range(5) for p in experiment(*table, data__strong=1, seed=seed, method__name="kl").strong}
    assert strong and not strong & set(ONLY_LV)
    folds = [experiment(*table, data__fold=f"{i}/2", data__split_sizes=((None, 0, 0),)) for i in range(2)]
    assert sorted(p for fold in folds for p in fold.split["test"]) == sorted(set(PATIENTS) - set(ONLY_LV))
    assert all(set(ONLY_LV) <= {*fold.strong} and set(fold.unannotated) == set(ONLY_LV) for fold in folds)


def test_a_drawn_label_of_a_structure_that_nobody_annotated_is_an_error(experiment, data):
    drawn = np.full((2, 40, 40), 255, np.uint8)
    drawn[0, 2:4, 2:4] = 1
    save(data / "annotations" / "d.nii.gz", drawn, (8, 8, 8))
    opened = experiment("patient,classes", "b,LV", "d,LV", data__weak="drawn")
    with pytest.raises(InputError, match=r"^d: has labels of RV, which .*table.csv leaves out of the patient's"):
        streams(opened, opened.method)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("patient,classes", "a,LV+AORTA"), r"table.csv: classes of patient 'a' have 'AORTA'; give names of RV, LV, "),
        (("patient,classes", "a,LV"), r"table.csv: classes of patient 'a' leave out RV, which its mask has; "),
        (
            ("patient,role,classes", "a,train,", "b,test,LV", "c,train,", "e,validation,"),
            r"^b: is a test patient, but .*table.csv says that nobody annotated RV in it; give it the role train\.$",
        ),
    ],
)
def test_what_cannot_be_is_an_error(experiment, rows, message):
    with pytest.raises(InputError, match=message):
        experiment(*rows)


def test_structures_that_are_not_trained_may_be_left_out(experiment):
    opened = experiment("patient,classes", "b,LV", data__classes="LV")
    assert opened.unannotated == {} and opened.unions() == () and opened.background_of("b") == 0
