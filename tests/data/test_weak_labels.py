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
from msl_jax.data.weak_labels import RECIPES, SlicePosition, Style
from msl_jax.labels import UNLABELED

POSITION = SlicePosition("patient001_frame01", slice=2, slices=10)
ALL_BACKGROUND = {"box", "slices", "full"}  # annotate background whatever the style
MAY_BE_EMPTY = {"box", "slices", "none"}  # may annotate no structure
QUICK = settings(max_examples=60)
with_and_without_background = pytest.mark.parametrize("background", [False, True])
every_recipe = pytest.mark.parametrize("recipe", RECIPES)
discs = pytest.mark.parametrize("recipe", ["point", "centroid"])


def style(background=False, radius=3, every=4):
    return Style(background, radius, every)


# Pinned: NumPy's random numbers for POSITION, and the resulting points in RING.
POINT_NUMBERS = [0.39626559885418733, 0.4927787161588879]
POINTS = {0: [[38, 32]], 2: [[15, 8]], 3: [[19, 26]]}


def classes(labels):
    return set(labels.ravel().tolist()) - {UNLABELED}


def eroded(mask, background):
    """Reference for `erosion`: as many erosions as leave something, at most 10."""
    weak = np.full(mask.shape, UNLABELED)
    for label in classes(mask) - (set() if background else {0}):
        core = mask == label
        for iterations in range(10, 0, -1):
            candidate = ndimage.binary_erosion(mask == label, np.ones((3, 3)), iterations=iterations)
            if candidate.any():
                core = candidate
                break
        weak[core] = label
    return weak


@st.composite
def masks(draw, unlabeled=True):
    """Overlapping discs, boxes, rings, lines and pixels, some beyond the border, with or without noise."""
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


def mask_of(*boxes):
    mask = np.zeros((40, 50), np.int32)
    for label, ys, xs in boxes:
        mask[slice(*ys), slice(*xs)] = label
    return mask


RING = mask_of((2, (5, 35), (5, 35)), (3, (12, 28), (12, 28)))
SPECIAL = [
    pytest.param(mask_of(), id="empty"),
    pytest.param(mask_of((1, (0, 40), (0, 50))), id="full"),
    pytest.param(mask_of((UNLABELED, (0, 40), (0, 50))), id="unlabelled"),
    pytest.param(mask_of((UNLABELED, (0, 40), (0, 50)), (2, (3, 9), (0, 30))), id="unlabelled background"),
    pytest.param(mask_of((2, (7, 8), (9, 10))), id="one pixel"),
    pytest.param(mask_of((2, (7, 9), (9, 11)), (1, (0, 1), (49, 50))), id="four pixels and one in the corner"),
    pytest.param(mask_of((1, (7, 8), (3, 40)), (3, (12, 14), (0, 50))), id="lines"),
    pytest.param(mask_of((1, (0, 9), (0, 9)), (2, (30, 40), (20, 50))), id="at the border"),
    pytest.param(mask_of((1, (2, 5), (2, 5)), (1, (10, 31), (10, 31)), (1, (35, 36), (2, 3))), id="several components"),
    pytest.param(RING, id="a ring"),
    pytest.param(mask_of((3, (5, 9), (5, 9))), id="classes 1 and 2 missing"),
]
special = pytest.mark.parametrize("mask", SPECIAL)


def check(recipe, mask, chosen):
    """Asserts the invariants of all recipes; returns the weak labels."""
    original = mask.copy()
    weak = RECIPES[recipe](mask, POSITION, chosen)
    np.testing.assert_array_equal(mask, original)
    assert weak.dtype == np.int32 and weak.shape == mask.shape
    annotated = weak != UNLABELED
    np.testing.assert_array_equal(weak[annotated], mask[annotated])
    structures = classes(mask) - {0}
    if recipe not in MAY_BE_EMPTY:
        assert classes(weak) - {0} == structures
    if recipe not in ALL_BACKGROUND | MAY_BE_EMPTY:
        assert (0 in weak) == (chosen.background and 0 in mask)
    np.testing.assert_array_equal(RECIPES[recipe](mask.copy(), SlicePosition(**vars(POSITION)), chosen), weak)
    return weak


@every_recipe
@QUICK
@given(masks(), styles)
def test_weak_labels_agree_with_the_mask_and_cover_every_structure(recipe, mask, chosen):
    check(recipe, mask, chosen)


@every_recipe
@with_and_without_background
@special
def test_weak_labels_of_special_masks_agree_with_them_and_cover_every_structure(recipe, mask, background):
    check(recipe, mask, style(background))


@every_recipe
@with_and_without_background
@pytest.mark.parametrize("dtype", ["int64", "uint8"])
def test_the_mask_can_have_any_integer_dtype(recipe, dtype, background):
    weak = RECIPES[recipe](RING.astype(dtype), POSITION, style(background))
    np.testing.assert_array_equal(weak, check(recipe, RING, style(background)))


@every_recipe
@QUICK
@given(masks(unlabeled=False))
def test_structures_are_annotated_equally_with_and_without_background(recipe, mask):
    without, with_background = (check(recipe, mask, style(background)) for background in (False, True))
    expected = with_background.copy()
    if recipe not in ALL_BACKGROUND:
        expected[expected == 0] = UNLABELED
    np.testing.assert_array_equal(without, expected)


def test_slices_do_not_depend_on_the_order_in_which_they_are_annotated():
    positions = [SlicePosition(case, z, 5) for case in ("a", "b") for z in range(5)]
    in_order = {position: weak_labels.point(RING, position, style(True)) for position in positions}
    for position in reversed(positions):
        np.testing.assert_array_equal(weak_labels.point(RING, position, style(True)), in_order[position])
    assert len({weak.tobytes() for weak in in_order.values()}) == len(positions)


def test_random_numbers_are_the_same_on_every_machine():
    assert POSITION.generator("point").random(2).tolist() == POINT_NUMBERS
    assert POSITION.generator("other").random() != POINT_NUMBERS[0]
    weak = weak_labels.point(RING, POSITION, style(True, radius=0))
    assert {label: np.argwhere(weak == label).tolist() for label in (0, 2, 3)} == POINTS


@QUICK
@given(masks(), st.booleans())
def test_erosion_equals_its_reference(mask, background):
    np.testing.assert_array_equal(check("erosion", mask, style(background)), eroded(mask, background))


@with_and_without_background
@special
def test_erosion_of_special_masks_equals_its_reference(mask, background):
    np.testing.assert_array_equal(check("erosion", mask, style(background)), eroded(mask, background))


@pytest.mark.parametrize("side, core", [(1, 1), (2, 2), (3, 1), (4, 2), (5, 1), (21, 1), (22, 2), (23, 3), (25, 5)])
def test_erosion_keeps_the_middle_of_a_square(side, core):
    weak = weak_labels.erosion(mask_of((1, (3, 3 + side), (4, 4 + side))), POSITION, style())
    margin = (side - core) // 2
    expected = mask_of((1, (3 + margin, 3 + margin + core), (4 + margin, 4 + margin + core)))
    np.testing.assert_array_equal(weak == 1, expected == 1)
    assert (weak != UNLABELED).sum() == core**2


@discs
@QUICK
@given(masks(), styles)
def test_a_disc_is_round_and_clipped_to_its_structure(recipe, mask, chosen):
    weak = check(recipe, mask, chosen)
    y, x = np.indices(mask.shape)
    for label in classes(weak):
        structure = mask == label
        centres, radius = np.argwhere(weak == label), chosen.radius
        discs = [structure & ((y - cy) ** 2 + (x - cx) ** 2 <= radius**2) for cy, cx in centres]
        assert any((disc == (weak == label)).all() for disc in discs)


@pytest.mark.parametrize("radius, pixels", [(0, 1), (1, 5), (2, 13), (3, 29)])
@discs
def test_a_disc_is_whole_where_it_fits(recipe, radius, pixels):
    mask = mask_of((1, (10, 17), (10, 40)))
    for z in range(20):
        weak = RECIPES[recipe](mask, SlicePosition("a", z, 20), style(background=True, radius=radius))
        assert (weak == 1).sum() == pixels == (weak == 0).sum()


def test_points_are_all_pixels_where_the_disc_fits():
    mask = mask_of((1, (10, 17), (10, 18)))
    points = (weak_labels.point(mask, SlicePosition("a", z, 99), style(radius=2)) for z in range(99))
    centres = {tuple(np.argwhere(weak == 1).mean(0)) for weak in points}
    assert centres == set(itertools.product(range(12, 15), range(12, 16)))


def test_the_centroid_of_a_square_is_its_middle_and_that_of_a_ring_is_at_its_inner_edge():
    weak = weak_labels.centroid(RING, POSITION, style(radius=0))
    assert np.argwhere(weak == 3).tolist() == [[19, 19]]  # nearest to (19.5, 19.5): the first of four
    assert np.argwhere(weak == 2).tolist() == [[11, 19]]  # the first of eight
    half = RING * (np.arange(40) > 19)[:, None]
    assert np.argwhere(weak_labels.centroid(half, POSITION, style(radius=0)) == 2).tolist() == [[28, 19]]


def test_a_disc_of_background_is_at_its_innermost_pixel():
    mask = mask_of((1, (0, 40), (31, 50)))
    weak = weak_labels.centroid(mask, POSITION, style(background=True, radius=0))
    assert np.argwhere(weak == 0).tolist() == [[15, 15]]


@QUICK
@given(masks())
def test_a_scribble_is_thin(mask):
    weak = check("scribble", mask, style(background=True))
    for label in classes(weak):
        assert not ndimage.binary_erosion(weak == label, np.ones((5, 5))).any()


def test_a_scribble_is_the_middle_line_of_long_structures_and_a_loop_in_compact_ones():
    weak = weak_labels.scribble(mask_of((1, (3, 8), (4, 44)), (2, (14, 34), (10, 30))), POSITION, style())
    rows, columns = np.nonzero(weak == 1)
    assert set(rows) <= {4, 5, 6} and len(columns) == len(set(columns)) > 30
    expected = mask_of((2, (19, 29), (15, 25))) - mask_of((2, (20, 28), (16, 24)))
    np.testing.assert_array_equal(weak == 2, expected == 2)


def test_scribbles_of_a_ring_and_of_background_are_closed_curves():
    weak = weak_labels.scribble(RING, POSITION, style(background=True))
    for label in (0, 2):
        inside = ndimage.binary_fill_holes(weak == label)
        assert inside[19, 19] and not inside[0, 0] and ndimage.label(weak == label, np.ones((3, 3)))[1] == 1
    margin = round(weak_labels.MARGIN * 40)
    expected = mask_of((1, (5 - margin, 35 + margin), (5 - margin, 35 + margin))) - mask_of((1, (4, 36), (4, 36)))
    assert margin == 2
    np.testing.assert_array_equal(weak == 0, expected == 1)


def test_the_background_curve_ends_at_the_border_of_the_slice():
    weak = weak_labels.scribble(mask_of((1, (0, 40), (0, 10))), POSITION, style(background=True))
    np.testing.assert_array_equal(weak == 0, mask_of((1, (0, 40), (11, 12))) == 1)


def test_a_slice_without_structures_has_a_loop_of_background():
    weak = weak_labels.scribble(mask_of(), POSITION, style(background=True))
    np.testing.assert_array_equal(weak == 0, mask_of((1, (10, 30), (10, 40))) - mask_of((1, (11, 29), (11, 39))) == 1)


@with_and_without_background
def test_a_box_annotates_all_background_outside(background):
    mask = mask_of(
        (UNLABELED, (0, 2), (0, 50)),
        (UNLABELED, (0, 40), (0, 1)),
        (1, (5, 9), (5, 30)),
        (2, (7, 20), (40, 50)),
        (2, (30, 31), (3, 4)),
    )
    outside = mask_of((1, (0, 2), (0, 50)), (1, (0, 40), (0, 1)), (1, (5, 9), (5, 30)), (1, (7, 31), (3, 50))) == 0
    np.testing.assert_array_equal(weak_labels.box(mask, POSITION, style(background)), np.where(outside, 0, UNLABELED))
    np.testing.assert_array_equal(weak_labels.box(mask_of(), POSITION, style(background)), mask_of())


@pytest.mark.parametrize(
    "number, every, chosen", [(10, 4, [1, 5, 9]), (9, 4, [0, 4, 8]), (3, 9, [1]), (1, 2, [0]), (3, 1, [0, 1, 2])]
)
def test_full_slices_are_counted_from_the_middle_one(number, every, chosen):
    for z in range(number):
        weak = weak_labels.slices(RING, SlicePosition("a", z, number), style(every=every))
        np.testing.assert_array_equal(weak, RING if z in chosen else np.full_like(RING, UNLABELED))


@special
def test_none_is_empty_and_full_is_the_mask(mask):
    assert not classes(weak_labels.none(mask, POSITION, style(True)))
    np.testing.assert_array_equal(weak_labels.full(mask, POSITION, style()), mask)


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
    """Pixel of `size` -> labels of all annotated pixels with their centre in it."""
    labels = {}
    for y, x in np.argwhere(weak != UNLABELED):
        place = tuple(int((k + 0.5) * new / old) for k, old, new in zip((y, x), weak.shape, size, strict=True))
        labels.setdefault(place, []).append(weak[y, x].item())
    return labels


@QUICK
@given(weak_maps, sizes)
def test_resizing_adds_only_labels_that_nearest_neighbour_loses(weak, size):
    resized, expected = weak_labels.resize(weak, size), nearest(weak, size)
    for place, labels in in_pixel(weak, size).items():
        if expected[place] == UNLABELED:
            expected[place] = min(labels, key=lambda label: (-labels.count(label), label))
    assert resized.dtype == np.int32
    np.testing.assert_array_equal(resized, expected)


@QUICK
@given(weak_maps, sizes)
def test_resizing_loses_a_class_only_to_another_in_the_same_pixel(weak, size):
    resized = weak_labels.resize(weak, size)
    assert classes(resized) <= classes(weak) and bool(classes(resized)) == bool(classes(weak))
    for label in classes(weak) - classes(resized):
        assert all(resized[place] != UNLABELED for place, labels in in_pixel(weak, size).items() if label in labels)


@QUICK
@given(weak_maps, st.tuples(st.integers(0, 20), st.integers(0, 20)))
def test_upsampling_is_nearest_neighbour(weak, more):
    size = tuple(np.add(weak.shape, more).tolist())
    np.testing.assert_array_equal(weak_labels.resize(weak, size), nearest(weak, size))


def test_resizing_keeps_a_point_and_the_majority_wins():
    weak = np.full((8, 8), UNLABELED)
    weak[0, 7], weak[3, 0:2], weak[2, 0] = 1, 2, 3
    weak[4, 4], weak[4, 5] = 3, 0
    assert not classes(nearest(weak, (2, 2)))
    np.testing.assert_array_equal(weak_labels.resize(weak, (2, 2)), [[2, 1], [UNLABELED, 0]])


@pytest.mark.parametrize("old, new", [(2, 41), (216, 256), (256, 96), (232, 192), (154, 96), (428, 256)])
def test_resizing_samples_the_same_pixels_as_tensorflow(old, new):
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


@with_and_without_background
def test_erosion_of_real_masks_equals_its_reference(real_masks, background):
    for mask in real_masks:
        np.testing.assert_array_equal(check("erosion", mask, style(background)), eroded(mask, background))


@every_recipe
@with_and_without_background
def test_weak_labels_of_real_masks_agree_with_them_and_cover_every_structure(real_masks, recipe, background):
    for mask in real_masks:
        check(recipe, mask, style(background))


def test_the_scribble_of_a_real_myocardium_is_closed_and_its_centroid_is_inside(real_masks):
    rings = [mask for mask in real_masks if ndimage.binary_fill_holes(mask == 2)[mask == 3].all() and 3 in mask]
    assert len(rings) > 5
    for mask in rings:
        enclosed = ndimage.binary_fill_holes(weak_labels.scribble(mask, POSITION, style()) == 2)
        assert enclosed[mask == 3].all()
        centroid = np.argwhere(weak_labels.centroid(mask, POSITION, style(radius=0)) == 2)
        cavity = np.argwhere(mask == 3).mean(0)
        assert len(centroid) == 1 and np.linalg.norm(centroid - cavity) < np.sqrt((mask == 3).sum() / np.pi) + 6


@pytest.mark.parametrize("label", [0, 1, 2, 3])
def test_scribbles_have_about_the_length_of_the_experts(real_slices, label):
    pairs = [(mask, expert) for mask, expert in real_slices if label in mask and label in expert]
    ours = [(weak_labels.scribble(mask, POSITION, style(True)) == label).sum() for mask, _ in pairs]
    ratios = np.divide(ours, [(expert == label).sum() for _, expert in pairs])
    assert 1 / 3 < np.median(ratios) < 3
