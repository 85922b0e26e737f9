"""Augmentation inside the jitted train step: one resampling of image and label maps, then changes of intensity.

`augment` and `change_intensity` work on a batch, all other functions on one image, float32 (y, x, channels), and its
label maps, int32 (y, x). A result depends only on the image and its key. A strength of 0 adds no code to the step.

The changes of intensity, their order and probabilities are those of nnU-Net v2 (Isensee et al., Nature Methods 2021;
`nnUNetTrainer.get_training_transforms`), as implemented in batchgeneratorsv2. Three things differ. Rotation, zoom and
flips change every image, not one in five. Standard deviations of noise are multiplied by the image's, and brightness is
scaled about 0, because images are in [0, 1] here and z-scores there. A blur always has the taps of the largest
standard deviation.

The default strengths (settings/defaults.py) are nnU-Net's, except for rotation (there 180 degrees, or 15 if a side is
more than 1.5 times the other) and zoom (there 0.4).

Like nnU-Net, `augment` does not clip: clipping would turn noise on black background into a bias, and would remove
structure from images that become brighter. Values are therefore only about in [0, 1].
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any

import jax
from jax import random
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
import numpy as np

from msl_jax.labels import UNLABELED

Patches = Mapping[str, Mapping[str, jax.Array]]
"""Set of images -> "image" or name of a label map -> array (n, y, x, ...)."""
INTERVALS = 4
"""Spacings of the control points of elastic deformation along each side of the patch."""
TINY = 1e-7
"""Least divisor of a constant image."""


def augment(
    images: jax.Array,
    label_maps: Mapping[str, jax.Array],
    keys: jax.Array,
    strengths: Mapping[str, Any],
    *,
    size: tuple[int, int],
    fill_values: Mapping[str, int],
    versions: Sequence[str] = (),
) -> dict[str, jax.Array]:
    """Augments patches, and crops them to `size` about their centre.

    Args:
      images: float32 (n, Y, X, channels) in [0, 1], with Y >= y and X >= x; `source_size` leaves nothing to fill.
      label_maps: name -> int32 (n, Y, X).
      keys: PRNG keys (n,).
      strengths: 0 or False turns each off.
        flip: mirror each axis with probability 1/2.
        rotation: angles are uniform in [-rotation, rotation] degrees.
        zoom: factors are log-uniform in [1 / (1 + zoom), 1 + zoom].
        elastic: control points move by up to this share of the patch's sides; below 0.1, the image never folds.
        noise: standard deviations are uniform in [0, noise] times the channel's own.
        blur: standard deviations are uniform in [blur / 2, blur] pixels.
        low_resolution: resolutions are uniform in [1 - low_resolution, 1] times the image's; below 1.
        brightness: factors are uniform in [1 - brightness, 1 + brightness].
        contrast: factors about the mean are uniform in [1 - contrast, 1 + contrast].
        gamma: half of the exponents are uniform in [1 / (1 + 6/7 gamma), 1], half in [1, 1 + gamma].
      size: (y, x) of the result.
      fill_values: name -> label of pixels from outside the patch; UNLABELED for other names. Images are 0 there.
      versions: further versions of the images, keys of VERSIONS.

    Returns:
      "image" and the versions -> float32 (n, y, x, channels); name of a label map -> int32 (n, y, x). All have the same
      geometry. With every strength 0, the central crop.
    """
    assert images.shape[1] >= size[0] and images.shape[2] >= size[1], (images.shape, size)

    def move(image, label_maps, key):
        if not any(strengths[name] for name in ("flip", "rotation", "zoom", "elastic")):
            return jax.tree.map(lambda array: central_crop(array, size), (image, label_maps))
        coordinates = source_coordinates(image.shape[:2], size, **draw_geometry(key, size, strengths))
        return resample(image, label_maps, coordinates, fill_values)

    geometry_keys, intensity_keys = jnp.moveaxis(jax.vmap(random.split)(keys), 1, 0)
    images, moved_maps = jax.vmap(move)(images, dict(label_maps), geometry_keys)
    changed = {name: VERSIONS[name](images, intensity_keys, strengths) for name in ("image", *versions)}
    return {**changed, **moved_maps}


def source_size(size: tuple[int, int], strengths: Mapping[str, Any]) -> tuple[int, int]:
    """The smallest patch (Y, X) that contains every pixel that `augment` may sample for a result of `size` (y, x)."""
    y, x = ((n - 1) / 2 + strengths["elastic"] * n for n in size)
    reach = [_reach(y, x, strengths), _reach(x, y, strengths)]
    margins = (math.ceil(r * (1 + strengths["zoom"]) - (n - 1) / 2 - 1e-6) for n, r in zip(size, reach, strict=True))
    height, width = (n + 2 * margin for n, margin in zip(size, margins, strict=True))
    return height, width


def _reach(along: float, across: float, strengths: Mapping[str, Any]) -> float:
    """The largest extent along an axis of a rotated rectangle, whose half sides are `along` and `across` it."""
    angle = min(math.radians(strengths["rotation"]), math.atan2(across, along))
    return along * math.cos(angle) + across * math.sin(angle)


def central_crop(array: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The middle of an array (Y, X, ...), as (y, x, ...); one more row or column is cut at the end than the start."""
    top, left = ((n - wanted) // 2 for n, wanted in zip(array.shape[:2], size, strict=True))
    return array[top : top + size[0], left : left + size[1]]


def draw_geometry(key: jax.Array, size: tuple[int, int], strengths: Mapping[str, Any]) -> dict[str, Any]:
    """Draws the arguments of `source_coordinates`."""
    mirror_key, angle_key, zoom_key, elastic_key = random.split(key, 4)
    mirror = random.rademacher(mirror_key, (2,), jnp.float32) if strengths["flip"] else np.ones(2, np.float32)
    displacement: Any = np.zeros((2, 1, 1), np.float32)
    if strengths["elastic"]:
        controls = random.uniform(elastic_key, (2, INTERVALS + 3, INTERVALS + 3), minval=-1, maxval=1)
        displacement = spline(controls, size) * (strengths["elastic"] * np.array(size, np.float32)[:, None, None])
    return dict(
        mirror=mirror,
        angle=_symmetric(angle_key, math.radians(strengths["rotation"])),
        zoom=jnp.exp(_symmetric(zoom_key, math.log1p(strengths["zoom"]))),
        displacement=displacement,
    )


def _symmetric(key: jax.Array, limit: float) -> jax.Array | float:
    """Uniform in [-limit, limit]."""
    return random.uniform(key, minval=-limit, maxval=limit) if limit else 0.0


def spline(controls: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Values (..., y, x) of the uniform cubic B-spline with these control points (..., INTERVALS + 3, INTERVALS + 3).

    The free-form deformation of Rueckert et al., IEEE TMI 1999. Values stay within the range of the control points.
    """
    vertical, horizontal = (_spline_basis(n) for n in size)
    return jnp.einsum("yi,...ij,xj->...yx", vertical, controls, horizontal, precision="highest")


def _spline_basis(n: int) -> np.ndarray:
    """float32 (n, INTERVALS + 3): weight of every control point at every pixel; rows add up to 1."""
    position = (np.arange(n) + 0.5) / n * INTERVALS
    distance = abs(position[:, None] - np.arange(-1, INTERVALS + 2))
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance.clip(max=2)) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


def source_coordinates(
    source: tuple[int, ...],
    size: tuple[int, int],
    *,
    mirror: jax.Array,
    angle: jax.Array | float,
    zoom: jax.Array | float,
    displacement: jax.Array,
) -> jax.Array:
    """Where in a patch of shape `source` each pixel of the result lies, about the centre of the central crop.

    Args:
      source: (Y, X) of the patch.
      size: (y, x) of the result.
      mirror: (2,), -1 for each axis to mirror, else 1.
      angle: of the content, anticlockwise, in radians.
      zoom: factor by which the content becomes larger.
      displacement: (2, y, x) or (2, 1, 1), pixels of the result; applied first.

    Returns:
      float32 (2, y, x).
    """
    half = [(n - 1) / 2 for n in size]
    centre = [(outer - n) // 2 + h for outer, n, h in zip(source, size, half, strict=True)]
    y = mirror[0] * (np.arange(size[0], dtype=np.float32)[:, None] - half[0] + displacement[0])
    x = mirror[1] * (np.arange(size[1], dtype=np.float32)[None] - half[1] + displacement[1])
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    return jnp.stack([cos * y + sin * x + centre[0], cos * x - sin * y + centre[1]])


def resample(
    image: jax.Array, label_maps: Mapping[str, jax.Array], coordinates: jax.Array, fill_values: Mapping[str, int]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Samples the image linearly and label maps at the nearest pixel.

    Of the ways in tests/benchmarks/augmentation.py, XLA compiles `map_coordinates` best on CPU. Indices flattened over
    the batch would make devices exchange images.

    Args:
      image: float32 (Y, X, channels).
      label_maps: name -> int32 (Y, X).
      coordinates: float32 (2, y, x), in pixels.
      fill_values: as in `augment`.

    Returns:
      float32 (y, x, channels) and name -> int32 (y, x).
    """
    y, x = jnp.floor(coordinates + 0.5).astype(jnp.int32)
    labels = {
        name: label.at[y, x].get(mode="fill", fill_value=fill_values.get(name, UNLABELED), wrap_negative_indices=False)
        for name, label in label_maps.items()
    }
    return jax.vmap(lambda channel: map_coordinates(channel, list(coordinates), order=1), -1, -1)(image), labels


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


def _again(images: jax.Array, keys: jax.Array, strengths: Mapping[str, Any]) -> jax.Array:
    return change_intensity(images, jax.vmap(lambda key: random.fold_in(key, 1))(keys), strengths)


VERSIONS: Mapping[str, Callable[[jax.Array, jax.Array, Mapping[str, Any]], jax.Array]] = {
    "image": change_intensity,
    "again": _again,
    "plain": lambda images, keys, strengths: images,
}
"""Name -> (moved images, PRNG keys, strengths) -> images: changed in intensity, changed in another way, not changed."""


def make_augment(
    strengths: Mapping[str, Any],
    size: tuple[int, int],
    fill_values: Mapping[str, int],
    versions: Mapping[str, Sequence[str]],
) -> Callable[[Patches, jax.Array], Patches]:
    """Makes the augmentation of a batch, as the train step runs it.

    Args:
      strengths: as in `augment`.
      size: (y, x) of the result.
      fill_values: as in `augment`.
      versions: set -> further versions of its images, keys of VERSIONS.

    Returns:
      (batch, PRNG key) -> batch. The given batch has images of any float type and label maps of any integer type, as
      the pipeline makes them; the returned one has float32 images (n, y, x, channels) and int32 label maps (n, y, x).
    """

    def augment_batch(batch, key):
        augmented = {}
        for number, (image_set, arrays) in enumerate(batch.items()):
            images = arrays["image"].astype(jnp.float32)
            label_maps = {name: array.astype(jnp.int32) for name, array in arrays.items() if name != "image"}
            keys = random.split(random.fold_in(key, number), len(images))
            further = [name for name in versions.get(image_set, ()) if name != "image"]
            augmented[image_set] = augment(
                images, label_maps, keys, strengths, size=size, fill_values=fill_values, versions=further
            )
        return augmented

    return augment_batch
