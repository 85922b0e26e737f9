"""Hand-made label maps of validation cases decide about branches and components."""

import dataclasses
import json
import shutil

from etils import epath
import numpy as np
import pytest

from maps import speckled_slabs
from msl_jax.evaluation.selection import FAR, decide, select, shortcomings, validate
from msl_jax.evaluation.test_split import evaluate_test, score_test
from msl_jax.experiments.opening import open_experiment
from msl_jax.inference.segmenter import Segmenter, load_network
from msl_jax.inference.temperature import RANGE, Voxels, fit, scaled
from msl_jax.labels import UNLABELED
from msl_jax.runs import selection as selections
from msl_jax.runs.config import read_config
from msl_jax.training.validation import make_validator

STRUCTURES = {"RV": 1, "LV": 3}


def volume(*boxes):
    """uint8 (1, 2, 12) with a run of pixels of each (class, first, stop) in its first row."""
    labels = np.zeros((1, 2, 12), np.uint8)
    for c, first, stop in boxes:
        labels[0, 0, first:stop] = c
    return labels


RIGHT = volume((1, 0, 4), (3, 6, 9))
"""A reference: 4 pixels of RV, 3 of LV."""
SPECK = volume((1, 0, 4), (3, 6, 9), (3, 11, 12))
"""Right, but for one more component of LV: its Dice is 2 * 3 / (3 + 4) = 6/7, and 1 without the component."""
SPLIT = volume((1, 0, 1), (1, 2, 4), (3, 6, 9))
"""Right, but for a gap in RV: its Dice is 2 * 3 / (3 + 4) = 6/7, and without the small component 2 * 2 / (2 + 4)."""
NO_LV = volume((1, 0, 4))


@pytest.fixture(scope="module")
def config(untrained):
    """make(postprocess) -> the filled-in config of an experiment with RV, MYO and LV."""

    def make(postprocess="auto"):
        config = read_config(untrained("method=kl_ent,classes=all"))
        config.eval.postprocess = postprocess
        return config

    return make


def both(teacher, student):
    """Scores on one case. The network's branches have the order of the alphabet."""
    return validate([(RIGHT, {"student": student, "teacher": teacher})], STRUCTURES)


def test_scores_are_closed_forms():
    scores = both(SPECK, SPLIT)
    np.testing.assert_allclose(scores["teacher"]["LV"], (6 / 7, 1, 1))
    np.testing.assert_allclose(scores["student"]["RV"], (6 / 7, 2 / 3, 1))
    assert scores["teacher"]["RV"] == scores["student"]["LV"] == (1, 1, 1)


def test_scores_are_means_over_cases_and_unlabelled_voxels_do_not_count():
    covered = np.where(SPECK == RIGHT, RIGHT, UNLABELED)
    cases = [(RIGHT, {"student": NO_LV}), (covered, {"student": SPECK})]
    np.testing.assert_allclose(validate(cases, STRUCTURES)["student"]["LV"], (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("postprocess", "largest", "dice"),
    [
        # The mean of RV and LV, each with or without its smaller component.
        ("auto", {"teacher": ("LV",), "student": ()}, {"teacher": 1, "student": 13 / 14}),
        ("none", {"teacher": (), "student": ()}, {"teacher": 13 / 14, "student": 13 / 14}),
        (
            "largest",
            dict.fromkeys(("teacher", "student"), ("RV", "MYO", "LV")),
            {"teacher": 1, "student": 5 / 6},
        ),
    ],
)
def test_the_largest_component_is_kept_where_it_helps(config, postprocess, largest, dice):
    chosen = decide(config(postprocess), 4, both(SPECK, SPLIT))
    assert chosen.largest_component == largest
    assert chosen.validation_dice == pytest.approx(dice)
    assert (chosen.checkpoint, chosen.postprocess, chosen.step) == ("last", postprocess, 4)


@pytest.mark.parametrize(
    ("teacher", "student", "branch"),
    [(RIGHT, NO_LV, "teacher"), (NO_LV, RIGHT, "student"), (RIGHT, RIGHT, "student"), (RIGHT, SPECK, "student")],
    ids=["teacher", "student", "tie", "tie once components are removed"],
)
def test_the_branch_with_the_better_dice_is_chosen(config, teacher, student, branch):
    assert decide(config(), 4, both(teacher, student)).branch == branch


@pytest.mark.parametrize(("postprocess", "structures"), [("auto", ()), ("largest", ("RV", "MYO", "LV"))])
def test_without_validation_the_student_predicts(config, postprocess, structures):
    chosen = decide(config(postprocess), 4, {})
    assert chosen == selections.undecided(config(postprocess), 4)
    assert (chosen.branch, chosen.validation_dice) == ("student", {})
    assert chosen.largest_component == {"teacher": structures, "student": structures}


def warnings(config, teacher, student):
    scores = both(teacher, student)
    return list(shortcomings(config, decide(config, 4, scores), scores))


def test_a_structure_that_is_never_predicted_gives_a_warning(config):
    config = config()
    entropy = f"{config.method.terms.ent:g}"
    assert warnings(config, RIGHT, NO_LV) == [
        "The student of step 4 predicts LV in no validation case, although reference masks do; lower "
        f"config.method.terms.ent (now {entropy}) or train longer; predictions use the teacher unless --branch=student "
        "is given."
    ]
    empty = volume()
    assert warnings(config, empty, NO_LV) == [
        "The teacher of step 4 predicts RV, LV in no validation case, although reference masks do; train longer; "
        "predictions use the student unless --branch=teacher is given.",
        "The student of step 4 predicts LV in no validation case, although reference masks do; lower "
        f"config.method.terms.ent (now {entropy}) or train longer.",
    ]


def test_a_structure_that_only_the_worse_branch_predicts_is_a_reason_to_take_it(config):
    """Dice of the teacher: 0 and 6/7; of the student, 1 and 0."""
    (remark,) = warnings(config(), volume((3, 5, 9), (1, 9, 12)), NO_LV)
    assert remark.endswith("or train longer or predict with --branch=teacher.")


def test_a_branch_that_is_far_worse_gives_a_warning(config):
    """Of RV the student finds 2 of 4 pixels: a Dice of 2/3, and of 5/6 with LV."""
    config = config()
    config.method.terms.ent = 0.0
    assert 1 - 5 / 6 > FAR
    assert warnings(config, RIGHT, volume((1, 0, 2), (3, 6, 9))) == [
        "The student of step 4 has a validation Dice of 83.3 %, the teacher 100.0 %; train longer; predictions "
        "use the teacher unless --branch=student is given."
    ]
    assert not warnings(config, RIGHT, volume((1, 0, 3), (3, 6, 9)))


# With a network


@pytest.fixture
def run(untrained, tmp_path):
    """A copy of an untrained run."""
    return epath.Path(shutil.copytree(untrained("method=kl_ent"), tmp_path / "run"))


def test_the_dice_is_that_of_the_validation_in_training(run, opened):
    experiment = opened("method=kl_ent", eval__postprocess="none")
    chosen, _ = select(experiment, run)
    assert chosen == selections.read(run, experiment.config)
    segmenter, variables, step = load_network(run)
    row = make_validator(experiment, segmenter.branches)(variables, step)
    assert {f"validation_dice_{branch}": dice for branch, dice in chosen.validation_dice.items()} == pytest.approx(row)
    assert chosen.branch == max(chosen.validation_dice, key=lambda branch: chosen.validation_dice[branch])


def test_temperatures_are_fitted_on_all_labelled_voxels_of_small_data(run, opened):
    """They make the validation cases' mean of -log p[class] smaller than temperatures nearby do."""
    experiment = opened("method=kl_ent")
    temperatures = select(experiment, run)[0].temperature
    segmenter, variables, _ = load_network(run)
    assert temperatures.keys() == set(segmenter.branches)
    drawn = {branch: [] for branch in temperatures}
    for entry in experiment.entries(experiment.split["validation"]):
        case = experiment.data.case(entry)
        classes = segmenter.preparation.class_of_value()[case.mask]
        for branch, probabilities in segmenter.probabilities(variables, case.image, case.spacing).items():
            drawn[branch].append(Voxels(probabilities[classes != UNLABELED], classes[classes != UNLABELED]))
    for branch, temperature in temperatures.items():
        assert temperature == pytest.approx(fit(drawn[branch]), rel=1e-3)
        probabilities, classes = map(np.concatenate, zip(*drawn[branch], strict=True))

        def loss(temperature, p=probabilities, y=classes):
            return -np.log(np.take_along_axis(scaled(p, temperature), y[:, None].astype(int), 1)).mean(dtype=float)

        nearby = np.clip((0.9 * temperature, 1.1 * temperature), *RANGE)
        assert loss(temperature) <= min(map(loss, nearby)) + 1e-5


def test_no_validation_patient_is_no_error(run, opened):
    experiment = opened("method=kl_ent", data__split_sizes=((6, 0, 2),))
    chosen, remarks = select(experiment, run)
    assert chosen == selections.undecided(experiment.config, 1) and not remarks


def test_calibration_is_also_measured_at_the_temperature(run, opened):
    """A temperature above 1 makes a branch less certain; the other has none."""
    experiment = opened("method=kl_ent")
    segmenter, variables, _ = load_network(run)
    summary, _ = score_test(experiment, segmenter, variables, temperatures={"student": 2.0})
    before, after = summary["calibration"]["student"], summary["calibration"]["student"]["scaled"]
    assert after["temperature"] == 2.0 and "scaled" not in summary["calibration"]["teacher"]
    assert all(after["entropy"][key] > before["entropy"][key] for key in ("foreground", "background"))


def test_test_results_are_of_the_selected_components(run, tiny_config, monkeypatch):
    """With all components, with the largest ones of both branches, and of the student alone."""
    monkeypatch.setattr(Segmenter, "slabs", speckled_slabs)
    experiment = open_experiment(tiny_config("method=kl_ent"))
    segmenter, variables, _ = load_network(run)
    plain, _ = score_test(experiment, segmenter, variables)
    largest, _ = score_test(experiment, segmenter, variables, largest=dict.fromkeys(segmenter.branches, ("LV",)))
    assert all(plain["branches"][branch] != largest["branches"][branch] for branch in segmenter.branches)
    chosen = selections.undecided(experiment.config, 1)
    largest_of_student, temperature = {"teacher": (), "student": ("LV",)}, {"student": 2.0}
    chosen = dataclasses.replace(chosen, largest_component=largest_of_student, temperature=temperature)
    selections.write(chosen, run)
    (run / "metrics.csv").write_text("step,learning_rate,loss\n1,0.1,1\n")
    summary = evaluate_test(experiment, run)
    assert summary == json.loads((run / "results" / "test.json").read_text())
    assert summary["branches"]["teacher"] == plain["branches"]["teacher"]
    assert summary["branches"]["student"] == largest["branches"]["student"]
    assert summary["calibration"]["teacher"] == plain["calibration"]["teacher"]
    assert summary["calibration"]["student"].pop("scaled")["temperature"] == 2.0
    assert summary["calibration"]["student"] == plain["calibration"]["student"]
    assert summary["postprocess"] == {"setting": "auto", "largest_component": {"teacher": [], "student": ["LV"]}}
