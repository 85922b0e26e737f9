import itertools

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import ndimage

from msl_jax.data import acdc, weak_labels
from msl_jax.data.case import UNLABELED

both = pytest.mark.parametrize("background", [False, True])


def literal(mask, background):
    """The recipe word by word: the most erosions, of at most 10, that leave something, or else none."""
    weak = np.full(mask.shape, UNLABELED)
    for label in range(0 if background else 1, mask.max() + 1):
        left = mask == label
        for iterations in range(10, 0, -1):
            eroded = ndimage.binary_erosion(mask == label, np.ones((3, 3)), iterations=iterations)
            if eroded.any():
                left = eroded
                break
        weak[left] = label
    return weak


def check(mask, background):
    weak = weak_labels.erosion(mask, background=background)
    assert weak.dtype == np.int32 and weak.shape == mask.shape
    np.testing.assert_array_equal(weak, literal(mask, background))
    annotated = weak != UNLABELED
    np.testing.assert_array_equal(weak[annotated], mask[annotated])
    assert set(weak[annotated]) == set(mask.ravel()) - ({0} if not background else set())


@st.composite
def masks(draw):
    """Discs, boxes, lines and pixels painted over one another, some beyond the border, then a few pixels of noise."""
    height, width = draw(st.integers(1, 48)), draw(st.integers(1, 48))
    mask = np.zeros((height, width), np.int32)
    y, x = np.indices(mask.shape)
    number = st.integers(-4, 48)
    for _ in range(draw(st.integers(0, 6))):
        cy, cx, a, b = draw(number), draw(number), draw(st.integers(0, 26)), draw(st.integers(0, 26))
        disc = (x - cx) ** 2 + (y - cy) ** 2 <= a**2
        box = (abs(y - cy) <= a) & (abs(x - cx) <= b)
        mask[draw(st.sampled_from([disc, box]))] = draw(st.integers(0, 3))
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        mask[rng.random(mask.shape) < 0.02] = draw(st.integers(0, 3))
    return mask


@given(masks(), st.booleans())
def test_any_mask_is_eroded_as_the_recipe_says(mask, background):
    check(mask, background)


def drawn(*boxes):
    mask = np.zeros((40, 50), np.int32)
    for label, ys, xs in boxes:
        mask[slice(*ys), slice(*xs)] = label
    return mask


@both
@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(drawn(), id="nothing"),
        pytest.param(drawn((1, (0, 40), (0, 50))), id="everything"),
        pytest.param(drawn((2, (7, 8), (9, 10))), id="a pixel"),
        pytest.param(drawn((1, (7, 8), (3, 40)), (3, (12, 14), (0, 50))), id="lines"),
        pytest.param(drawn((1, (0, 9), (0, 9)), (2, (30, 40), (20, 50))), id="at the border"),
        pytest.param(drawn((1, (2, 5), (2, 5)), (1, (10, 31), (10, 31)), (1, (35, 36), (2, 3))), id="several pieces"),
        pytest.param(drawn((2, (5, 35), (5, 35)), (3, (12, 28), (12, 28))), id="a ring"),
        pytest.param(drawn((3, (5, 9), (5, 9))), id="classes 1 and 2 missing"),
    ],
)
def test_special_masks_are_eroded_as_the_recipe_says(mask, background):
    check(mask, background)


@pytest.mark.parametrize("side, left", [(1, 1), (2, 2), (3, 1), (4, 2), (5, 1), (21, 1), (22, 2), (23, 3), (25, 5)])
def test_a_square_keeps_its_middle(side, left):
    weak = weak_labels.erosion(drawn((1, (3, 3 + side), (4, 4 + side))), background=False)
    margin = (side - left) // 2
    expected = drawn((1, (3 + margin, 3 + margin + left), (4 + margin, 4 + margin + left)))
    np.testing.assert_array_equal(weak == 1, expected == 1)
    assert (weak != UNLABELED).sum() == left**2


def test_background_is_annotated_on_request_alone():
    mask = drawn((1, (10, 20), (10, 20)))
    without, with_it = (weak_labels.erosion(mask, background=background) for background in (False, True))
    assert 0 not in without and 0 in with_it
    np.testing.assert_array_equal(without == 1, with_it == 1)


@both
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_the_mask_may_be_of_any_whole_number_and_is_left_alone(dtype, background):
    mask = drawn((1, (0, 9), (0, 9)), (2, (30, 40), (20, 50)))
    given_mask = mask.astype(dtype)
    weak = weak_labels.RECIPES["erosion"](given_mask, background=background)
    np.testing.assert_array_equal(weak, literal(mask, background))
    np.testing.assert_array_equal(given_mask, mask)


@both
def test_real_masks_are_eroded_as_the_recipe_says(acdc_folder, background):
    for case in itertools.islice(acdc.read(acdc_folder), 2):
        for mask in case.mask.astype(np.int32):
            check(mask, background)
