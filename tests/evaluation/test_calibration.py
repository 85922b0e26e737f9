import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from documents import cells
from msl_jax.evaluation import calibration
from msl_jax.evaluation.calibration import BINS, REGIONS, measure, summarise, total

H = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
"""Entropy at a confidence of 0.75, of two classes."""


def voxels(*rows):
    """Probabilities and classes of a line of voxels, two classes, from rows (count, prediction, confidence, reference).

    Confidences are sums of a few powers of two, so that float32 holds them exactly.
    """
    probabilities, classes = [], []
    for count, prediction, confidence, reference in rows:
        pair = [1 - confidence, confidence] if prediction else [confidence, 1 - confidence]
        probabilities += [pair] * count
        classes += [reference] * count
    return np.array(probabilities, np.float32)[None, None], np.array(classes, np.int32)[None, None]


def summary(*rows):
    return summarise(measure(*voxels(*rows)))


def at(place, value):
    """A list with a value per bin: None except in one bin."""
    return [value if index == place else None for index in range(BINS)]


# Closed forms


def test_perfectly_calibrated():
    """Of four voxels at 0.75, in the bin from 11/15 to 12/15, three are correct."""
    found = summary((3, 1, 0.75, 1), (1, 1, 0.75, 0))
    curve = {"count": [4 * (index == 11) for index in range(BINS)]}
    curve |= {"confidence": at(11, 0.75), "accuracy": at(11, 0.75)}
    assert found == {
        "ece": 0,
        "ece_structure": 0,
        "ece_predicted": 0,
        "entropy": {"foreground": pytest.approx(H), "background": pytest.approx(H)},
        "confidence_where_wrong": 0.75,
        "reliability": dict.fromkeys(REGIONS, curve),
    }


def test_fully_over_confident():
    found = summary((1, 1, 1.0, 1), (3, 1, 1.0, 0))
    assert (found["ece"], found["confidence_where_wrong"]) == (0.75, 1)
    assert found["entropy"] == {"foreground": 0, "background": 0}
    assert found["reliability"]["all"]["accuracy"] == at(14, 0.25)


def test_two_bins():
    """Six voxels at 0.75, all correct: 1/4 under-confident; two at 0.625, one correct: 1/8 over-confident."""
    found = summary((6, 1, 0.75, 1), (1, 1, 0.625, 1), (1, 1, 0.625, 0))
    assert found["ece"] == 6 / 8 * 0.25 + 2 / 8 * 0.125


def test_errors_of_opposite_sign_in_two_bins_do_not_cancel():
    """Over both bins together, accuracy and confidence are 7/8."""
    assert summary((4, 1, 0.75, 1), (3, 1, 1.0, 1), (1, 1, 1.0, 0))["ece"] == 0.25


def test_regions():
    """96 voxels of easy background, four false positives, one missed, one correct, and the value of each region."""
    found = summary((96, 0, 1.0, 0), (4, 1, 0.75, 0), (1, 0, 0.625, 1), (1, 1, 1.0, 1))
    assert found["ece"] == pytest.approx((4 * 0.75 + 0.625) / 102)
    assert found["ece_structure"] == pytest.approx((4 * 0.75 + 0.625) / 6)
    assert found["ece_predicted"] == pytest.approx(4 * 0.75 / 5)
    assert found["confidence_where_wrong"] == pytest.approx((4 * 0.75 + 0.625) / 5)
    assert found["entropy"]["background"] == pytest.approx(4 * H / 100)
    assert {name: sum(curve["count"]) for name, curve in found["reliability"].items()} == {
        "all": 102,
        "structure": 6,
        "predicted": 5,
    }


def test_a_calibrated_branch_has_an_error_over_structure():
    """Of four voxels labelled structure and four labelled background, all at 0.75, three each are correct: calibrated.

    The region "structure" excludes the three correct background voxels: three of five are correct, 0.15 below 0.75.
    """
    found = summary((3, 1, 0.75, 1), (1, 1, 0.75, 0), (3, 0, 0.75, 0), (1, 0, 0.75, 1))
    assert (found["ece"], found["ece_predicted"]) == (0, 0)
    assert found["ece_structure"] == pytest.approx(0.15)


def test_one_structure_labelled_as_another_is_wrong():
    probabilities = np.array([[0.0, 0.75, 0.25], [0.0, 0.25, 0.75]], np.float32)[None, None]
    found = summarise(measure(probabilities, np.array([[[1, 1]]])))
    assert found["reliability"]["predicted"]["accuracy"] == at(11, 0.5)
    assert found["entropy"] == {"foreground": pytest.approx(H), "background": None}


def test_uniform_probabilities_have_the_entropy_log_classes():
    found = summarise(measure(np.full((1, 2, 3, 4), 0.25, np.float32), np.zeros((1, 2, 3), int)))
    assert found["entropy"] == {"foreground": None, "background": pytest.approx(math.log(4))}


@pytest.mark.parametrize(
    ("confidence", "place"),
    [(0.6, 8), (np.nextafter(np.float32(0.6), 1), 9), (0.65, 9), (1.0, 14), (1 + 1e-6, 14)],
)
def test_a_bin_includes_its_upper_edge(confidence, place):
    """0.6 is the edge between bins 8 and 9; interpolation may round a probability to just above 1."""
    probabilities = np.array([confidence, max(1 - confidence, 0)], np.float32).reshape(1, 1, 1, 2)
    counts = summarise(measure(probabilities, np.zeros((1, 1, 1), int)))["reliability"]["all"]["count"]
    assert counts == [int(index == place) for index in range(BINS)]


def test_without_structure_there_is_no_mean():
    found = summary((5, 0, 0.75, 0))
    assert found["ece"] == 0.25
    for name in ("ece_structure", "ece_predicted", "confidence_where_wrong"):
        assert found[name] is None, name
    assert found["entropy"]["foreground"] is None
    assert found["reliability"]["predicted"] == {
        "count": [0] * BINS,
        "confidence": [None] * BINS,
        "accuracy": [None] * BINS,
    }
    row = calibration.markdown({"calibration": {"teacher": found}}).splitlines()[2]
    assert cells(row) == ["teacher", "1.00", "25.00", "-", "-", "-", f"{H:.3f}"]


def test_a_branch_has_a_second_row_at_its_temperature():
    found = summary((5, 0, 0.75, 0))
    student = found | {"scaled": {"temperature": 1.5, **found, "ece": 0.125}}
    rows = [row[:3] for row in calibration.table({"calibration": {"teacher": found, "student": student}})]
    assert rows == [["teacher", "1.00", "25.00"], ["student", "1.00", "25.00"], ["student", "1.50", "12.50"]]


# Invariants


def drawn(seed, classes, sharpness, shape=(2, 4, 5)):
    """Random probabilities, from nearly uniform to saturated, and a reference that half follows them."""
    generator = np.random.default_rng(seed)
    logits = sharpness * generator.normal(size=(*shape, classes))
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities = (probabilities / probabilities.sum(-1, keepdims=True)).astype(np.float32)
    reference = np.where(
        generator.random(shape) < 0.5, probabilities.argmax(-1), generator.integers(0, classes, shape)
    ).astype(np.int32)
    return probabilities, reference


CASES = st.builds(drawn, st.integers(0, 2**32 - 1), st.integers(2, 5), st.sampled_from([0.01, 1.0, 4.0, 100.0]))
QUICK = settings(max_examples=50)


def brute_force(probabilities, classes, chosen):
    """Guo's equation 3, voxel by voxel, over the voxels for which chosen(prediction, reference) is true."""
    bins = [[] for _ in range(BINS)]
    for p, reference in zip(probabilities.reshape(-1, probabilities.shape[-1]).tolist(), classes.ravel(), strict=True):
        prediction = p.index(max(p))
        if chosen(prediction, reference):
            bins[max(math.ceil(max(p) * BINS) - 1, 0)].append((max(p), prediction == reference))
    n = sum(map(len, bins))
    gaps = [abs(sum(hit for _, hit in b) / len(b) - sum(c for c, _ in b) / len(b)) * len(b) / n for b in bins if b]
    return sum(gaps) if n else None


@QUICK
@given(CASES)
def test_against_brute_force(case):
    found = summarise(measure(*case))
    for name, chosen in {
        "ece": lambda prediction, reference: True,
        "ece_structure": lambda prediction, reference: prediction > 0 or reference > 0,
        "ece_predicted": lambda prediction, reference: prediction > 0,
    }.items():
        assert found[name] == pytest.approx(brute_force(*case, chosen), abs=1e-6), name


@QUICK
@given(CASES)
def test_bounds(case):
    probabilities, classes = case
    found = summarise(measure(*case))
    json.dumps(found, allow_nan=False)
    for name in ("ece", "ece_structure", "ece_predicted", "confidence_where_wrong"):
        assert found[name] is None or 0 <= found[name] <= 1 + 1e-6
    for value in found["entropy"].values():
        assert value is None or 0 <= value <= math.log(probabilities.shape[-1]) + 1e-6
    confidence, accuracy = probabilities.max(-1).mean(), (probabilities.argmax(-1) == classes).mean()
    assert found["ece"] >= abs(confidence - accuracy) - 1e-6
    counts = [np.array(found["reliability"][name]["count"]) for name in REGIONS]
    assert counts[0].sum() == classes.size
    assert (counts[0] >= counts[1]).all() and (counts[1] >= counts[2]).all()
    edges = np.arange(BINS + 1) / BINS
    for low, high, mean in zip(edges, edges[1:], found["reliability"]["all"]["confidence"], strict=False):
        assert mean is None or low - 1e-6 <= mean <= high + 1e-6


@QUICK
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 4))
def test_cases_add_up_to_their_concatenation(seed, classes, count):
    cases = [drawn(seed + index, classes, 2.0, (index + 1, 3, 4)) for index in range(count)]
    whole = measure(*(np.concatenate(parts) for parts in zip(*cases, strict=True)))
    cases.append((np.zeros((0, classes), np.float32), np.zeros(0, int)))  # slices without a labelled voxel
    for found, expected in zip(total(measure(*case) for case in cases), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@QUICK
@given(CASES, st.randoms(use_true_random=False))
def test_the_order_of_voxels_does_not_matter(case, random):
    probabilities, classes = case
    order = list(range(classes.size))
    random.shuffle(order)
    shuffled = measure(
        probabilities.reshape(-1, probabilities.shape[-1])[order].reshape(probabilities.shape),
        classes.ravel()[order].reshape(classes.shape),
    )
    for found, expected in zip(shuffled, measure(*case), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


# Refusals


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, c: (p[..., 0], c), "of the same voxels"),
        (lambda p, c: (p[:1], c), "of the same voxels"),
        (lambda p, c: (np.log(p), c), "sum to 1"),
        (lambda p, c: (p - [0.75, -0.75], c), "not negative"),
        (lambda p, c: (p * np.float32(np.nan), c), "finite"),
        (lambda p, c: (p, c + 2), "must be from 0 to 1, not from 2 to 3"),
        (lambda p, c: (p, np.where(c, 255, c)), "not from 0 to 255"),
    ],
)
def test_invalid_cases_are_refused(spoil, message):
    probabilities, classes = drawn(0, 2, 1.0)
    assert set(np.unique(classes)) == {0, 1}
    with pytest.raises(ValueError, match=message):
        measure(*spoil(probabilities, classes))
