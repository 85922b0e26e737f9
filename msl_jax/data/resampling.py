"""Resampling of slices: images, masks and probabilities. Drawn annotations have their own rule, weak_labels.resize.

Positions are those of pixel centres, as in tf.image.resize and PyTorch with align_corners=False.
"""

import numpy as np
import tensorflow as tf

Size = tuple[int, int]
"""(y, x)."""


def resize_image(image: np.ndarray, size: Size, *, antialias: bool) -> np.ndarray:
    """Linear interpolation.

    Args:
      image: float32 (..., y, x, channel).
      size: (y, x) of the result; an image of this size is returned as it is.
      antialias: along axes that shrink, average over the pixels that a new one covers.

    Returns:
      float32 (..., *size, channel).
    """
    if image.shape[-3:-1] == size:
        return image
    return tf.image.resize(image, size, "bilinear", antialias=antialias).numpy()


def resize_nearest(labels: np.ndarray, size: Size) -> np.ndarray:
    """Nearest neighbour: (..., y, x) -> (..., *size), dtype kept."""
    return tf.image.resize(labels[..., None], size, "nearest").numpy()[..., 0]


def resize_mask(mask: np.ndarray, size: Size) -> np.ndarray:
    """The class with the largest share of each new pixel, the lowest in a tie.

    Every class is resized by `resize_image` with antialiasing, as nnU-Net resizes its one-hot masks (there without
    antialiasing). UNLABELED counts as a class, so that unlabelled pixels stay unlabelled.

    Args:
      mask: int (slice, y, x), classes or UNLABELED.
      size: (y, x) of the result; a mask of this size is returned as it is.

    Returns:
      (slice, *size), dtype kept.
    """
    if mask.shape[-2:] == size:
        return mask
    best, share = np.zeros((len(mask), *size), mask.dtype), np.zeros((len(mask), *size), np.float32)
    for value in np.unique(mask):
        of_value = resize_image((mask == value)[..., None].astype(np.float32), size, antialias=True)[..., 0]
        better = of_value > share
        best[better], share[better] = value, of_value[better]
    return best
