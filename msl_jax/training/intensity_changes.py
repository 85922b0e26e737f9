"""Random changes of intensity, for augmentation inside the jitted train step.

`change_intensity` works on a batch, all other functions on one image, float32 (y, x, channels).

The changes of intensity, their order and probabilities are those of nnU-Net v2 (Isensee et al., Nature Methods 2021;
`nnUNetTrainer.get_training_transforms`), as implemented in batchgeneratorsv2. Two things differ. Standard deviations
of noise are multiplied by the image's, and brightness is scaled about 0, because images are in [0, 1] here and z-scores
there. A blur always has the taps of the largest standard deviation.

As in nnU-Net, nothing is clipped: clipping would turn noise on black background into a bias, and would remove structure
from images that become brighter. Values are therefore only about in [0, 1].
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any

import jax
from jax import random
import jax.numpy as jnp
import numpy as np

TINY = 1e-7
"""Least divisor of a constant image."""


def add_noise(image: jax.Array, noise: jax.Array) -> jax.Array:
    """Adds noise (y, x, 1), the same in all channels, in units of a channel's standard deviation."""
    return image + noise * image.std((0, 1), keepdims=True)


def gaussian_blur(image: jax.Array, deviations: jax.Array, radius: int) -> jax.Array:
    """Convolves with Gaussians of `deviations` (2, channels) pixels, normalised over +-radius pixels; edges reflect."""
    offsets = np.arange(-radius, radius + 1, dtype=np.float32)[:, None]
    for axis in (0, 1):
        taps = jax.nn.softmax(-((offsets / deviations[axis][None]) ** 2) / 2, axis=0)
        padded = jnp.pad(image, [(radius, radius) if a == axis else (0, 0) for a in range(3)], mode="reflect")
        shifted = (jax.lax.slice_in_dim(padded, i, i + image.shape[axis], axis=axis) for i in range(len(offsets)))
        image = sum(tap[None, None] * part for tap, part in zip(taps, shifted, strict=True))
    return image


def scale_about_mean(image: jax.Array, factors: jax.Array) -> jax.Array:
    """Multiplies differences from a channel's mean by factors (1, 1, channels), within the channel's range."""
    axes = (0, 1)
    mean, least, most = (reduce(image, axes, keepdims=True) for reduce in (jnp.mean, jnp.min, jnp.max))
    scaled = (image - mean) * factors + mean
    # On CPU, XLA (jaxlib 0.10.2) compiles jnp.clip with these bounds to a program that takes 30 times as long.
    return jnp.where(scaled < least, least, jnp.where(scaled > most, most, scaled))


def reduce_resolution(image: jax.Array, scales: jax.Array) -> jax.Array:
    """Resizes channels to `scales` (channels,) of their size by nearest neighbour, and back linearly."""

    def reduce_channel(plane, scale):
        (top, bottom, down), (left, right, along) = (_coarse_neighbours(n, scale) for n in plane.shape)
        down = down[:, None]
        upper, lower = (
            plane[row[:, None], left[None]] * (1 - along[None]) + plane[row[:, None], right[None]] * along[None]
            for row in (top, bottom)
        )
        return upper * (1 - down) + lower * down

    return jax.vmap(reduce_channel, (-1, 0), -1)(image, scales)


def _coarse_neighbours(n: int, scale: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """For each of n pixels, the sources of its two neighbours on the coarse grid, and the second one's weight."""
    coarse = jnp.maximum(jnp.round(n * scale), 1)
    position = jnp.clip((np.arange(n, dtype=np.float32) + 0.5) * coarse / n - 0.5, 0, coarse - 1)
    lower = jnp.floor(position)

    def source(index):
        return (2 * index.astype(jnp.int32) + 1) * n // (2 * coarse.astype(jnp.int32))

    return source(lower), source(jnp.minimum(lower + 1, coarse - 1)), position - lower


def apply_gamma(image: jax.Array, exponents: jax.Array) -> jax.Array:
    """Raises channels, mapped to [0, 1], to exponents (1, 1, channels); then restores mean and standard deviation."""
    axes = (0, 1)
    least, most, mean, deviation = (
        reduce(image, axes, keepdims=True) for reduce in (jnp.min, jnp.max, jnp.mean, jnp.std)
    )
    changed = ((image - least) / jnp.maximum(most - least, TINY)) ** exponents * (most - least)
    scale = deviation / jnp.maximum(changed.std(axes, keepdims=True), TINY)
    return (changed - changed.mean(axes, keepdims=True)) * scale + mean


def _noise(image: jax.Array, key: jax.Array, strength: float) -> jax.Array:
    deviation_key, noise_key = random.split(key)
    deviation = random.uniform(deviation_key, maxval=strength)
    return add_noise(image, deviation * random.normal(noise_key, (*image.shape[:2], 1)))


def _blur(image: jax.Array, key: jax.Array, strength: float) -> jax.Array:
    deviations = random.uniform(key, (2, image.shape[-1]), minval=strength / 2, maxval=strength)
    return gaussian_blur(image, deviations, math.ceil(3 * strength))


def _brightness(image: jax.Array, key: jax.Array, strength: float) -> jax.Array:
    return image * _channel_factors(image, key, 1 - strength, 1 + strength)


def _contrast(image: jax.Array, key: jax.Array, strength: float) -> jax.Array:
    return scale_about_mean(image, _channel_factors(image, key, 1 - strength, 1 + strength))


def _low_resolution(image: jax.Array, key: jax.Array, strength: float) -> jax.Array:
    return reduce_resolution(image, random.uniform(key, image.shape[-1:], minval=1 - strength, maxval=1.0))


def _gamma(image: jax.Array, key: jax.Array, strength: float) -> jax.Array:
    position = _channel_factors(image, key, -1.0, 1.0)
    least, most = 1 / (1 + strength * 6 / 7), 1 + strength
    return apply_gamma(image, 1 + jnp.where(position < 0, (1 - least) * position, (most - 1) * position))


def _inverted_gamma(image: jax.Array, key: jax.Array, strength: float) -> jax.Array:
    return -_gamma(-image, key, strength)


def _channel_factors(image: jax.Array, key: jax.Array, least: float, most: float) -> jax.Array:
    """float32 (1, 1, channels), uniform."""
    return random.uniform(key, (1, 1, image.shape[-1]), minval=least, maxval=most)


@dataclasses.dataclass(frozen=True)
class Transform:
    """A random change of intensity."""

    name: str
    strength: str  # its name in `strengths`
    probability: float  # that it changes an image
    channel_probability: float  # that it then changes a channel
    function: Callable[[jax.Array, jax.Array, float], jax.Array]  # (image, key, strength) -> image


TRANSFORMS = (
    Transform("noise", "noise", 0.1, 1.0, _noise),
    Transform("blur", "blur", 0.2, 0.5, _blur),
    Transform("brightness", "brightness", 0.15, 1.0, _brightness),
    Transform("contrast", "contrast", 0.15, 1.0, _contrast),
    Transform("low_resolution", "low_resolution", 0.25, 0.5, _low_resolution),
    Transform("inverted_gamma", "gamma", 0.1, 1.0, _inverted_gamma),
    Transform("gamma", "gamma", 0.3, 1.0, _gamma),
)
"""In the order in which they are applied."""


def change_intensity(
    images: jax.Array, keys: jax.Array, strengths: Mapping[str, Any], transforms: tuple[Transform, ...] = TRANSFORMS
) -> jax.Array:
    """Applies each transform whose strength is not 0 with its probability to images (n, y, x, channels).

    If a transform changes any image of the batch, it is computed for all: a branch for each image would keep a device
    from working on all at once. The branch also stops XLA from fusing one transform into the next, where it would be
    computed again for each pixel that is read (3 times as slow in all on CPU).
    """
    channels = images.shape[-1]
    image_probability, channel_probability = np.array(
        [(t.probability, t.channel_probability) for t in transforms], np.float32
    ).T[:, :, None]

    def draw(key):
        """What an image's transforms change, bool (transforms, channels), and their keys (transforms,)."""
        choice_key, function_key = random.split(key)
        uniform = random.uniform(choice_key, (len(transforms), 1 + channels))
        chosen = (uniform[:, :1] < image_probability) & (uniform[:, 1:] < channel_probability)
        return chosen, random.split(function_key, len(transforms))

    all_chosen, all_keys = jax.vmap(draw)(keys)
    for number, transform in enumerate(transforms):
        if strength := strengths[transform.strength]:
            chosen = all_chosen[:, number]

            def change(images, chosen=chosen, keys=all_keys[:, number], function=transform.function, strength=strength):
                changed = jax.vmap(lambda image, key: function(image, key, strength))(images, keys)
                return jnp.where(chosen[:, None, None], changed, images)

            images = jax.lax.cond(chosen.any(), change, lambda images: images, images)
    return images
