"""Connected components inside the jitted step, to clean a guide's guesses.

A call of SciPy from the step would leave the device. Predictions are cleaned by SciPy (inference/components.py).
"""

import jax
import jax.numpy as jnp


def largest_components(labels: jax.Array, classes: int) -> jax.Array:
    """Keeps of every structure of every image its largest connected component; the rest becomes background.

    Pixels that touch at an edge or a corner are connected, as in BCP's published code (`skimage.measure.label`).

    Args:
      labels: int32 (n, *space), classes with background 0.
      classes: their number.

    Returns:
      int32, the same shape. Of equally large components, one is kept.
    """
    return jax.vmap(lambda image: _of_image(image, classes))(labels)


def _of_image(labels: jax.Array, classes: int) -> jax.Array:
    """Every pixel takes the highest number of its neighbours of the same class, until each component has one number.

    A number is the index of a pixel of the same component, so that taking that pixel's number in turn doubles the
    distance over which numbers spread in each round.
    """
    flat = labels.ravel()
    own = jax.nn.one_hot(labels, classes, dtype=jnp.int32)

    def spread(state):
        numbers, _ = state
        highest = _highest_nearby(jnp.where(own == 1, numbers.reshape(labels.shape)[..., None], -1))
        raised = (highest * own).sum(-1).ravel()
        raised = raised[raised]
        return raised, (raised != numbers).any()

    start = jnp.arange(labels.size, dtype=jnp.int32)
    numbers, _ = jax.lax.while_loop(lambda state: state[1], spread, (start, jnp.array(True)))
    sizes = jnp.zeros_like(numbers).at[numbers].add(1)
    largest = jnp.argmax(sizes[:, None] * own.reshape(-1, classes), axis=0)
    return jnp.where(numbers == largest[flat], flat, 0).reshape(labels.shape)


def _highest_nearby(numbers: jax.Array) -> jax.Array:
    """The maximum over each pixel and its neighbours: (*space, channels) -> the same shape."""
    for axis in range(numbers.ndim - 1):
        padding = [(1, 1) if other == axis else (0, 0) for other in range(numbers.ndim)]
        padded = jnp.pad(numbers, padding, constant_values=-1)
        n = numbers.shape[axis]
        before, after = (jax.lax.slice_in_dim(padded, start, start + n, axis=axis) for start in (0, 2))
        numbers = jnp.maximum(numbers, jnp.maximum(before, after))
    return numbers
