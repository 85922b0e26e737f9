"""Mixing inside the train step: boxes of pixels move between the images of a batch, and their labels move with them.

A batch is set -> name -> array. Images and other arrays of floats are (groups, n, *space, channels), label maps are
int32 (groups, n, *space), with two or three axes of space. A group is the part on one device; no pixel leaves it.

A mix runs after augmentation and after a guide has made its targets. Afterwards all mixed sets have the same label
maps: one that does not hold at a pixel is UNLABELED there.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math

import jax
from jax import random
import jax.numpy as jnp
import numpy as np

from msl_jax.labels import UNLABELED

Arrays = Mapping[str, jax.Array]
Batch = Mapping[str, Arrays]
DrawBoxes = Callable[[jax.Array, tuple[int, ...], tuple[int, ...]], jax.Array]
"""(PRNG key, shape, space) -> bool (*shape, *space), True inside a box of each image."""


@dataclasses.dataclass(frozen=True)
class Mix:
    """How images are mixed.

    Attributes:
      sets: the sets between which pixels move. A term with labels that has one of them has all of them.
      function: (batch, PRNG key) -> batch with the same sets and numbers of images.
    """

    sets: tuple[str, ...]
    function: Callable[[Batch, jax.Array], Batch]


def boxes_at(corners: jax.Array, sides: jax.Array, space: tuple[int, ...]) -> jax.Array:
    """int32 first corners and sides (..., axes), in pixels -> bool (..., *space), True inside."""
    first, side = (array.reshape(*array.shape, *[1] * len(space)) for array in (corners, sides))
    axis = corners.ndim - 1
    position = jnp.array(np.indices(space, np.int32))[(None,) * axis]
    return ((position >= first) & (position < first + side)).all(axis)


def _at_random(key: jax.Array, sides: jax.Array, space: tuple[int, ...]) -> jax.Array:
    """Boxes of these sides, int32 (..., axes), at uniform places."""
    free = _broadcast(space, sides.shape) - sides
    return boxes_at(random.randint(key, sides.shape, 0, free + 1), sides, space)


def _broadcast(of_axes: Sequence[int], shape: tuple[int, ...]) -> jax.Array:
    """One integer per axis of space, as int32 of this shape (..., axes)."""
    return jnp.broadcast_to(jnp.array(of_axes, jnp.int32), shape)


def fixed_boxes(key: jax.Array, shape: tuple[int, ...], space: tuple[int, ...], share: float) -> jax.Array:
    """Boxes whose sides are this share of the image's, rounded down, at uniform places, as in BCP's published code."""
    sides = [math.floor(share * n + 1e-6) for n in space]
    return _at_random(key, _broadcast(sides, (*shape, len(space))), space)


def cutmix_boxes(
    key: jax.Array,
    shape: tuple[int, ...],
    space: tuple[int, ...],
    probability: float = 0.5,
    shares: tuple[float, float] = (0.02, 0.4),
    aspect: float = 0.3,
) -> jax.Array:
    """Boxes of CutMix (Yun et al., ICCV 2019) with the numbers of UniMatch's published code.

    With this probability an image has a box. Its share of the image is uniform in `shares`; the ratio of two of its
    sides, each as a share of the image's, is between `aspect` and 1 / `aspect`. Two things differ: there, the ratio is
    uniform, and a box that leaves the image is drawn again; here, sides are cut to the image's.
    """
    chosen_key, share_key, aspect_key, place_key = random.split(key, 4)
    share = random.uniform(share_key, (*shape, 1), minval=shares[0], maxval=shares[1])
    stretch = random.uniform(aspect_key, (*shape, len(space)), minval=-0.5, maxval=0.5) * math.log(1 / aspect)
    stretch = stretch - stretch.mean(-1, keepdims=True)
    of_image = _broadcast(space, stretch.shape)
    sides = jnp.minimum(jnp.round(of_image * share ** (1 / len(space)) * jnp.exp(stretch)).astype(jnp.int32), of_image)
    chosen = random.bernoulli(chosen_key, probability, (*shape, 1))
    return _at_random(place_key, jnp.where(chosen, sides, 0), space)


def paste(images: Arrays, others: Arrays, boxes: jax.Array) -> dict[str, jax.Array]:
    """The arrays of `others` inside the boxes, those of `images` outside; names are those of either.

    Args:
      images: name -> array (groups, n, *space, ...).
      others: the same, with the same n. An array that only one has is UNLABELED (floats: 0) at the other's pixels.
      boxes: bool (groups, n, *space).
    """

    def pasted(name: str) -> jax.Array:
        known = images[name] if name in images else others[name]
        missing = jnp.full_like(known, UNLABELED if jnp.issubdtype(known.dtype, jnp.integer) else 0)
        inside = boxes.reshape(*boxes.shape, *[1] * (known.ndim - boxes.ndim))
        return jnp.where(inside, others.get(name, missing), images.get(name, missing))

    return {name: pasted(name) for name in {**images, **others}}


def exchange(batch: Batch, key: jax.Array, draw_boxes: DrawBoxes, first: str, second: str) -> Batch:
    """Images of two sets exchange the pixels in a box, each image i with image i of the other set.

    Of the set with fewer images, some have several partners; each keeps only the pixels of the first.
    """
    one, other = batch[first], batch[second]
    numbers = one["image"].shape[1], other["image"].shape[1]
    groups, _, *space, _ = one["image"].shape
    boxes = draw_boxes(key, (groups, max(numbers)), tuple(space))

    def exchanged(images, partners, n, m):
        partners = jax.tree.map(lambda array: array[:, np.arange(n) % m], partners)
        return paste(images, partners, boxes[:, :n])

    return {**batch, first: exchanged(one, other, *numbers), second: exchanged(other, one, *numbers[::-1])}


def rotate(batch: Batch, key: jax.Array, draw_boxes: DrawBoxes, name: str) -> Batch:
    """Each image of a set gets the pixels in a box from the image before it, the first from the last."""
    images = batch[name]
    groups, n, *space, _ = images["image"].shape
    boxes = draw_boxes(key, (groups, n), tuple(space))
    return {**batch, name: paste(images, jax.tree.map(lambda a: jnp.roll(a, 1, axis=1), images), boxes)}


def rotate_each(batch: Batch, key: jax.Array, draw_boxes: DrawBoxes, names: Sequence[str]) -> Batch:
    """`rotate` for several sets, each with boxes of its own."""
    for name, own_key in zip(names, random.split(key, len(names)), strict=True):
        batch = rotate(batch, own_key, draw_boxes, name)
    return batch


TWO_THIRDS = functools.partial(fixed_boxes, share=2 / 3)
MIXES: Mapping[str, Mix] = {
    "none": Mix((), lambda batch, key: batch),
    # Bidirectional copy-paste (Bai et al., CVPR 2023, arXiv 2305.00673) and the mix of its pre-training.
    "exchange": Mix(
        ("strong", "weak"), functools.partial(exchange, draw_boxes=TWO_THIRDS, first="strong", second="weak")
    ),
    "strong": Mix(("strong",), functools.partial(rotate, draw_boxes=TWO_THIRDS, name="strong")),
    # CutMix among weak images, as in UniMatch (Yang et al., CVPR 2023, arXiv 2208.09910).
    "weak": Mix(("weak",), functools.partial(rotate, draw_boxes=cutmix_boxes, name="weak")),
    "views": Mix(("weak", "again"), functools.partial(rotate_each, draw_boxes=cutmix_boxes, names=("weak", "again"))),
}
