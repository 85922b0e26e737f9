"""Mixing: exact boxes, and labels that move with their pixels."""

import functools

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maps import QUICK
from msl_jax.labels import UNLABELED
from msl_jax.methods.mixing import MIXES, boxes_at, cutmix_boxes, exchange, fixed_boxes, paste, rotate

KEY = jax.random.key(0)


def batch_of(space=(6, 9), groups=1, strong=2, weak=2):
    """Every pixel's value is unique: images and labels of an image are equal up to dtype, and float in the image."""
    size = int(np.prod(space))
    values = np.arange(groups * (strong + weak) * size, dtype=np.int32).reshape(groups, strong + weak, *space)
    sets = {"strong": values[:, :strong], "weak": values[:, strong:]}
    names = {"strong": ("label", "weak_label"), "weak": ("weak_label", "proposal")}
    return {
        name: {"image": jnp.array(v[..., None], jnp.float32)} | {key: jnp.array(v) for key in names[name]}
        for name, v in sets.items()
    }


def whole(key, shape, space):
    return jnp.ones((*shape, *space), bool)


def nothing(key, shape, space):
    return jnp.zeros((*shape, *space), bool)


def test_boxes_closed_form():
    boxes = boxes_at(jnp.array([[1, 0], [0, 2]]), jnp.array([[2, 1], [0, 1]]), (3, 3))
    assert boxes.astype(int).tolist() == [[[0, 0, 0], [1, 0, 0], [1, 0, 0]], [[0] * 3] * 3]
    cube = boxes_at(jnp.array([0, 1, 1]), jnp.array([1, 2, 1]), (2, 3, 2))
    assert np.argwhere(cube).tolist() == [[0, 1, 1], [0, 2, 1]]


@pytest.mark.parametrize(("space", "sides"), [((12, 9), (8, 6)), ((7, 5, 9), (4, 3, 6))])
def test_fixed_boxes_have_one_size_and_reach_every_pixel(space, sides):
    boxes = np.asarray(fixed_boxes(KEY, (2, 200), space, 2 / 3))
    assert boxes.shape == (2, 200, *space) and boxes[1, 7].any()
    assert (boxes.sum(tuple(range(2, boxes.ndim))) == np.prod(sides)).all()
    assert boxes.any((0, 1)).all() and len(np.unique(boxes.reshape(400, -1), axis=0)) >= 20


@pytest.mark.parametrize("space", [(40, 60), (20, 16, 24)])
def test_cutmix_boxes_have_their_shares_and_probability(space):
    """Rounding each side changes the share a little; a side cut to the image's, only downwards."""
    boxes = np.asarray(cutmix_boxes(KEY, (1, 2000), space))[0].reshape(2000, -1).mean(-1)
    assert np.mean(boxes > 0) == pytest.approx(0.5, abs=0.04)
    present = boxes[boxes > 0]
    assert 0.01 < present.min() < 0.03 and 0.35 < present.max() < 0.46
    assert present.mean() == pytest.approx(0.21, abs=0.015)


def test_paste_closed_form():
    """An array that one side lacks is UNLABELED, or 0 for floats, at that side's pixels."""
    one = {"label": jnp.array([[[[1, 2]]]]), "target": jnp.ones((1, 1, 1, 2, 3))}
    other = {"label": jnp.array([[[[3, 4]]]]), "proposal": jnp.array([[[[5, 6]]]])}
    out = paste(one, other, jnp.array([[[[False, True]]]]))
    assert out["label"].tolist() == [[[[1, 4]]]] and out["proposal"].tolist() == [[[[UNLABELED, 6]]]]
    assert out["target"].tolist() == [[[[[1.0] * 3, [0.0] * 3]]]]


@pytest.mark.parametrize(
    "mix",
    [
        functools.partial(exchange, first="strong", second="weak"),
        functools.partial(rotate, name="strong"),
        functools.partial(rotate, name="weak"),
    ],
)
@pytest.mark.parametrize("space", [(6, 9), (3, 4, 5)])
def test_an_empty_box_changes_no_bit(mix, space):
    batch = batch_of(space)
    mixed = jax.jit(lambda batch, key: mix(batch, key, nothing))(batch, KEY)
    for image_set, arrays in batch.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(mixed[image_set][name], array)
            assert mixed[image_set][name].dtype == array.dtype


def test_a_box_of_the_whole_image_swaps_the_sets():
    batch = batch_of(strong=3, weak=2)
    mixed = exchange(batch, KEY, whole, "strong", "weak")
    for name in ("image", "weak_label"):
        np.testing.assert_array_equal(mixed["strong"][name], batch["weak"][name][:, [0, 1, 0]])
        np.testing.assert_array_equal(mixed["weak"][name], batch["strong"][name][:, :2])
    assert (mixed["strong"]["label"] == UNLABELED).all()
    np.testing.assert_array_equal(mixed["weak"]["label"], batch["strong"]["label"][:, :2])
    turned = rotate(batch, KEY, whole, "strong")
    np.testing.assert_array_equal(turned["strong"]["label"], batch["strong"]["label"][:, [2, 0, 1]])


@QUICK
@given(
    st.sampled_from([name for name in MIXES if name != "none"]),
    st.sampled_from([(6, 9), (4, 5, 3)]),
    st.integers(0, 2**32 - 1),
)
def test_pixels_move_with_their_labels_and_stay_in_their_group(name, space, seed):
    """Every pixel of the image keeps its own labels, at its place; one that the set's map lacks is UNLABELED."""
    batch = batch_of(space, groups=2)
    batch["again"] = batch["weak"]
    mixed = MIXES[name].function(batch, jax.random.key(seed))
    assert mixed.keys() == batch.keys()
    assert all(mixed[other] is batch[other] for other in batch if other not in MIXES[name].sets)
    size = int(np.prod(space))
    for image_set in MIXES[name].sets:
        values = np.asarray(mixed[image_set]["image"][..., 0]).astype(int)
        np.testing.assert_array_equal(values % size, np.broadcast_to(np.arange(size).reshape(space), values.shape))
        np.testing.assert_array_equal(
            values // (4 * size), np.broadcast_to(np.arange(2)[(..., *[None] * (1 + len(space)))], values.shape)
        )
        of_strong = values // size % 4 < 2
        holds = {"weak_label": True, "label": of_strong, "proposal": ~of_strong}
        for label_map in mixed[image_set].keys() - {"image"}:
            expected = np.where(holds[label_map], values, UNLABELED)
            np.testing.assert_array_equal(mixed[image_set][label_map], expected, err_msg=label_map)


def test_exchange_loses_no_pixel():
    batch = batch_of()
    mixed = MIXES["exchange"].function(batch, KEY)
    before, after = (np.concatenate([np.ravel(b[name]["image"]) for name in b]) for b in (batch, mixed))
    np.testing.assert_array_equal(np.sort(after), np.sort(before))
    moved = np.asarray(mixed["strong"]["image"] != batch["strong"]["image"]).reshape(2, -1).sum(1)
    assert moved.tolist() == [4 * 6, 4 * 6]
