"""Names that may be time points of one patient, and names that are numbered on and on."""

import itertools

import pytest

from msl_jax.cautions import patient_pattern
from msl_jax.data.case import Source

ONE_EACH = {
    "a number that runs on": [f"case{i:02d}" for i in range(25)],
    "from 1": [f"patient{i:03d}" for i in range(1, 111)],
    "with gaps, as the decathlon's": [f"hippocampus_{i:03d}" for i in (1, 3, 4, 6, 7, 8, 11, 14, 15, 17, 19, 20, 23)],
    "without leading zeros": [f"scan{i}" for i in range(1, 13)],
    "words": ["anna", "bert", "carl", "dora"],
    "two sites": [f"{site}_{i:03d}" for site in ("north", "south") for i in range(20)],
    "numbers by site": [f"{100 * site + i}" for site in (1, 2) for i in range(1, 12)],
    "one stem": ["case_a", "case_b", "case_c"],
    "one": ["a1"],
    "none": [],
}
SEVERAL = {
    "nnU-Net's ACDC": [[f"patient{p:03d}_frame{f:02d}" for f in (1, 12)] for p in range(1, 7)],
    "nothing between": [[f"genius_{p:02d}{t:02d}" for t in range(3)] for p in range(8, 13)],
    "one digit": [[f"p{p:02d}{t}" for t in (1, 2)] for p in range(3)],
    "a letter": [[f"{p:02d}{side}" for side in "ab"] for p in range(4, 9)],
    "BIDS": [[f"sub-{p:02d}_ses-{t}" for t in (1, 2)] for p in range(1, 5)],
    "phases": [[f"p{p}_{phase}" for phase in ("ED", "ES")] for p in range(3)],
    "dates": [["p1_20240102", "p1_20240607"], ["p2_20230101"], ["p3_20240103"]],
    "dots": [[f"a{p}.{t}" for t in range(2)] for p in range(4)],
}


@pytest.mark.parametrize("names", ONE_EACH.values(), ids=ONE_EACH)
def test_names_of_one_case_each_are_left_alone(names):
    assert patient_pattern(sorted(names)) is None


@pytest.mark.parametrize("patients", SEVERAL.values(), ids=SEVERAL)
def test_the_pattern_that_is_printed_groups_time_points(patients):
    names = [name for cases in patients for name in cases]
    source = Source("folder", "", patient=patient_pattern(names))
    assert [list(group) for _, group in itertools.groupby(names, source.patient_of)] == patients
