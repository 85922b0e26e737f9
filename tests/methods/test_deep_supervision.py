import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msl_jax.labels import UNLABELED
from msl_jax.methods.deep_supervision import level_weights, most_frequent, nearest, of_level, with_levels

NO = UNLABELED


def test_weights_halve_at_each_level_and_sum_to_1():
    assert level_weights(3) == pytest.approx((4 / 7, 2 / 7, 1 / 7))


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ([[NO, NO], [NO, NO]], NO),
        ([[NO, NO], [NO, 0]], 0),
        ([[NO, NO], [3, NO]], 3),
        ([[1, 2], [2, NO]], 2),
        ([[2, 1], [NO, NO]], 1),
        ([[3, 3], [0, 0]], 0),
    ],
)
def test_a_block_takes_its_most_frequent_label_the_lowest_in_a_tie(block, expected):
    np.testing.assert_array_equal(jax.jit(most_frequent, static_argnums=1)(jnp.array([block]), 2), [[[expected]]])


def test_blocks_are_those_of_the_grid_and_no_annotation_is_lost():
    """Every pixel of a random map is in the block of its coordinates divided by 4."""
    generator = np.random.default_rng(0)
    labels = np.where(generator.random((2, 3, 8, 16)) < 0.05, generator.integers(0, 3, (2, 3, 8, 16)), NO)
    coarse = np.asarray(most_frequent(jnp.asarray(labels, jnp.int32), 4))
    assert coarse.shape == (2, 3, 2, 4)
    for index in np.ndindex(coarse.shape):
        y, x = (slice(4 * i, 4 * i + 4) for i in index[2:])
        block = labels[*index[:2], y, x]
        counts = [(block == c).sum() for c in range(3)]
        assert coarse[index] == (int(np.argmax(counts)) if any(counts) else NO)
    assert (coarse == NO).any() and (coarse != NO).any()


def test_nearest_is_that_of_jax():
    labels = jax.random.randint(jax.random.key(0), (2, 8, 16), 0, 3)
    for factor in (2, 4):
        shape = (2, 8 // factor, 16 // factor)
        np.testing.assert_array_equal(nearest(labels, factor), jax.image.resize(labels, shape, "nearest"))


def test_levels_are_added_to_label_maps_only():
    arrays = {"image": jnp.zeros((1, 4, 4, 1)), "weak_label": jnp.full((1, 4, 4), NO), "certain": jnp.zeros((1, 4, 4))}
    levels = with_levels(arrays, 3)
    assert levels.keys() - arrays.keys() == {"weak_label 1/2", "weak_label 1/4"}
    assert of_level(levels, 2)["weak_label"].shape == (1, 1, 1) and of_level(levels, 2).keys() == {"weak_label"}
    assert with_levels(arrays, 1).keys() == arrays.keys()


def test_a_union_comes_before_structures_in_a_tie_and_counts_as_one_label():
    """254 stands for background or a structure; without unions it is a structure like any other."""
    tie, more = jnp.array([[2, 2], [254, 254]]), jnp.array([[2, 2], [2, 254]])
    assert most_frequent(tie, 2, unions=1).tolist() == [[254]] and most_frequent(tie, 2).tolist() == [[2]]
    assert most_frequent(more, 2, unions=1).tolist() == [[2]]
    assert most_frequent(jnp.array([[255, 255], [255, 254]]), 2, unions=1).tolist() == [[254]]
