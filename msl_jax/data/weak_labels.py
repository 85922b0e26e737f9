"""Weak labels made from full masks, for experiments: the few pixels that an annotator in a hurry would mark.

A recipe maps the label map of one slice, int (y, x) with classes 0 (background) to C - 1 and UNLABELED where the mask
is partial, to a weak label map of the same shape: the class where the pixel is annotated, UNLABELED elsewhere. It never
contradicts the mask; what the mask leaves UNLABELED stays so and belongs to no structure nor to the background. A
structure is all pixels of one class in the slice, in one piece or several; what lies beyond the image is outside of it.
"""

from collections.abc import Callable, Mapping
import dataclasses
import hashlib

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize

from msl_jax.labels import UNLABELED

DRAWN = "drawn"
"""Instead of a recipe: the annotation that a person drew, else the mask, else nothing."""
MAX_EROSIONS = 10
MARGIN = 0.04
"""How far the background's scribble keeps from the structures, as a share of the slice's shorter side.

ACDC's expert scribbles keep 10 pixels away (median over slices; 98 % of one slice's pixels 4 to 16), where the shorter
side has 216.
"""


@dataclasses.dataclass(frozen=True)
class Where:
    """Which slice is annotated.

    Attributes:
      case: name of the case.
      slice: its place in the volume, from 0.
      slices: how many the volume has.
    """

    case: str
    slice: int
    slices: int

    def generator(self, recipe: str) -> np.random.Generator:
        """Random numbers of this slice and recipe, the same on every machine and in every order of calls."""
        digest = hashlib.sha256(f"{recipe}/{self.case}/{self.slice}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest, "little"))


@dataclasses.dataclass(frozen=True)
class Style:
    """How slices are annotated, the same for all of them.

    Attributes:
      background: whether background is annotated too, by the recipes that leave the choice.
      radius: of discs, in pixels; 0 is a single pixel.
      every: `slices` annotates every n-th slice.
    """

    background: bool
    radius: int
    every: int


Recipe = Callable[[np.ndarray, Where, Style], np.ndarray]
Part = Callable[[np.ndarray], np.ndarray]
"""A structure, bool (y, x) -> its annotated pixels, bool (y, x)."""


def erosion(mask: np.ndarray, where: Where, style: Style) -> np.ndarray:
    """The innermost pixels of every structure (LIVIAETS/SizeLoss_WSS, to which the papers' authors point).

    Each structure, and the background on request, is eroded with the full 3 x 3 element 10 times if something is left,
    else 9 times, and so on down to the structure itself.

    Args:
      mask: int (y, x), classes 0 to C - 1 or UNLABELED.
      where: the slice; unused.
      style: whether background is annotated.

    Returns:
      int32 (y, x), a class or UNLABELED. All recipes take and return the same.
    """
    return _annotate(mask, style, _core, _core)


def point(mask: np.ndarray, where: Where, style: Style) -> np.ndarray:
    """A disc at a random pixel of every structure, and of the background on request.

    The pixel is drawn among those about which the square that holds the disc fits into the structure, or else among the
    innermost ones; what of the disc sticks out is cut off (random discs as in LIVIAETS/SizeLoss_WSS).
    """
    generator = where.generator("point")

    def at_random(structure):
        inner = np.flatnonzero(_core(structure, style.radius))
        return _disc(structure, inner[int(generator.random() * len(inner))], style.radius)

    return _annotate(mask, style, at_random, at_random)


def centroid(mask: np.ndarray, where: Where, style: Style) -> np.ndarray:
    """A disc at the pixel of every structure that is nearest its centroid, the first in reading order of equals.

    So a ring is annotated on its inner edge. What of the disc sticks out is cut off. Background, whose centroid means
    nothing, gets a disc on request at the first of its innermost pixels.
    """

    def at_centroid(structure):
        pixels = np.argwhere(structure)
        nearest = np.argmin(((pixels - pixels.mean(0)) ** 2).sum(1))
        return _disc(structure, np.flatnonzero(structure)[nearest], style.radius)

    def innermost(structure):
        return _disc(structure, int(np.argmax(_depth(structure))), style.radius)

    return _annotate(mask, style, at_centroid, innermost)


def scribble(mask: np.ndarray, where: Where, style: Style) -> np.ndarray:
    """A line one pixel wide along the middle of every structure, and on request a curve around all of them.

    The middle line is the skeleton, as in HiLab-git/WSL4MIS (scribbles_generator.py). Of a compact structure little is
    left by that, where a person draws a loop: a skeleton shorter than twice the structure's width gives way to the
    outline of the structure eroded to half of its depth. Background is annotated as by ACDC's experts ("approximately
    around the heart": Valvano et al., IEEE TMI 2021): the curve MARGIN away from the structures, cut off by the slice's
    border, or a loop in a slice without room for it.
    """
    return _annotate(mask, style, _stroke, _surrounding)


def box(mask: np.ndarray, where: Where, style: Style) -> np.ndarray:
    """Background outside the union of the structures' bounding boxes, nothing inside, whatever `style.background`.

    Without a structure everything is background: drawing no box says that there is no structure.
    """
    weak = np.where(mask == 0, 0, UNLABELED).astype(np.int32)
    for _, bounds in _structures(mask):
        weak[bounds] = UNLABELED
    return weak


def slices(mask: np.ndarray, where: Where, style: Style) -> np.ndarray:
    """The mask with its background on every `style.every`-th slice, counted from the middle one; else nothing."""
    recipe = none if (where.slice - where.slices // 2) % style.every else full
    return recipe(mask, where, style)


def none(mask: np.ndarray, where: Where, style: Style) -> np.ndarray:
    """Nothing."""
    return np.full(mask.shape, UNLABELED, np.int32)


def full(mask: np.ndarray, where: Where, style: Style) -> np.ndarray:
    """The mask with its background, whatever `style.background`."""
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

    Samples where tf.image.resize(..., "nearest") does. Then each annotated pixel also labels the new pixel that its
    centre lies in, if that one is UNLABELED; of several classes the one with most pixels wins, of equals the lowest. So
    a class disappears only where another class takes the same new pixel. If both axes grow, this is plain nearest
    neighbour.

    Args:
      weak: int (y, x), classes or UNLABELED, on its own grid.
      size: (y, x) of the result.

    Returns:
      int32 `size`, classes or UNLABELED.
    """
    resized = weak[np.ix_(*map(_sampled, weak.shape, size))].astype(np.int32)
    annotated = np.nonzero(weak != UNLABELED)
    y, x = ((2 * i + 1) * new // (2 * old) for i, old, new in zip(annotated, weak.shape, size, strict=True))
    unseen = resized[y, x] == UNLABELED
    pixels_and_classes = np.stack([y, x, weak[annotated]])[:, unseen]
    (y, x, label), votes = np.unique(pixels_and_classes, axis=1, return_counts=True)
    last_wins = np.lexsort((-label, votes))
    resized[y[last_wins], x[last_wins]] = label[last_wins]
    return resized


def _sampled(old: int, new: int) -> np.ndarray:
    """Which of `old` pixels along an axis each of `new` shows: floor((i + 1/2) old / new) in TensorFlow's precision."""
    place = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new)
    return np.minimum(np.floor(place).astype(int), old - 1)


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
    """Chessboard distance to the outside; what survives k erosions with the full 3 x 3 element is deeper than k."""
    return ndimage.distance_transform_cdt(np.pad(structure, 1), metric="chessboard")[1:-1, 1:-1]


def _core(structure: np.ndarray, erosions: int = MAX_EROSIONS) -> np.ndarray:
    """What `erosions` leave, or the most below that which leave something."""
    depth = _depth(structure)
    return depth > min(erosions, depth.max() - 1)


def _disc(structure: np.ndarray, centre: int, radius: int) -> np.ndarray:
    """A disc about the pixel with this number in reading order, cut off where the structure ends."""
    y, x = np.ogrid[: structure.shape[0], : structure.shape[1]]
    centre_y, centre_x = np.unravel_index(centre, structure.shape)
    return structure & ((y - centre_y) ** 2 + (x - centre_x) ** 2 <= radius**2)


def _stroke(structure: np.ndarray) -> np.ndarray:
    skeleton, depth = skeletonize(structure), _depth(structure)
    width = 2 * depth.max()
    return skeleton if skeleton.sum() >= 2 * width else _loop(depth)


def _loop(depth: np.ndarray) -> np.ndarray:
    region = depth > depth.max() // 2
    return region & ~ndimage.binary_erosion(region)


def _surrounding(background: np.ndarray) -> np.ndarray:
    margin = max(1, round(MARGIN * min(background.shape)))
    curve = ndimage.distance_transform_cdt(background, metric="chessboard") == margin
    return curve if curve.any() else _loop(_depth(background))
