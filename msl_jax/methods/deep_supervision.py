"""Deep supervision: terms with labels are also computed on a decoder's coarser logits (Lee et al., AISTATS 2015).

Levels and weights are those of nnU-Net (Isensee et al., Nature Methods 2021).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from msl_jax.labels import UNLABELED
from msl_jax.models.dual_branch import at_level


def level_weights(levels: int) -> tuple[float, ...]:
    """Weights 1, 1/2, 1/4, ... divided by their sum, of the finest level first.

    >>> level_weights(1), level_weights(2)
    ((1.0,), (0.6666666666666666, 0.3333333333333333))
    """
    weights = [2.0**-level for level in range(levels)]
    return tuple(weight / sum(weights) for weight in weights)


def nearest(labels: jax.Array, factor: int, unions: int = 0) -> jax.Array:
    """The label nearest to the centre of each block: int32 (..., y, x) -> (..., y / factor, x / factor).

    Of the four that are as near, it is the lower right one, as with method "nearest" of `jax.image.resize`.
    """
    del unions
    return labels[..., factor // 2 :: factor, factor // 2 :: factor]


def most_frequent(labels: jax.Array, factor: int, unions: int = 0) -> jax.Array:
    """The most frequent class among the labelled pixels of each block, so that no annotation is lost.

    Args:
      labels: int32 (..., y, x), classes or UNLABELED.
      factor: side of the blocks; it divides y and x.
      unions: number of labels that stand for a union (losses.Classes); like background, they come before structures.

    Returns:
      int32 (..., y / factor, x / factor). Of equally frequent labels the first; UNLABELED if none is labelled.

    >>> print(most_frequent(jnp.array([[2, 1, 255, 255], [255, 2, 255, 255]]), 2))
    [[  2 255]]
    """
    *rest, y, x = labels.shape
    blocks = labels.reshape(*rest, y // factor, factor, x // factor, factor).swapaxes(-3, -2)
    blocks = blocks.reshape(*rest, y // factor, x // factor, factor * factor)
    equal = (blocks[..., :, None] == blocks[..., None, :]).sum(-1)
    count = jnp.where(blocks == UNLABELED, 0, equal)
    ordered = jnp.where((blocks < UNLABELED) & (blocks >= UNLABELED - unions), -blocks, blocks)
    return jnp.abs(jnp.where(count == count.max(-1, keepdims=True), ordered, UNLABELED).min(-1))


COARSER: Mapping[str, Callable[[jax.Array, int, int], jax.Array]] = {
    "label": nearest,
    "proposal": nearest,
    "weak_label": most_frequent,
}
"""Label map -> (labels, factor, number of unions) -> labels of the coarser level. A term's `label_map` decides whether
it has levels."""


def with_levels(arrays: Mapping[str, jax.Array], levels: int, unions: int = 0) -> dict[str, jax.Array]:
    """Adds the label maps of the coarser levels, named by `at_level`, to the arrays of one image set."""
    coarser = {
        at_level(name, level): COARSER[name](arrays[name], 2**level, unions)
        for name in COARSER
        if name in arrays
        for level in range(1, levels)
    }
    return {**arrays, **coarser}


def of_level(arrays: Mapping[str, jax.Array], level: int) -> dict[str, jax.Array]:
    """The arrays of one level, by the names of the finest."""
    return {name: arrays[at_level(name, level)] for name in arrays if at_level(name, level) in arrays}
