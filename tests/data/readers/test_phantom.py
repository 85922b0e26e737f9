import dataclasses
import itertools

import numpy as np
import pytest
from scipy import ndimage

from msl_jax.data.case import Source, load_all
from msl_jax.data.readers import phantom
from msl_jax.errors import InputError

RV, MYO, LV = (phantom.LABELS[name] for name in ("RV", "MYO", "LV"))
PATIENTS = 8


@pytest.fixture(scope="module")
def cases():
    return [load() for load in phantom.read(Source("phantom", f"patients={PATIENTS},seed=0"))]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True))


def test_every_case_is_valid(cases):
    assert len({case.name for case in cases}) == len(cases) == 2 * PATIENTS
    for case in cases:
        slices, height, width, channels = case.image.shape
        assert channels == 1
        assert case.image.dtype == np.float32 and np.isfinite(case.image).all() and case.image.min() >= 0
        assert case.mask.dtype == np.uint8 and case.mask.shape == (slices, height, width)
        assert set(np.unique(case.mask)) == {0, RV, MYO, LV}
        assert case.annotation is None and case.units == "mm"
        assert 6 <= slices <= 12 and 100 <= min(height, width) and max(height, width) <= 160
        assert 5 <= case.spacing[0] <= 10 and 1.4 <= case.spacing[1] == case.spacing[2] <= 2.2
        assert case.name == f"{case.patient}_frame{case.frame:02d}"


def test_patients_are_in_order_with_both_phases_and_balanced_groups(cases):
    assert [case.patient for case in cases[::2]] == [f"phantom{i:03d}" for i in range(1, PATIENTS + 1)]
    assert [case.phase for case in cases] == ["ED", "ES"] * PATIENTS
    assert all(case.frame == 1 for case in cases[::2]) and all(9 <= case.frame <= 12 for case in cases[1::2])
    assert [case.group for case in cases[::2]] == list(phantom.GROUPS) * (PATIENTS // len(phantom.GROUPS))
    for ed, es in zip(cases[::2], cases[1::2], strict=True):
        assert (ed.patient, ed.group, ed.spacing, ed.image.shape) == (es.patient, es.group, es.spacing, es.image.shape)


def test_a_smaller_set_is_the_beginning_of_a_larger_one_bit_for_bit(cases):
    smaller = [load() for load in phantom.read(Source("phantom", "patients=2,seed=0"))]
    assert len(smaller) == 4
    assert all(same(a, b) for a, b in zip(smaller, cases, strict=False))


def test_the_seed_matters(cases):
    other = next(load_all(phantom.read(Source("phantom", "patients=1,seed=1"))))
    assert other.image.shape != cases[0].image.shape or not np.array_equal(other.image, cases[0].image)


def test_the_cavity_touches_only_myocardium(cases):
    for mask in itertools.chain.from_iterable(case.mask for case in cases):
        assert set(np.unique(mask[ndimage.binary_dilation(mask == LV)])) <= {MYO, LV}


def test_the_right_ventricle_touches_the_myocardium(cases):
    for mask in itertools.chain.from_iterable(case.mask for case in cases):
        if (mask == RV).any():
            assert (mask[ndimage.binary_dilation(mask == RV)] == MYO).any()


def test_each_structure_is_one_component_inside_the_field_of_view(cases):
    for mask in itertools.chain.from_iterable(case.mask for case in cases):
        assert all(ndimage.label(mask == label, np.ones((3, 3)))[1] <= 1 for label in (RV, MYO, LV))
        assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()


def test_the_cavity_shrinks_towards_the_apex_and_is_longer_than_the_right_ventricle(cases):
    for case in cases:
        lv, rv = ((case.mask == label).sum((1, 2)) for label in (LV, RV))
        assert (np.diff(lv[np.argmax(lv) :]) <= 0).all() and np.argmax(lv) <= 1
        assert np.flatnonzero(rv).max() <= np.flatnonzero(lv).max()


def test_the_heart_contracts_and_its_wall_thickens(cases):
    for ed, es in zip(cases[::2], cases[1::2], strict=True):
        assert (es.mask == LV).sum() < 0.95 * (ed.mask == LV).sum()
        middle = len(ed.mask) // 2
        wall = [(m >= MYO).sum() ** 0.5 - (m == LV).sum() ** 0.5 for m in (ed.mask[middle], es.mask[middle])]
        assert wall[0] < wall[1]


def test_groups_differ_like_their_diseases(cases):
    def volumes(group):
        counts = [[(c.mask == label).sum() * np.prod(c.spacing) for label in (RV, MYO, LV)] for c in cases[::2]]
        return np.mean([count for count, c in zip(counts, cases[::2], strict=True) if c.group == group], axis=0)

    rv, myo, lv = np.transpose([volumes(group) for group in ("NOR", "DCM", "HCM", "RV")])
    assert lv.argmax() == 1 and (myo / lv).argmax() == 2 and (rv / lv).argmax() == 3


def test_a_threshold_does_not_segment_the_cavity(cases):
    for case in cases:
        cavity = case.mask == LV
        brighter = [case.image[..., 0] > level for level in np.percentile(case.image, np.arange(50, 100))]
        assert max(2 * (b & cavity).sum() / (b.sum() + cavity.sum()) for b in brighter) < 0.7


def test_blood_is_brighter_than_myocardium(cases):
    for case in cases:
        assert np.median(case.image[case.mask == LV]) > 1.5 * np.median(case.image[case.mask == MYO])


@pytest.mark.parametrize(
    "source",
    [
        "",
        "patients=4",
        "seed=0",
        "patients=0,seed=0",
        "patients=4,seed=-1",
        "patients=4,seed=0,slices=9",
        "patients=4,patients=5",
        "patients=4.5,seed=0",
        "patients=4,seed=0,",
        "patients=4 seed=0",
        "/data/acdc",
    ],
)
@pytest.mark.parametrize("call", [phantom.fingerprint, lambda source: [load() for load in phantom.read(source)]])
def test_other_sources_are_errors_of_one_line(call, source):
    with pytest.raises(InputError, match="patients=40,seed=0") as error:
        call(Source("phantom", source))
    assert "\n" not in str(error.value)


def test_the_fingerprint_is_the_normalized_source():
    spellings = ["patients=12,seed=3", "seed=3,patients=12", " patients = 12 , seed = 03 "]
    assert {phantom.fingerprint(Source("phantom", source)) for source in spellings} == {"patients=12,seed=3"}
