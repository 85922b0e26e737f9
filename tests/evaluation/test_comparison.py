import csv
import json

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from documents import cells
from msl_jax.errors import InputError
from msl_jax.evaluation import comparison
from msl_jax.evaluation.comparison import Run
from msl_jax.pictures import charts

T_2 = 4.302652729911275
"""The 97.5th percentile of Student's t with 2 degrees of freedom, from a table."""


def score(dice, hd95=8.0, assd=2.0, empty=0):
    return {
        "dice": {"mean": dice, "std": 0.1},
        "hd95": {"mean": hd95, "std": 1.0},
        "assd": {"mean": assd, "std": 1.0},
        "empty": empty,
    }


def write_run(sweep, run, dice, *, units="mm", **distances):
    """Writes a run's folder as `main` does; dice: branch -> patient -> Dice of each of its frames."""
    folder = sweep / run.folder
    (folder / "results").mkdir(parents=True)
    weights = {"s": 1.0, "w": 0.05 if "student" in dice else 0.0}
    config = {"data": {}, "eval": {}, "model": {}, "method": {"name": run.method, "terms": weights}}
    (folder / "config.json").write_text(json.dumps(config))
    cases = {branch: [value for frames in d.values() for value in frames] for branch, d in dice.items()}
    branches = {branch: {"LV": score(float(np.mean(values)), **distances)} for branch, values in cases.items()}
    summary = {"units": units, "checkpoint": "last", "branches": branches}
    (folder / "results" / "test.json").write_text(json.dumps(summary))
    lines = ["case,patient,branch,LV_dice,LV_hd95,LV_assd"]
    for branch, patients in dice.items():
        for patient, frames in patients.items():
            lines += [f"{patient}_frame{i},{patient},{branch},{value},8.0,2.0" for i, value in enumerate(frames)]
    (folder / "results" / "test.csv").write_text("\n".join(lines) + "\n")
    validation = ",".join(f"validation_dice_{branch}" for branch in dice)
    values = ",".join("0.75" for _ in dice)
    (folder / "metrics.csv").write_text(f"step,loss,{validation}\n50,1.5,{',' * (len(dice) - 1)}\n100,1.0,{values}\n")
    return comparison.read(sweep / run.folder, run)


@pytest.fixture
def finished(tmp_path):
    """Two lower bounds of 3 strong patients and one of 5, a method with a student, and the upper bound."""
    few, many = {"a": [0.1, 0.3], "b": [0.4], "c": [0.6]}, {"a": [0.5, 0.5], "b": [0.5], "c": [0.5]}
    better = {"a": [0.4, 0.2], "b": [0.6], "c": [0.9]}
    runs = {
        Run("lower_bound", 3, 0): {"teacher": few},
        Run("kl_ent", 3, 0): {"teacher": few, "student": better},
        Run("upper_bound", None, 0): {"teacher": {"a": [0.9, 0.9], "b": [0.9], "c": [0.9]}},
        Run("lower_bound", 5, 0): {"teacher": many},
        Run("lower_bound", 3, 1): {"teacher": few},
        Run("kl_ent", 3, 7): {"teacher": many, "student": many},
    }
    return [write_run(tmp_path, run, dice) for run, dice in runs.items()]


def row_of(rows, method, strong, branch):
    (row,) = [row for row in rows if (row["method"], row["strong"], row["branch"]) == (method, strong, branch)]
    return row


def difference(row, other):
    return [row[f"minus_{other}_{key}"] for key in comparison.DIFFERENCE]


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


# Paired by patient


def test_a_patients_frames_are_averaged_first(finished):
    assert finished[0].patient_dice("teacher", "LV") == pytest.approx({"a": 0.2, "b": 0.4, "c": 0.6})


def test_the_interval_is_students_t_over_patients():
    """Differences 0.1, 0.2 and 0.3: their standard deviation is 0.1, the mean's 0.1 / sqrt(3)."""
    ones, others = {0: {"a": 0.6, "b": 0.5, "c": 0.9}}, {0: {"a": 0.5, "b": 0.3, "c": 0.6}}
    found = comparison.paired_difference(ones, others)
    reach = T_2 * 0.1 / np.sqrt(3)
    assert found == pytest.approx({"mean": 0.2, "low": 0.2 - reach, "high": 0.2 + reach, "better": 3, "patients": 3})
    interval = stats.ttest_rel([0.6, 0.5, 0.9], [0.5, 0.3, 0.6]).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx(tuple(interval))


def test_seeds_are_averaged_and_only_shared_ones_count():
    """Patient a: 0.2 and 0.4 better; patient b: 0.1 worse and 0.3 better. Seed 2 would change the result."""
    ones = {0: {"a": 0.7, "b": 0.4}, 1: {"a": 0.9, "b": 0.8}, 2: {"a": 0.0, "b": 0.0}}
    others = {0: {"a": 0.5, "b": 0.5}, 1: {"a": 0.5, "b": 0.5}, 3: {"a": 1.0, "b": 1.0}}
    found = comparison.paired_difference(ones, others)
    assert (found["mean"], found["better"], found["patients"]) == (pytest.approx(0.2), 2, 2)


def test_equal_patients_are_not_better():
    same = {0: {"a": 0.5, "b": 0.5}}
    assert comparison.paired_difference(same, same) == {"mean": 0, "low": 0, "high": 0, "better": 0, "patients": 2}


def test_one_patient_has_no_interval():
    found = comparison.paired_difference({0: {"a": 0.75}}, {0: {"a": 0.5}})
    assert found == {"mean": 0.25, "low": None, "high": None, "better": 1, "patients": 1}


def test_without_a_shared_seed_there_is_no_difference():
    found = comparison.paired_difference({0: {"a": 0.7}}, {1: {"a": 0.5}})
    assert found == dict.fromkeys(comparison.DIFFERENCE)


def test_other_patients_are_refused():
    with pytest.raises(InputError, match="different patients"):
        comparison.paired_difference({0: {"a": 0.7, "b": 0.5}}, {0: {"a": 0.7, "c": 0.5}})


DICE = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2)


@given(DICE)
def test_swapping_the_two_reverses_the_difference(pairs):
    ones, others = ({0: {patient: pair[i] for patient, pair in pairs.items()}} for i in (0, 1))
    there, back = comparison.paired_difference(ones, others), comparison.paired_difference(others, ones)
    assert there["mean"] == pytest.approx(-back["mean"])
    assert (there["low"], there["high"]) == pytest.approx((-back["high"], -back["low"]))
    assert there["low"] <= there["mean"] <= there["high"]
    assert there["better"] + back["better"] <= there["patients"]


# The table


def test_rows_are_sorted_by_strong_patients_then_methods(finished):
    rows = comparison.compare(finished)
    assert [(row["strong"], row["method"], row["branch"], row["seeds"]) for row in rows] == [
        (3, "lower_bound", "teacher", 2),
        (3, "kl_ent", "teacher", 2),
        (3, "kl_ent", "student", 2),
        (5, "lower_bound", "teacher", 1),
        (None, "upper_bound", "teacher", 1),
    ]
    assert all(tuple(row) == comparison.COLUMNS for row in rows)


def test_means_and_deviation_over_seeds(finished):
    """The student's mean Dice over cases is (0.4 + 0.2 + 0.6 + 0.9) / 4 = 0.525 and 0.5."""
    row = row_of(comparison.compare(finished), "kl_ent", 3, "student")
    assert row["dice_mean"] == pytest.approx(0.5125)
    assert row["dice_std"] == pytest.approx(0.025 / np.sqrt(2))
    assert (row["hd95"], row["assd"], row["empty"]) == (8.0, 2.0, 0)
    assert row_of(comparison.compare(finished), "upper_bound", None, "teacher")["dice_std"] is None


def test_a_method_is_compared_with_the_lower_bound_of_as_many_strong(finished):
    """Only seed 0 is shared: the student is better by 0.1, 0.2 and 0.3, its teacher equals the lower bound."""
    rows = comparison.compare(finished)
    mean, low, high, better, patients = difference(row_of(rows, "kl_ent", 3, "student"), "baseline")
    assert (mean, better, patients) == (pytest.approx(0.2), 3, 3)
    assert high - low == pytest.approx(2 * T_2 * 0.1 / np.sqrt(3))
    assert difference(row_of(rows, "kl_ent", 3, "teacher"), "baseline") == [0, 0, 0, 0, 3]
    assert difference(row_of(rows, "lower_bound", 3, "teacher"), "baseline") == [None] * 5


def test_all_masks_are_compared_with_the_fewest(finished):
    """0.9 against 0.2, 0.4 and 0.6; the difference from the lower bound with 5 would be 0.4."""
    row = row_of(comparison.compare(finished), "upper_bound", None, "teacher")
    assert difference(row, "baseline")[0] == pytest.approx(0.5)


def test_a_student_is_compared_with_its_own_teacher(finished):
    """Mean over both seeds: 0.1, 0.2, 0.3 from seed 0 and 0 from seed 7."""
    rows = comparison.compare(finished)
    mean, _, _, better, patients = difference(row_of(rows, "kl_ent", 3, "student"), "teacher")
    assert (mean, better, patients) == (pytest.approx(0.1), 3, 3)
    assert difference(row_of(rows, "kl_ent", 3, "teacher"), "teacher") == [None] * 5


def test_without_a_lower_bound_nothing_is_compared_with_it(finished):
    rows = comparison.compare([f for f in finished if f.run.method != "lower_bound"])
    assert all(difference(row, "baseline") == [None] * 5 for row in rows)


def test_undefined_distances_are_left_out(tmp_path):
    dice = {"teacher": {"a": [0.0]}}
    one = write_run(tmp_path, Run("kl", 3, 0), dice, hd95=None, assd=None, empty=1)
    other = write_run(tmp_path, Run("kl", 3, 1), dice, hd95=6.0, assd=4.0, empty=0)
    (row,) = comparison.compare([one, other])
    assert (row["hd95"], row["assd"], row["empty"]) == (6.0, 4.0, 1)
    (row,) = comparison.compare([one])
    assert (row["hd95"], row["assd"], row["empty"]) == (None, None, 1)
    assert cells(comparison.markdown([row], "mm", []).splitlines()[2])[5:9] == ["0.0", "-", "-", "1"]


def test_units_are_not_mixed(tmp_path, finished):
    other = write_run(tmp_path, Run("kl", 3, 0), {"teacher": {"a": [0.5]}}, units="voxel")
    with pytest.raises(InputError, match=r"kl/strong3/seed0 in voxel"):
        comparison.compare([*finished, other])


def test_the_median_case(tmp_path):
    """The two runs' means are 0.5 (a), 0.3 (b) and 0.4 (c); a teacher beside a student is ignored."""
    one = {"student": {"a": [0.6], "b": [0.2], "c": [0.7]}, "teacher": {"a": [0.1], "b": [0.9], "c": [0.9]}}
    one = {branch: one[branch] for branch in ("teacher", "student")}
    runs = [write_run(tmp_path, Run("kl", 3, 0), one)]
    runs.append(write_run(tmp_path, Run("single", 3, 0), {"teacher": {"a": [0.4], "b": [0.4], "c": [0.1]}}))
    assert comparison.median_case(runs) == "c_frame0"


def test_the_fewest_strong(finished):
    runs = [f.run for f in comparison.fewest_strong(finished)]
    assert Run("lower_bound", 5, 0) not in runs and len(runs) == len(finished) - 1
    upper = [f for f in finished if f.run.strong is None]
    assert comparison.fewest_strong(upper) == upper


# Folds


@pytest.fixture
def folds(tmp_path):
    """Two folds of two methods: patients a and b in the first, c in the second, a with two frames."""
    dice = {
        ("lower_bound", "0/2"): {"teacher": {"a": [0.1, 0.3], "b": [0.4]}},
        ("lower_bound", "1/2"): {"teacher": {"c": [0.6]}},
        ("kl", "0/2"): {"teacher": {"a": [0.2, 0.4], "b": [0.6]}},
        ("kl", "1/2"): {"teacher": {"c": [0.9]}},
    }
    return [write_run(tmp_path, Run(name, "all", 0, fold), values) for (name, fold), values in dice.items()]


def test_folds_are_pooled_case_by_case(folds):
    """The mean over all four cases is (0.1 + 0.3 + 0.4 + 0.6) / 4; that of the folds' means would be 0.43."""
    lower, kl = comparison.pooled(folds)
    assert (lower.run, kl.run) == (Run("lower_bound", "all", 0), Run("kl", "all", 0))
    assert [case["case"] for case in lower.cases] == ["a_frame0", "a_frame1", "b_frame0", "c_frame0"]
    found = lower.results["branches"]["teacher"]["LV"]
    assert found["dice"] == pytest.approx({"mean": 0.35, "std": np.std([0.1, 0.3, 0.4, 0.6])})
    assert (found["hd95"]["mean"], found["assd"]["mean"], found["empty"]) == (8.0, 2.0, 0)
    assert (lower.results["cases"], lower.results["patients"]) == (4, 3)


def test_pooled_methods_are_paired_by_patient(folds):
    """Patient a is better by 0.1, b by 0.2 and c by 0.3, as in the test of the interval."""
    row = row_of(comparison.compare(comparison.pooled(folds)), "kl", "all", "teacher")
    mean, low, high, better, patients = difference(row, "baseline")
    assert (row["seeds"], mean, better, patients) == (1, pytest.approx(0.2), 3, 3)
    assert high - low == pytest.approx(2 * T_2 * 0.1 / np.sqrt(3))


def test_a_case_without_distances_is_empty_when_pooled(folds):
    folds[0].cases[2].update(LV_hd95="", LV_assd="")
    folds[1].cases[0].update(LV_hd95="14.0")
    found = comparison.pooled(folds)[0].results["branches"]["teacher"]["LV"]
    assert (found["hd95"]["mean"], found["empty"]) == (10.0, 1)


def test_an_incomplete_cross_validation_is_left_out(tmp_path, folds):
    assert comparison.whole(folds) == folds
    assert comparison.whole(folds[:3]) == folds[:2]
    assert [result.run.method for result in comparison.pooled(folds[:3])] == ["lower_bound"]
    text = comparison.write(tmp_path, folds[:3], [folds[3].run])
    assert "Missing, not trained or failed: kl/strongall/seed0/fold1." in text and "of 2 folds" in text
    assert [row["method"] for row in table(tmp_path / "table.csv")] == ["lower_bound"]
    fold = [(row["method"], row["fold"]) for row in table(tmp_path / "runs.csv")]
    assert fold == [("lower_bound", "0/2"), ("lower_bound", "1/2"), ("kl", "0/2")]
    assert "kl/strongall/seed0/fold1" in comparison.write(tmp_path, folds[:1], [folds[3].run])


def test_each_seed_may_test_other_patients():
    """Patient b is tested with both seeds and better by 0.1 and 0.3, a by 0.4 and c by 0.6."""
    ones = {0: {"a": 0.9, "b": 0.6}, 1: {"b": 0.8, "c": 0.6}}
    others = {0: {"a": 0.5, "b": 0.5}, 1: {"b": 0.5, "c": 0.0}}
    found = comparison.paired_difference(ones, others)
    assert (found["mean"], found["patients"]) == (pytest.approx((0.4 + 0.2 + 0.6) / 3), 3)


def test_all_masks_come_last_and_have_their_own_lower_bound(tmp_path, finished):
    """The runs with 3 and 5 patients stay as they are; 0.7 of `all` minus 0.1, 0.2 and 0.3 of its lower bound."""
    low = write_run(tmp_path, Run("lower_bound", "all", 0), {"teacher": {"a": [0.1], "b": [0.2], "c": [0.3]}})
    kl = write_run(tmp_path, Run("kl_ent", "all", 0), {"teacher": {"a": [0.7], "b": [0.7], "c": [0.7]}})
    rows = comparison.compare([low, kl, *finished])
    assert [row["strong"] for row in rows] == [3, 3, 3, 5, "all", "all", None]
    assert difference(row_of(rows, "kl_ent", "all", "teacher"), "baseline")[0] == pytest.approx(0.5)
    assert difference(row_of(rows, "upper_bound", None, "teacher"), "baseline")[0] == pytest.approx(0.5)
    labels = charts.dice_by_strong(rows).axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["3", "5", "all"]
    assert comparison.fewest([low, kl]) == "all" and comparison.fewest([low, *finished]) == 3


# Files


def test_files_contain_the_comparison(tmp_path, finished):
    text = comparison.write(tmp_path, finished, [Run("kl", 5, 2), Run("upper_bound", None, 2)])
    assert (tmp_path / "table.md").read_text() == text
    lines = [" | ".join(cells(line)) for line in text.splitlines()]
    kl_ent = "3 | kl_ent | student | LV | 2 | 51.2 ± 1.8 | 8.00 | 2.00 | 0 | +20.0 [-4.8, +44.8], 3/3 |"
    assert any(line.startswith(kl_ent) for line in lines)
    assert "all | upper_bound | teacher | LV | 1 | 90.0 | 8.00 | 2.00 | 0 | +50.0 [+0.3, +99.7], 3/3 | -" in lines
    assert "Missing" in text and "kl/strong5/seed2, upper_bound/all/seed2" in text
    assert "Missing" not in comparison.write(tmp_path, finished, [])
    rows = table(tmp_path / "table.csv")
    assert [row["strong"] for row in rows] == ["3", "3", "3", "5", "all"]
    for row, expected in zip(rows, comparison.compare(finished), strict=True):
        assert row["minus_teacher_mean"] == str(expected["minus_teacher_mean"] or "")
        assert float(row["dice_mean"]) == expected["dice_mean"]


def test_the_table_can_be_redone_from_the_cases(tmp_path, finished):
    comparison.write(tmp_path, finished, [])
    cases = table(tmp_path / "cases.csv")
    assert len(cases) == 4 * (4 + 2 * 2)
    for row in table(tmp_path / "table.csv"):
        key = ("method", "strong", "branch")
        own = [float(case["LV_dice"]) for case in cases if [case[k] for k in key] == [row[k] for k in key]]
        assert float(row["dice_mean"]) == pytest.approx(np.mean(own))


def test_runs_csv_contains_validation_and_weights(tmp_path, finished):
    comparison.write(tmp_path, finished, [])
    rows = {(row["method"], row["strong"], row["seed"], row["branch"]): row for row in table(tmp_path / "runs.csv")}
    assert len(rows) == 8
    row = rows[("kl_ent", "3", "0", "student")]
    assert (row["steps"], row["validation_dice"], row["weight_w"]) == ("100", "0.75", "0.05")
    assert float(row["LV_test_dice"]) == pytest.approx(0.525)
    assert rows[("upper_bound", "all", "0", "teacher")]["weight_w"] == "0.0"
