"""Windows of a fixed size over slices of any size, merged by a weighted mean, as in nnU-Net's inference.

Fabian Isensee et al., nnU-Net, Nature Methods 2021; nnunetv2/inference/sliding_window_prediction.py.
"""

from collections.abc import Iterator, Sequence
import itertools
import math

import numpy as np

OVERLAP = 0.5
"""Share of a window that the next one covers again, at least; less by at most a pixel, from rounding."""
DEVIATION = 1 / 8
"""Standard deviation of the Gaussian weights, relative to the window."""


def starts(length: int, window: int) -> list[int]:
    """The first pixels of evenly spaced windows that cover an axis, as nnU-Net's compute_steps_for_sliding_window.

    Args:
      length: pixels along the axis, at least `window`.
      window: pixels of a window.
    """
    last = length - window
    steps = math.ceil(last / (window * (1 - OVERLAP)))
    return [round(step * last / max(1, steps)) for step in range(steps + 1)]


def corners(shape: Sequence[int], size: Sequence[int]) -> list[tuple[int, int]]:
    """The first pixels (y, x) of all windows of a slice (y, x), which is at least as large as a window."""
    y, x = map(starts, shape, size)
    return list(itertools.product(y, x))


def weights(size: Sequence[int]) -> np.ndarray:
    """The weight of a window's pixels, float32 (y, x): a Gaussian about its middle, at most 1.

    nnU-Net's is about pixel size // 2. This one is symmetric, and at least exp(-16), so that no pixel has weight 0.
    """
    y, x = (np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n * DEVIATION)) ** 2) for n in size)
    return np.outer(y, x).astype(np.float32)


def pad(images: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Pads slices (n, y, x, channel) to at least a window with 0, half of it before, rounded down."""
    missing = [max(0, least - n) for n, least in zip(images.shape[1:3], size, strict=True)]
    return np.pad(images, ((0, 0), *((n // 2, n - n // 2) for n in missing), (0, 0)))


def cut(padded: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The slices (n, *shape, ...) that `pad` has padded."""
    y, x = (slice((long - n) // 2, (long - n) // 2 + n) for long, n in zip(padded.shape[1:3], shape, strict=True))
    return padded[:, y, x]


def split(images: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """All windows of slices (n, y, x, channel): (n * windows, *size, channel), those of a slice one after another."""
    places = [_window(corner, size) for corner in corners(images.shape[1:3], size)]
    return np.stack([image[place] for image in images for place in places])


def merge(windows: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """The weighted mean of the windows (*size, classes) of slices (n, *shape), in the order of `split`.

    Returns:
      float32 (n, *shape, classes); where a slice is one window, the windows as they are.
    """
    *size, classes = windows[0].shape
    places = [_window(corner, size) for corner in corners(shape, size)]
    if len(places) == 1:
        return np.stack(windows)
    weight = weights(size)[..., None]
    share = np.zeros((*shape, 1), np.float32)
    for place in places:
        share[place] += weight
    merged = np.zeros((len(windows) // len(places), *shape, classes), np.float32)
    for number, window in enumerate(windows):
        index, of_slice = divmod(number, len(places))
        merged[index][places[of_slice]] += weight * window
    merged /= share
    return merged


def batches(windows: np.ndarray, batch: int) -> Iterator[np.ndarray]:
    """Consecutive windows in batches of one size; the last one is filled up with 0."""
    for first in range(0, len(windows), batch):
        part = windows[first : first + batch]
        yield np.pad(part, ((0, batch - len(part)), (0, 0), (0, 0), (0, 0)))


def _window(corner: tuple[int, int], size: Sequence[int]) -> tuple[slice, slice]:
    y, x = (slice(first, first + n) for first, n in zip(corner, size, strict=True))
    return y, x
