"""Augmentation inside the jitted train step: one resampling of image and label maps, then changes of intensity.

`augment` works on a batch, all other functions on one image, float32 (y, x, channels), and its label maps, int32 (y,
x). A result depends only on the image and its key. A strength of 0 adds no code to the step.

The default strengths (settings/defaults.py) are nnU-Net's, except for rotation (there 180 degrees, or 15 if a side is
more than 1.5 times the other) and zoom (there 0.4). Rotation, zoom and flips change every image, there one in five.
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any

import jax
from jax import random
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
import numpy as np

from msl_jax.labels import UNLABELED
from msl_jax.training.intensity_changes import change_intensity

Patches = Mapping[str, Mapping[str, jax.Array]]
"""Set of images -> "image" or name of a label map -> array (n, y, x, ...)."""
INTERVALS = 4
"""Spacings of the control points of elastic deformation along each side of the patch."""


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
            augmented[image_set] = augment(
                images, label_maps, keys, strengths, size=size, fill_values=fill_values, versions=versions[image_set]
            )
        return augmented

    return augment_batch
