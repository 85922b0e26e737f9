import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
import numpy as np
import pytest
from scipy import ndimage
import tensorflow as tf

from msl_jax.data import weak_labels
from msl_jax.data.case import Source, load_all
from msl_jax.data.readers import acdc
from msl_jax.data.weak_labels import RECIPES, Style, Where
from msl_jax.labels import UNLABELED

WHERE = Where("patient001_frame01", slice=2, slices=10)
ALL_BACKGROUND = {"box", "slices", "full"}  # annotate it, asked for or not
MAY_BE_EMPTY = {"box", "slices", "none"}  # although there is a structure
QUICK = settings(max_examples=60)
both = pytest.mark.parametrize("background", [False, True])
every_recipe = pytest.mark.parametrize("recipe", RECIPES)
discs = pytest.mark.parametrize("recipe", ["point", "centroid"])


def style(background=False, radius=3, every=4):
    return Style(background, radius, every)


# Pinned: what numpy's generator gives for WHERE, and so where points lie in RING.
POINT_NUMBERS = [0.39626559885418733, 0.4927787161588879]
POINTS = {0: [[38, 32]], 2: [[15, 8]], 3: [[19, 26]]}


def classes(labels):
    return set(labels.ravel().tolist()) - {UNLABELED}


def literal(mask, background):
    """Erosion word by word: the most erosions, of at most 10, that leave something, or else none."""
    weak = np.full(mask.shape, UNLABELED)
    for label in classes(mask) - (set() if background else {0}):
        left = mask == label
        for iterations in range(10, 0, -1):
            eroded = ndimage.binary_erosion(mask == label, np.ones((3, 3)), iterations=iterations)
            if eroded.any():
                left = eroded
                break
        weak[left] = label
    return weak


@st.composite
def masks(draw, unlabeled=True):
    """Discs, boxes, rings, lines and pixels painted over one another, some beyond the border, then some noise."""
    height, width = draw(st.integers(1, 48)), draw(st.integers(1, 48))
    mask = np.zeros((height, width), np.int32)
    y, x = np.indices(mask.shape)
    number = st.integers(-4, 48)
    label = st.sampled_from([0, 1, 2, 3, UNLABELED] if unlabeled else [0, 1, 2, 3])
    for _ in range(draw(st.integers(0, 6))):
        cy, cx, a, b = draw(number), draw(number), draw(st.integers(0, 26)), draw(st.integers(0, 26))
        disc = (x - cx) ** 2 + (y - cy) ** 2 <= a**2
        box = (abs(y - cy) <= a) & (abs(x - cx) <= b)
        ring = disc & ((x - cx) ** 2 + (y - cy) ** 2 >= b**2)
        mask[draw(st.sampled_from([disc, box, ring]))] = draw(label)
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        mask[rng.random(mask.shape) < 0.02] = draw(label)
    return mask


styles = st.builds(Style, st.booleans(), st.integers(0, 6), st.integers(1, 5))


def drawn(*boxes):
    mask = np.zeros((40, 50), np.int32)
    for label, ys, xs in boxes:
        mask[slice(*ys), slice(*xs)] = label
    return mask


RING = drawn((2, (5, 35), (5, 35)), (3, (12, 28), (12, 28)))
SPECIAL = [
    pytest.param(drawn(), id="nothing"),
    pytest.param(drawn((1, (0, 40), (0, 50))), id="everything"),
    pytest.param(drawn((UNLABELED, (0, 40), (0, 50))), id="unknown"),
    pytest.param(drawn((UNLABELED, (0, 40), (0, 50)), (2, (3, 9), (0, 30))), id="nothing else known"),
    pytest.param(drawn((2, (7, 8), (9, 10))), id="a pixel"),
    pytest.param(drawn((2, (7, 9), (9, 11)), (1, (0, 1), (49, 50))), id="four pixels, and one in the corner"),
    pytest.param(drawn((1, (7, 8), (3, 40)), (3, (12, 14), (0, 50))), id="lines"),
    pytest.param(drawn((1, (0, 9), (0, 9)), (2, (30, 40), (20, 50))), id="at the border"),
    pytest.param(drawn((1, (2, 5), (2, 5)), (1, (10, 31), (10, 31)), (1, (35, 36), (2, 3))), id="several pieces"),
    pytest.param(RING, id="a ring"),
    pytest.param(drawn((3, (5, 9), (5, 9))), id="classes 1 and 2 missing"),
]
special = pytest.mark.parametrize("mask", SPECIAL)


def check(recipe, mask, how):
    """What holds for every recipe, mask and style; returns the weak labels."""
    before = mask.copy()
    weak = RECIPES[recipe](mask, WHERE, how)
    np.testing.assert_array_equal(mask, before)
    assert weak.dtype == np.int32 and weak.shape == mask.shape
    annotated = weak != UNLABELED
    np.testing.assert_array_equal(weak[annotated], mask[annotated])
    structures = classes(mask) - {0}
    if recipe not in MAY_BE_EMPTY:
        assert classes(weak) - {0} == structures
    if recipe not in ALL_BACKGROUND | MAY_BE_EMPTY:
        assert (0 in weak) == (how.background and 0 in mask)
    np.testing.assert_array_equal(RECIPES[recipe](mask.copy(), Where(**vars(WHERE)), how), weak)
    return weak


@every_recipe
@QUICK
@given(masks(), styles)
def test_no_mask_is_contradicted_and_no_structure_left_out(recipe, mask, how):
    check(recipe, mask, how)


@every_recipe
@both
@special
def test_special_masks_are_not_contradicted_and_no_structure_left_out(recipe, mask, background):
    check(recipe, mask, style(background))


@every_recipe
@both
@pytest.mark.parametrize("dtype", ["int64", "uint8"])
def test_the_mask_may_be_of_any_whole_number(recipe, dtype, background):
    weak = RECIPES[recipe](RING.astype(dtype), WHERE, style(background))
    np.testing.assert_array_equal(weak, check(recipe, RING, style(background)))


@every_recipe
@QUICK
@given(masks(unlabeled=False))
def test_structures_are_annotated_alike_with_background_and_without(recipe, mask):
    without, with_it = (check(recipe, mask, style(background)) for background in (False, True))
    chosen = with_it.copy()
    if recipe not in ALL_BACKGROUND:
        chosen[chosen == 0] = UNLABELED
    np.testing.assert_array_equal(without, chosen)


def test_slices_do_not_depend_on_the_order_in_which_they_are_annotated():
    places = [Where(case, z, 5) for case in ("a", "b") for z in range(5)]
    once = {place: weak_labels.point(RING, place, style(True)) for place in places}
    for place in reversed(places):
        np.testing.assert_array_equal(weak_labels.point(RING, place, style(True)), once[place])
    assert len({weak.tobytes() for weak in once.values()}) == len(places)


def test_random_numbers_are_the_same_on_every_machine():
    assert WHERE.generator("point").random(2).tolist() == POINT_NUMBERS
    assert WHERE.generator("other").random() != POINT_NUMBERS[0]
    weak = weak_labels.point(RING, WHERE, style(True, radius=0))
    assert {label: np.argwhere(weak == label).tolist() for label in (0, 2, 3)} == POINTS


@QUICK
@given(masks(), st.booleans())
def test_any_mask_is_eroded_as_the_recipe_says(mask, background):
    np.testing.assert_array_equal(check("erosion", mask, style(background)), literal(mask, background))


@both
@special
def test_special_masks_are_eroded_as_the_recipe_says(mask, background):
    np.testing.assert_array_equal(check("erosion", mask, style(background)), literal(mask, background))


@pytest.mark.parametrize("side, left", [(1, 1), (2, 2), (3, 1), (4, 2), (5, 1), (21, 1), (22, 2), (23, 3), (25, 5)])
def test_a_square_keeps_its_middle(side, left):
    weak = weak_labels.erosion(drawn((1, (3, 3 + side), (4, 4 + side))), WHERE, style())
    margin = (side - left) // 2
    expected = drawn((1, (3 + margin, 3 + margin + left), (4 + margin, 4 + margin + left)))
    np.testing.assert_array_equal(weak == 1, expected == 1)
    assert (weak != UNLABELED).sum() == left**2


@discs
@QUICK
@given(masks(), styles)
def test_a_disc_is_round_and_ends_where_its_structure_does(recipe, mask, how):
    weak = check(recipe, mask, how)
    y, x = np.indices(mask.shape)
    for label in classes(weak):
        structure = mask == label
        around = [structure & ((y - cy) ** 2 + (x - cx) ** 2 <= how.radius**2) for cy, cx in np.argwhere(weak == label)]
        assert any((disc == (weak == label)).all() for disc in around)


@pytest.mark.parametrize("radius, pixels", [(0, 1), (1, 5), (2, 13), (3, 29)])
@discs
def test_a_disc_is_whole_where_it_fits(recipe, radius, pixels):
    mask = drawn((1, (10, 17), (10, 40)))
    for z in range(20):
        weak = RECIPES[recipe](mask, Where("a", z, 20), style(background=True, radius=radius))
        assert (weak == 1).sum() == pixels == (weak == 0).sum()


def test_points_reach_all_that_the_disc_fits_into():
    mask = drawn((1, (10, 17), (10, 18)))
    centres = {
        tuple(np.argwhere(weak_labels.point(mask, Where("a", z, 99), style(radius=2)) == 1).mean(0)) for z in range(99)
    }
    assert centres == set(itertools.product(range(12, 15), range(12, 16)))


def test_the_centroid_of_a_square_is_its_middle_and_that_of_a_ring_moves_to_its_inner_edge():
    weak = weak_labels.centroid(RING, WHERE, style(radius=0))
    assert np.argwhere(weak == 3).tolist() == [[19, 19]]  # nearest 19.5, 19.5: the first of four
    assert np.argwhere(weak == 2).tolist() == [[11, 19]]  # the first of eight
    half = RING * (np.arange(40) > 19)[:, None]
    assert np.argwhere(weak_labels.centroid(half, WHERE, style(radius=0)) == 2).tolist() == [[28, 19]]


def test_a_disc_of_background_lies_where_it_is_deepest():
    mask = drawn((1, (0, 40), (31, 50)))
    weak = weak_labels.centroid(mask, WHERE, style(background=True, radius=0))
    assert np.argwhere(weak == 0).tolist() == [[15, 15]]


@QUICK
@given(masks())
def test_a_scribble_is_thin(mask):
    weak = check("scribble", mask, style(background=True))
    for label in classes(weak):
        assert not ndimage.binary_erosion(weak == label, np.ones((5, 5))).any()


def test_a_scribble_is_the_middle_line_of_what_is_long_and_a_loop_in_what_is_compact():
    weak = weak_labels.scribble(drawn((1, (3, 8), (4, 44)), (2, (14, 34), (10, 30))), WHERE, style())
    rows, columns = np.nonzero(weak == 1)
    assert set(rows) <= {4, 5, 6} and len(columns) == len(set(columns)) > 30
    expected = drawn((2, (19, 29), (15, 25))) - drawn((2, (20, 28), (16, 24)))
    np.testing.assert_array_equal(weak == 2, expected == 2)


def test_a_scribble_closes_around_a_ring_and_background_around_all():
    weak = weak_labels.scribble(RING, WHERE, style(background=True))
    for label in (0, 2):
        inside = ndimage.binary_fill_holes(weak == label)
        assert inside[19, 19] and not inside[0, 0] and ndimage.label(weak == label, np.ones((3, 3)))[1] == 1
    margin = round(weak_labels.MARGIN * 40)
    expected = drawn((1, (5 - margin, 35 + margin), (5 - margin, 35 + margin))) - drawn((1, (4, 36), (4, 36)))
    assert margin == 2
    np.testing.assert_array_equal(weak == 0, expected == 1)


def test_the_curve_around_ends_at_the_border_of_the_slice():
    weak = weak_labels.scribble(drawn((1, (0, 40), (0, 10))), WHERE, style(background=True))
    np.testing.assert_array_equal(weak == 0, drawn((1, (0, 40), (11, 12))) == 1)


def test_a_slice_without_structures_has_a_loop_of_background():
    weak = weak_labels.scribble(drawn(), WHERE, style(background=True))
    np.testing.assert_array_equal(weak == 0, drawn((1, (10, 30), (10, 40))) - drawn((1, (11, 29), (11, 39))) == 1)


@both
def test_a_box_annotates_all_background_outside_of_it(background):
    mask = drawn(
        (UNLABELED, (0, 2), (0, 50)),
        (UNLABELED, (0, 40), (0, 1)),
        (1, (5, 9), (5, 30)),
        (2, (7, 20), (40, 50)),
        (2, (30, 31), (3, 4)),
    )
    outside = drawn((1, (0, 2), (0, 50)), (1, (0, 40), (0, 1)), (1, (5, 9), (5, 30)), (1, (7, 31), (3, 50))) == 0
    np.testing.assert_array_equal(weak_labels.box(mask, WHERE, style(background)), np.where(outside, 0, UNLABELED))
    np.testing.assert_array_equal(weak_labels.box(drawn(), WHERE, style(background)), drawn())


@pytest.mark.parametrize(
    "number, every, chosen", [(10, 4, [1, 5, 9]), (9, 4, [0, 4, 8]), (3, 9, [1]), (1, 2, [0]), (3, 1, [0, 1, 2])]
)
def test_slices_are_whole_from_the_middle_one_on(number, every, chosen):
    for z in range(number):
        weak = weak_labels.slices(RING, Where("a", z, number), style(every=every))
        np.testing.assert_array_equal(weak, RING if z in chosen else np.full_like(RING, UNLABELED))


@special
def test_none_is_nothing_and_full_is_the_mask(mask):
    assert not classes(weak_labels.none(mask, WHERE, style(True)))
    np.testing.assert_array_equal(weak_labels.full(mask, WHERE, style()), mask)


weak_maps = arrays.arrays(
    np.int32,
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    elements=st.sampled_from([0, 1, 2, 3]),
    fill=st.just(UNLABELED),
)
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def nearest(weak, size):
    return tf.image.resize(weak[..., None], size, "nearest").numpy()[..., 0]


def in_pixel(weak, size):
    """Pixel of `size` -> labels of all annotated pixels whose centre lies in it, one by one."""
    labels = {}
    for y, x in np.argwhere(weak != UNLABELED):
        place = tuple(int((k + 0.5) * new / old) for k, old, new in zip((y, x), weak.shape, size, strict=True))
        labels.setdefault(place, []).append(weak[y, x].item())
    return labels


@QUICK
@given(weak_maps, sizes)
def test_resizing_fills_what_nearest_neighbour_lost_and_nothing_else(weak, size):
    resized, expected = weak_labels.resize(weak, size), nearest(weak, size)
    for place, labels in in_pixel(weak, size).items():
        if expected[place] == UNLABELED:
            expected[place] = min(labels, key=lambda label: (-labels.count(label), label))
    assert resized.dtype == np.int32
    np.testing.assert_array_equal(resized, expected)


@QUICK
@given(weak_maps, sizes)
def test_resizing_loses_no_class_but_to_another_in_the_same_pixel(weak, size):
    resized = weak_labels.resize(weak, size)
    assert classes(resized) <= classes(weak) and bool(classes(resized)) == bool(classes(weak))
    for label in classes(weak) - classes(resized):
        assert all(resized[place] != UNLABELED for place, labels in in_pixel(weak, size).items() if label in labels)


@QUICK
@given(weak_maps, st.tuples(st.integers(0, 20), st.integers(0, 20)))
def test_growing_is_nearest_neighbour(weak, more):
    size = tuple(np.add(weak.shape, more).tolist())
    np.testing.assert_array_equal(weak_labels.resize(weak, size), nearest(weak, size))


def test_a_point_does_not_vanish_and_the_majority_wins():
    weak = np.full((8, 8), UNLABELED)
    weak[0, 7], weak[3, 0:2], weak[2, 0] = 1, 2, 3
    weak[4, 4], weak[4, 5] = 3, 0
    assert not classes(nearest(weak, (2, 2)))
    np.testing.assert_array_equal(weak_labels.resize(weak, (2, 2)), [[2, 1], [UNLABELED, 0]])


@pytest.mark.parametrize("old, new", [(2, 41), (216, 256), (256, 96), (232, 192), (154, 96), (428, 256)])
def test_samples_lie_where_tensorflow_takes_them(old, new):
    numbers = np.arange(old, dtype=np.int32)[:, None]
    np.testing.assert_array_equal(weak_labels.resize(numbers % 200, (new, 1)), nearest(numbers % 200, (new, 1)))


@pytest.fixture(scope="module")
def real_slices(acdc_folder):
    """(mask, expert's scribble) of every slice of two cases."""
    cases = itertools.islice(load_all(acdc.read(Source("acdc", str(acdc_folder)))), 2)
    return [pair for case in cases for pair in zip(case.mask.astype(np.int32), case.annotation, strict=True)]


@pytest.fixture(scope="module")
def real_masks(real_slices):
    return [mask for mask, _ in real_slices]


@both
def test_real_masks_are_eroded_as_the_recipe_says(real_masks, background):
    for mask in real_masks:
        np.testing.assert_array_equal(check("erosion", mask, style(background)), literal(mask, background))


@every_recipe
@both
def test_real_masks_are_not_contradicted_and_no_structure_left_out(real_masks, recipe, background):
    for mask in real_masks:
        check(recipe, mask, style(background))


def test_a_real_myocardium_is_scribbled_all_around_and_its_centroid_lies_in_it(real_masks):
    rings = [mask for mask in real_masks if ndimage.binary_fill_holes(mask == 2)[mask == 3].all() and 3 in mask]
    assert len(rings) > 5
    for mask in rings:
        scribbled = ndimage.binary_fill_holes(weak_labels.scribble(mask, WHERE, style()) == 2)
        assert scribbled[mask == 3].all()
        centroid = np.argwhere(weak_labels.centroid(mask, WHERE, style(radius=0)) == 2)
        blood = np.argwhere(mask == 3).mean(0)
        assert len(centroid) == 1 and np.linalg.norm(centroid - blood) < np.sqrt((mask == 3).sum() / np.pi) + 6


@pytest.mark.parametrize("label", [0, 1, 2, 3])
def test_scribbles_are_about_as_long_as_the_experts(real_slices, label):
    both_drew = [(mask, expert) for mask, expert in real_slices if label in mask and label in expert]
    ours = [(weak_labels.scribble(mask, WHERE, style(True)) == label).sum() for mask, _ in both_drew]
    ratios = np.divide(ours, [(expert == label).sum() for _, expert in both_drew])
    assert 1 / 3 < np.median(ratios) < 3
