from collections import Counter
import itertools

from hypothesis import given
from hypothesis import strategies as st
import pytest

from msl_jax.data import splits
from msl_jax.errors import InputError

SIZES = ((75, 5, 20), (55, 10, 15))
ACDC_GROUPS = ("DCM", "HCM", "MINF", "NOR", "RV")


def acdc(patients):
    """Patients numbered as in ACDC: one group after another, all of equal size."""
    return {f"patient{i + 1:03d}": ACDC_GROUPS[i * len(ACDC_GROUPS) // patients] for i in range(patients)}


def train_of(groups, split_seed=0):
    return {patient: groups[patient] for patient in splits.split_patients(groups, groups, SIZES, split_seed)["train"]}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("patients, sizes", [(80, (55, 10, 15)), (100, (75, 5, 20))])
def test_acdc_is_split_as_in_the_papers_and_equally_in_every_group(patients, sizes, seed):
    groups = acdc(patients)
    split = splits.split_patients(groups, groups, SIZES, seed)
    assert tuple(len(split[role]) for role in ("train", "validation", "test")) == sizes
    assert sorted(itertools.chain(*split.values())) == sorted(groups)
    for role, size in zip(("train", "validation", "test"), sizes, strict=True):
        assert split[role] == sorted(split[role])
        assert Counter(groups[patient] for patient in split[role]) == dict.fromkeys(ACDC_GROUPS, size // 5)


def test_the_split_depends_only_on_its_seed_and_on_the_patients():
    groups = acdc(80)
    reordered = dict(sorted(groups.items(), reverse=True))
    assert splits.split_patients(groups, groups, SIZES, 0) == splits.split_patients(reordered, reordered, SIZES, 0)
    assert len({tuple(splits.split_patients(groups, groups, SIZES, seed)["test"]) for seed in range(10)}) == 10


@pytest.mark.parametrize("seed", range(10))
def test_strong_patients_are_nested_and_of_many_groups(seed):
    train = train_of(acdc(80))
    three, five, ten, every = (splits.draw_strong(train, train, strong, seed) for strong in (3, 5, 10, 55))
    assert set(three) < set(five) < set(ten) < set(train) and every == sorted(train)
    assert (len(three), len(five), len(ten)) == (3, 5, 10)
    assert all(count == 1 for count in Counter(train[patient] for patient in three).values())
    assert Counter(train[patient] for patient in five) == dict.fromkeys(ACDC_GROUPS, 1)
    assert Counter(train[patient] for patient in ten) == dict.fromkeys(ACDC_GROUPS, 2)
    assert three == splits.draw_strong(train, train, 3, seed)


def test_other_seeds_draw_other_strong_patients_and_groups():
    train = train_of(acdc(80))
    draws = [splits.draw_strong(train, train, 3, seed) for seed in range(20)]
    assert len({tuple(draw) for draw in draws}) == 20
    assert {train[patient] for draw in draws for patient in draw} == set(ACDC_GROUPS)


group_sizes = st.lists(st.integers(1, 30), min_size=1, max_size=8)


@given(group_sizes, st.integers(0, 2**32 - 1))
def test_every_prefix_of_the_order_contains_the_groups_in_proportion(counts, seed):
    """Of the first k, f k are of a group with share f, to within (1 + f (G - 2)) / 2: at most 1 for G equal groups.

    For t between 0 and 1, the patients sorted before t include n t members, to within 1/2, of a group of n.
    """
    groups = {f"{group}-{i}": str(group) for group, count in enumerate(counts) for i in range(count)}
    order = splits.stratified_order(groups, seed)
    assert sorted(order) == sorted(groups)
    in_prefix = Counter()
    for length, patient in enumerate(order, start=1):
        in_prefix[groups[patient]] += 1
        for group, count in enumerate(counts):
            share = count / len(groups)
            bound = (1 + share * max(len(counts) - 2, 0)) / 2 if len(counts) > 1 else 0
            assert abs(in_prefix[str(group)] - length * share) <= bound + 1e-9


@given(group_sizes, st.integers(0, 99), st.data())
def test_the_row_that_adds_up_gives_the_sizes(counts, seed, data):
    groups = {f"{group}-{i}": str(group) for group, count in enumerate(counts) for i in range(count)}
    validation = data.draw(st.integers(0, len(groups) - 1))
    test = data.draw(st.integers(0, len(groups) - 1 - validation))
    row = (len(groups) - validation - test, validation, test)
    split = splits.split_patients(groups, groups, [(len(groups), 1, 0), row], seed)
    assert tuple(len(split[role]) for role in splits.PARTS) == row
    assert sorted(itertools.chain(*split.values())) == sorted(groups)


def test_patients_without_masks_are_for_training():
    groups = acdc(80)
    masked = [patient for patient in groups if patient < "patient041"]
    split = splits.split_patients(groups, masked, [(None, 3, 5)], 0)
    assert [len(split[role]) for role in splits.PARTS] == [72, 3, 5]
    assert set(split["validation"] + split["test"]) < set(masked)
    candidates = [patient for patient in split["train"] if patient in masked]
    assert splits.draw_strong(dict.fromkeys(split["train"], ""), candidates, "all", 0) == candidates
    assert set(splits.draw_strong(dict.fromkeys(split["train"], ""), candidates, 4, 0)) < set(candidates)
    with pytest.raises(InputError, match=r"split_sizes: uses 8 .* but only 8 have masks"):
        splits.split_patients(groups, masked[:8], [(None, 3, 5)], 0)


@given(st.integers(2, 12), st.integers(0, 12), st.integers(0, 99))
def test_the_folds_of_a_cross_validation_contain_each_strong_patient_once(parts, more, seed):
    groups = acdc(80)
    split = splits.split_patients(groups, groups, SIZES, 0)
    strong = splits.draw_strong(train_of(groups), split["train"], parts + more, 0)
    folds = [splits.fold(split, strong, groups, f"{index}/{parts}", seed) for index in range(parts)]
    assert sorted(itertools.chain(*(fold["test"] for fold in folds))) == strong
    assert {len(fold["test"]) for fold in folds} <= {len(strong) // parts, -(-len(strong) // parts)}
    for fold in folds:
        assert not fold["validation"] and sorted(fold["train"] + fold["test"]) == split["train"]


@pytest.mark.parametrize("part", ["4/4", "0/1", "1", "a/4", "-1/4", "0/6", "1/2/3"])
def test_invalid_folds_raise_input_error(part):
    split = {"train": list("abcdefg"), "validation": [], "test": ["h"]}
    with pytest.raises(InputError, match=r"config\.data\.fold: is "):
        splits.fold(split, list("abcde"), dict.fromkeys("abcdefgh", ""), part, 0)


def test_listed_patients_are_the_split():
    groups = acdc(80)
    lists = {"train": ("patient009", "patient002"), "validation": ["patient001"], "test": ["patient003"]}
    split = splits.listed_split(groups, lists)
    assert split == {"train": ["patient002", "patient009"], "validation": ["patient001"], "test": ["patient003"]}
    assert splits.draw_strong(train_of(groups), ["patient009"], ("patient009",), 0) == ["patient009"]


@pytest.mark.parametrize(
    "role, patients, message",
    [
        ("train", [], r"split\.train: is empty"),
        ("test", [], r"split\.test: is empty"),
        ("test", ["patient999"], r"split\.test: .*'patient999'"),
        ("test", ["patient001"], r"split\.test: .*'patient001' is already in train"),
        ("train", ["patient001", "patient001"], r"split\.train: .*'patient001' is already in train"),
    ],
)
def test_invalid_lists_raise_input_error(role, patients, message):
    lists = {"train": ["patient001"], "validation": ["patient002"], "test": ["patient003"]}
    with pytest.raises(InputError, match=message):
        splits.listed_split(acdc(80), {**lists, role: patients})


def test_sizes_that_do_not_add_up_raise_input_error():
    with pytest.raises(InputError, match=r"split_sizes: .*the 79 patients .*75\+5\+20, 55\+10\+15"):
        splits.split_patients(dict(list(acdc(80).items())[1:]), acdc(80), SIZES, 0)


@pytest.mark.parametrize(
    "strong, message",
    [
        (0, "is 0; 55 training"),
        (-1, "is -1; 55 training"),
        (56, "is 56; 55 training"),
        (["patient999"], r"\['patient999'\] are not training patients"),
        ([], "empty"),
        (2 * ["first"], "twice"),
    ],
)
def test_invalid_strong_patients_raise_input_error(strong, message):
    train = train_of(acdc(80))
    if strong == ["first", "first"]:
        strong = 2 * [min(train)]
    with pytest.raises(InputError, match=r"config\.data\.strong: .*" + message):
        splits.draw_strong(train, train, strong, 0)


def test_a_strong_patient_of_the_test_part_raises_input_error():
    groups = acdc(80)
    held_out = splits.split_patients(groups, groups, SIZES, 0)["test"][0]
    with pytest.raises(InputError, match=held_out):
        splits.draw_strong(train_of(groups), train_of(groups), [held_out], 0)
