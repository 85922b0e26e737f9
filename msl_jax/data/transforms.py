"""Transforms of slices as TensorFlow operations, shared by training and inference.

Normalised images are float32 (..., y, x, channel) in [0, 1]; label maps are int32 (..., y, x, 1), classes or UNLABELED.
"""

from collections.abc import Mapping
import math

import tensorflow as tf


def normalize(image: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """Clips intensities to [low, high] and maps that range to [0, 1]; a constant volume becomes 0."""
    return tf.math.divide_no_nan(tf.clip_by_value(image, low, high) - low, high - low)


def resize_image(image: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Linear interpolation to `size` (y, x), float32."""
    return tf.image.resize(image, size, "bilinear")


def resize_labels(labels: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Nearest neighbour to `size` (y, x), dtype kept."""
    return tf.image.resize(labels, size, "nearest")


def augment(
    image: tf.Tensor,
    labels: Mapping[str, tf.Tensor],
    fill_values: Mapping[str, int],
    seed: tf.Tensor,
    *,
    flip: bool,
    rotation: float,
    zoom: float,
    gamma: float,
    contrast: float,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Augments one slice: gamma and contrast of the image; flip, rotation and zoom of image and label maps.

    Args:
      image: float32 (y, x, channel) in [0, 1].
      labels: name -> int32 (y, x, 1).
      fill_values: name -> label of pixels from outside the slice; the image is 0 there.
      seed: int (2,); the result depends only on it and the other arguments.
      flip: mirror each axis with probability 1/2.
      rotation: angles are uniform in [-rotation, rotation] degrees.
      zoom: factors are log-uniform in [1 / (1 + zoom), 1 + zoom].
      gamma: exponents are log-uniform in [1 / (1 + gamma), 1 + gamma].
      contrast: factors about 0.5 are uniform in [1 - contrast, 1 + contrast].

    Returns:
      The image and the label maps, of the same shapes and dtypes.
    """
    u = tf.random.stateless_uniform([6], seed, -1.0, 1.0)
    image = image ** tf.pow(1 + gamma, u[0])
    image = tf.clip_by_value((image - 0.5) * (1 + contrast * u[1]) + 0.5, 0.0, 1.0)
    mirror = tf.where(tf.logical_and(u[2:4] < 0, flip), -1.0, 1.0)
    matrix = _affine(image, u[4] * math.radians(rotation), tf.pow(1 + zoom, u[5]), mirror)
    transformed = {name: _transform(label, matrix, "NEAREST", fill_values[name]) for name, label in labels.items()}
    return _transform(image, matrix, "BILINEAR", 0), transformed


def _affine(image: tf.Tensor, angle: tf.Tensor, scale: tf.Tensor, mirror: tf.Tensor) -> tf.Tensor:
    """The map from output to input pixels about the centre, as the 8 numbers of ImageProjectiveTransformV3."""
    cos, sin = tf.cos(angle) / scale, tf.sin(angle) / scale
    matrix = tf.stack([[cos, -sin], [sin, cos]]) * mirror
    centre = (tf.cast(tf.shape(image)[1::-1], tf.float32) - 1) / 2
    shift = centre - tf.linalg.matvec(matrix, centre)
    return tf.concat([matrix[0], shift[:1], matrix[1], shift[1:], [0.0, 0.0]], 0)


def _transform(image: tf.Tensor, matrix: tf.Tensor, interpolation: str, fill_value: int) -> tf.Tensor:
    transformed = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=matrix[None],
        output_shape=tf.shape(image)[:2],
        fill_value=tf.cast(fill_value, tf.float32),
        interpolation=interpolation,
        fill_mode="CONSTANT",
    )
    return tf.ensure_shape(transformed[0], image.shape)
