"""Weak labels simulated from full masks, for experiments.

A recipe maps the label map of one slice, int (y, x) with classes 0 (background) to C - 1 or UNLABELED, to a weak label
map of the same shape: the mask's class at annotated pixels, UNLABELED elsewhere. Pixels that are UNLABELED in the mask
stay so, and belong neither to a structure nor to background. A structure is all pixels of one class in the slice,
connected or not; pixels beyond the image do not belong to it.
"""

from collections.abc import Callable, Mapping
import dataclasses
import hashlib

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize

from msl_jax.labels import UNLABELED

DRAWN = "drawn"
"""Not a recipe: the drawn annotation if there is one, else the mask, else nothing."""
MAX_EROSIONS = 10
MARGIN = 0.04
"""Distance of the background's scribble from the structures, as a share of the slice's shorter side.

In ACDC's expert scribbles it is 10 pixels (median over slices; 98 % of one slice's pixels 4 to 16) with a shorter side
of 216.
"""


@dataclasses.dataclass(frozen=True)
class SlicePosition:
    """The position of a slice in the data set.

    Attributes:
      case: name of the case.
      slice: index in the volume, from 0.
      slices: number of slices in the volume.
    """

    case: str
    slice: int
    slices: int

    def generator(self, recipe: str) -> np.random.Generator:
        """The random generator of this slice and recipe, the same on every machine and in any order of calls."""
        digest = hashlib.sha256(f"{recipe}/{self.case}/{self.slice}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest, "little"))


@dataclasses.dataclass(frozen=True)
class Style:
    """Settings of the recipes, the same for all slices.

    Attributes:
      background: whether to annotate background, too; `box`, `slices`, `none` and `full` ignore it.
      radius: radius of discs in pixels; 0 is a single pixel.
      every: `slices` annotates every n-th slice.
    """

    background: bool
    radius: int
    every: int


Recipe = Callable[[np.ndarray, SlicePosition, Style], np.ndarray]
Part = Callable[[np.ndarray], np.ndarray]
"""A structure, bool (y, x) -> its annotated pixels, bool (y, x)."""


def erosion(mask: np.ndarray, position: SlicePosition, style: Style) -> np.ndarray:
    """The innermost pixels of every structure (LIVIAETS/SizeLoss_WSS, cited by the papers' authors).

    Each structure, and background if `style.background`, is eroded with the full 3 x 3 element up to 10 times,
    stopping before it disappears.

    Args:
      mask: int (y, x), classes 0 to C - 1 or UNLABELED.
      position: unused.
      style: only `background` is used.

    Returns:
      int32 (y, x), a class or UNLABELED. All recipes have these arguments and this result.
    """
    return _annotate(mask, style, _core, _core)


def point(mask: np.ndarray, position: SlicePosition, style: Style) -> np.ndarray:
    """A disc at a random pixel of every structure, and of background if `style.background`.

    The pixel is drawn from those where the disc's bounding square fits into the structure, or from the innermost ones
    if there are none. The disc is clipped to the structure (random discs as in LIVIAETS/SizeLoss_WSS).
    """
    generator = position.generator("point")

    def at_random(structure):
        inner = np.flatnonzero(_core(structure, style.radius))
        return _disc(structure, inner[int(generator.random() * len(inner))], style.radius)

    return _annotate(mask, style, at_random, at_random)


def centroid(mask: np.ndarray, position: SlicePosition, style: Style) -> np.ndarray:
    """A disc at the pixel of every structure nearest to its centroid, the first in row-major order if several are.

    So a ring is annotated at its inner edge. The disc is clipped to the structure. The centroid of background is not
    meaningful: if `style.background`, its disc is at the first of its innermost pixels.
    """

    def at_centroid(structure):
        pixels = np.argwhere(structure)
        nearest = np.argmin(((pixels - pixels.mean(0)) ** 2).sum(1))
        return _disc(structure, np.flatnonzero(structure)[nearest], style.radius)

    def innermost(structure):
        return _disc(structure, int(np.argmax(_depth(structure))), style.radius)

    return _annotate(mask, style, at_centroid, innermost)


def scribble(mask: np.ndarray, position: SlicePosition, style: Style) -> np.ndarray:
    """A line one pixel wide along the middle of every structure; if `style.background`, a curve around all of them.

    The line is the skeleton, as in HiLab-git/WSL4MIS (scribbles_generator.py). The skeleton of a compact structure is
    short, but annotators draw a loop: if it is shorter than twice the structure's width, the outline of the structure
    eroded to half its depth is used instead. Background is annotated as by ACDC's experts ("approximately around the
    heart": Valvano et al., IEEE TMI 2021): the curve at distance MARGIN from the structures, clipped to the slice, or a
    loop if there is no such curve.
    """
    return _annotate(mask, style, _line_or_loop, _contour)


def box(mask: np.ndarray, position: SlicePosition, style: Style) -> np.ndarray:
    """Background outside the structures' bounding boxes, nothing inside, whatever `style.background`.

    Without a structure all of the mask's background is annotated.
    """
    weak = np.where(mask == 0, 0, UNLABELED).astype(np.int32)
    for _, bounds in _structures(mask):
        weak[bounds] = UNLABELED
    return weak


def slices(mask: np.ndarray, position: SlicePosition, style: Style) -> np.ndarray:
    """The mask with background on every `style.every`-th slice, counted from the middle one; nothing on the others."""
    recipe = none if (position.slice - position.slices // 2) % style.every else full
    return recipe(mask, position, style)


def none(mask: np.ndarray, position: SlicePosition, style: Style) -> np.ndarray:
    """No annotation."""
    return np.full(mask.shape, UNLABELED, np.int32)


def full(mask: np.ndarray, position: SlicePosition, style: Style) -> np.ndarray:
    """The mask with background, whatever `style.background`."""
    return mask.astype(np.int32)


RECIPES: Mapping[str, Recipe] = {
    "erosion": erosion,
    "point": point,
    "centroid": centroid,
    "scribble": scribble,
    "box": box,
    "slices": slices,
    "none": none,
    "full": full,
}


def resize(weak: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes to `size` (y, x) by nearest neighbour, without losing thin annotations.

    Starts with the result of tf.image.resize(..., "nearest"). Then each annotated pixel also labels the new pixel that
    contains its centre, if that is UNLABELED; the class with most pixels wins, the lowest in a tie. So a class is lost
    only if other classes label its new pixels. If no axis shrinks, this is plain nearest neighbour.

    Args:
      weak: int (y, x), classes or UNLABELED.
      size: (y, x) of the result.

    Returns:
      int32 `size`, classes or UNLABELED.
    """
    resized = weak[np.ix_(*map(_nearest_indices, weak.shape, size))].astype(np.int32)
    annotated = np.nonzero(weak != UNLABELED)
    y, x = ((2 * i + 1) * new // (2 * old) for i, old, new in zip(annotated, weak.shape, size, strict=True))
    lost = resized[y, x] == UNLABELED
    pixels_and_classes = np.stack([y, x, weak[annotated]])[:, lost]
    (y, x, label), votes = np.unique(pixels_and_classes, axis=1, return_counts=True)
    last_wins = np.lexsort((-label, votes))
    resized[y[last_wins], x[last_wins]] = label[last_wins]
    return resized


def _nearest_indices(old: int, new: int) -> np.ndarray:
    """The old index for each new one along an axis: floor((i + 1/2) old / new), in TensorFlow's precision."""
    centres = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new)
    return np.minimum(np.floor(centres).astype(int), old - 1)


def _annotate(mask: np.ndarray, style: Style, of_structure: Part, of_background: Part) -> np.ndarray:
    weak = np.full(mask.shape, UNLABELED, np.int32)
    for label, bounds in _structures(mask):
        weak[bounds][of_structure(mask[bounds] == label)] = label
    background = mask == 0
    if style.background and background.any():
        weak[of_background(background)] = 0
    return weak


def _structures(mask: np.ndarray) -> list[tuple[int, tuple[slice, slice]]]:
    """Class and bounding box of every structure."""
    boxes = enumerate(ndimage.find_objects(mask), start=1)
    return [(label, bounds) for label, bounds in boxes if bounds and label != UNLABELED]


def _depth(structure: np.ndarray) -> np.ndarray:
    """Chessboard distance to the outside; k erosions with the full 3 x 3 element leave the pixels deeper than k."""
    return ndimage.distance_transform_cdt(np.pad(structure, 1), metric="chessboard")[1:-1, 1:-1]


def _core(structure: np.ndarray, erosions: int = MAX_EROSIONS) -> np.ndarray:
    """The structure after `erosions`, or after fewer if it would disappear."""
    depth = _depth(structure)
    return depth > min(erosions, depth.max() - 1)


def _disc(structure: np.ndarray, centre: int, radius: int) -> np.ndarray:
    """A disc about the pixel with this flat index, clipped to the structure."""
    y, x = np.ogrid[: structure.shape[0], : structure.shape[1]]
    centre_y, centre_x = np.unravel_index(centre, structure.shape)
    return structure & ((y - centre_y) ** 2 + (x - centre_x) ** 2 <= radius**2)


def _line_or_loop(structure: np.ndarray) -> np.ndarray:
    skeleton, depth = skeletonize(structure), _depth(structure)
    width = 2 * depth.max()
    return skeleton if skeleton.sum() >= 2 * width else _loop(depth)


def _loop(depth: np.ndarray) -> np.ndarray:
    region = depth > depth.max() // 2
    return region & ~ndimage.binary_erosion(region)


def _contour(background: np.ndarray) -> np.ndarray:
    margin = max(1, round(MARGIN * min(background.shape)))
    curve = ndimage.distance_transform_cdt(background, metric="chessboard") == margin
    return curve if curve.any() else _loop(_depth(background))
