"""Pictures of slices as matplotlib figures without global state; equal inputs give equal bytes.

Volumes are (slice, y, x) and slices (y, x), drawn with y downwards. Only `save` writes files.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import io
import math

from etils import epath
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
import numpy as np

from msl_jax.system import atomic

MAX_SLICES, MAX_SLICES_BESIDE = 6, 4
PANEL, SMALL_PANEL, GAP, MARGIN = 2.1, 1.25, 0.06, 0.8  # inches
BACKGROUND, TEXT = "#14161a", "#e8eaed"
# After Okabe and Ito, Color Universal Design (2008): distinct under the common colour blindnesses.
OUTLINES = {"reference": "#f0e442", "teacher": "#56b4e9", "student": "#ff6f2c"}
CLASS_COLORS = ("#7b3fe4", "#f0e442", "#56b4e9", "#ff6f2c", "#009e73", "#cc79a7", "#e69f00", "#0072b2")


def png(figure: Figure) -> bytes:
    """`figure` as a PNG file."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names of cases may contain "$"
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, bbox_inches="tight", pad_inches=0.15, metadata={"Software": None})
    return file.getvalue()


def save(figure: Figure, path: epath.PathLike) -> None:
    """Writes `figure` to `path` as PNG, atomically: an interruption leaves no partial file."""
    atomic.write_bytes(epath.Path(path), png(figure))


def _panels(
    rows: int, columns: int, ratio: float, title: str, legend: Sequence, panel: float = PANEL
) -> tuple[Figure, np.ndarray]:
    """A dark grid of panels with aspect `ratio` (height / width), a title above and a legend below."""
    inner = columns * (panel + GAP) - GAP, rows * (panel * ratio + GAP) - GAP
    width, height = (size + 2 * MARGIN for size in inner)
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    left, bottom = MARGIN / width, MARGIN / height
    figure.subplots_adjust(left, bottom, 1 - left, 1 - bottom, wspace=GAP / panel, hspace=GAP / (panel * ratio))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.suptitle(title, y=1 - 0.52 / height, verticalalignment="bottom", color=TEXT, fontsize=12)
    anchor, style = (0.5, bottom), {"ncols": 6, "frameon": False, "labelcolor": TEXT, "fontsize": 10}
    figure.legend(handles=legend, loc="upper center", bbox_to_anchor=anchor, **style)
    return figure, axes


def _grey(axis: Axes, image: np.ndarray, aspect: float) -> None:
    low, high = np.percentile(image, (0.5, 99.5))
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="bilinear")


def _shown_slices(structure: np.ndarray, most: int) -> np.ndarray:
    """At most `most` indices: evenly spaced among the slices with structure, or else the middle slices."""
    indices = np.flatnonzero(structure.any(axis=(1, 2)))
    if indices.size == 0:
        first = max(0, (len(structure) - most) // 2)
        return np.arange(len(structure))[first : first + most]
    return indices[np.round(np.linspace(0, indices.size - 1, min(most, indices.size))).astype(int)]


def _crop(structure: np.ndarray, spacing: Sequence[float]) -> tuple[slice, ...]:
    """A window (rows, columns), square in mm, of 1.5 times the structure's longer side; everything if it is empty."""
    if not structure.any():
        return slice(None), slice(None)
    bounds = [(int(position.min()), int(position.max()) + 1) for position in np.nonzero(structure)[1:]]
    side = 1.5 * max((stop - start) * step for (start, stop), step in zip(bounds, spacing[1:], strict=True))
    window = []
    for (start, stop), step, length in zip(bounds, spacing[1:], structure.shape[1:], strict=True):
        size = min(length, math.ceil(side / step))
        first = min(max((start + stop - size) // 2, 0), length - size)
        window.append(slice(first, first + size))
    return tuple(window)


def _outline(axis: Axes, labels: np.ndarray, color: str, width: float) -> None:
    """Draws the boundary of every label except 0 of a label map (y, x), closed at the image border."""
    y, x = (np.arange(-1, size + 1) for size in labels.shape)
    for label in np.unique(labels[labels != 0]):
        axis.contour(x, y, np.pad(labels == label, 1), levels=[0.5], colors=color, linewidths=width)
    axis.set(xlim=(-0.5, labels.shape[1] - 0.5), ylim=(labels.shape[0] - 0.5, -0.5))


def overlay(
    image: np.ndarray,
    reference: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    probability: np.ndarray,
    title: str,
    spacing: Sequence[float],
) -> Figure:
    """Outlines of reference and predictions on the image, and below them probability maps, cropped to the structures.

    Args:
        image: float (slice, y, x).
        reference: label map, int (slice, y, x), 0 the background.
        predictions: branch ("teacher", "student") -> label map, int (slice, y, x).
        probability: foreground probability of the student, or of the only branch, float (slice, y, x) in [0, 1].
        title: the line above the picture.
        spacing: voxel size along (slice, y, x).

    Returns:
        One column per slice: at most `MAX_SLICES` slices with structure, or the middle slices if none has any.
    """
    outlines = {"reference": reference, **predictions}
    structure = np.any([labels != 0 for labels in outlines.values()], axis=0)
    window = _crop(structure, spacing)
    image, probability = image[:, *window], probability[:, *window]
    indices, aspect = _shown_slices(structure, MAX_SLICES), spacing[1] / spacing[2]
    legend = [Line2D([], [], color=OUTLINES[name], linewidth=2, label=name) for name in outlines]
    figure, axes = _panels(2, len(indices), aspect * image.shape[1] / image.shape[2], title, legend)
    for index, (upper, lower) in zip(indices, axes.T, strict=True):
        _grey(upper, image[index], aspect)
        upper.set_title(f"slice {index + 1} of {len(image)}", color=TEXT, fontsize=9, pad=4)
        for name, labels in outlines.items():
            _outline(upper, labels[index][window], OUTLINES[name], 1.8 if name == "reference" else 1.1)
        _probability(lower, probability[index], aspect)
        _outline(lower, reference[index][window], OUTLINES["reference"], 0.8)
    _probability_bar(axes[1, -1], f"{'student' if 'student' in predictions else 'teacher'} probability")
    return figure


def methods(
    image: np.ndarray,
    reference: np.ndarray,
    predictions: Mapping[str, Mapping[str, np.ndarray]],
    probabilities: Mapping[str, np.ndarray],
    title: str,
    spacing: Sequence[float],
) -> Figure:
    """One case under several methods, as in arXiv 2012.08051, figures 2 and 3.

    Args:
      image: float (slice, y, x).
      reference: label map, int (slice, y, x), 0 the background.
      predictions: name of the method's row -> branch ("teacher", "student") -> label map, int (slice, y, x).
      probabilities: the same names -> foreground probability of the student, or of the only branch, float
        (slice, y, x) in [0, 1].
      title: the line above the picture.
      spacing: voxel size along (slice, y, x).

    Returns:
      A row per method: the same slices with outlines, at most `MAX_SLICES_BESIDE`, and beside them their probability
      maps, all cropped to the reference.
    """
    window = _crop(reference != 0, spacing)
    image, aspect = image[:, *window], spacing[1] / spacing[2]
    indices = _shown_slices(reference != 0, MAX_SLICES_BESIDE)
    branches = dict.fromkeys(branch for labels in predictions.values() for branch in labels)
    legend = [Line2D([], [], color=OUTLINES[name], linewidth=2, label=name) for name in ("reference", *branches)]
    ratio = aspect * image.shape[1] / image.shape[2]
    figure, axes = _panels(len(predictions), 2 * len(indices), ratio, title, legend, SMALL_PANEL)
    for axis, index in zip(axes[0], (*indices, *indices), strict=True):
        axis.set_title(f"slice {index + 1} of {len(image)}", color=TEXT, fontsize=8, pad=3)
    for row, (name, labels) in zip(axes, predictions.items(), strict=True):
        row[0].text(-0.06, 0.5, name, color=TEXT, fontsize=9, ha="right", va="center", transform=row[0].transAxes)
        outline_axes, probability_axes = np.split(row, 2)
        for index, left, right in zip(indices, outline_axes, probability_axes, strict=True):
            _grey(left, image[index], aspect)
            _outline(left, reference[index][window], OUTLINES["reference"], 1.4)
            for branch, label_map in labels.items():
                _outline(left, label_map[index][window], OUTLINES[branch], 0.9)
            _probability(right, probabilities[name][index][window], aspect)
            _outline(right, reference[index][window], OUTLINES["reference"], 0.6)
    _probability_bar(axes[0, -1], "probability of structure")
    return figure


@dataclasses.dataclass(frozen=True)
class Sample:
    """One slice of a case, with its labels.

    Attributes:
      name: name of the case.
      image: float (y, x).
      mask: int classes (y, x); 255 is not drawn.
      weak: int classes of any size, or None without weak labels.
      spacing: voxel size along (slice, y, x).
    """

    name: str
    image: np.ndarray
    mask: np.ndarray
    weak: np.ndarray | None
    spacing: Sequence[float]


def samples(rows: Mapping[str, Sequence[Sample]], classes: Sequence[str]) -> Figure:
    """A row per kind of case: each sample with its mask and, beside it, with its weak labels, if any.

    Args:
      rows: name of the row -> its samples.
      classes: names, background first.
    """
    most = max(map(len, rows.values()))
    legend = [Patch(color=CLASS_COLORS[c % len(CLASS_COLORS)], label=name) for c, name in enumerate(classes)]
    figure, axes = _panels(len(rows), 2 * most, 1.0, "masks, and beside them weak labels", legend, SMALL_PANEL)
    for row, (name, row_samples) in zip(axes, rows.items(), strict=True):
        row[0].text(-0.06, 0.5, name, color=TEXT, fontsize=9, ha="right", va="center", transform=row[0].transAxes)
        for sample, left, right in zip(row_samples, row[::2], row[1::2], strict=False):
            aspect = sample.spacing[1] / sample.spacing[2]
            left.set_title(sample.name[:24], color=TEXT, fontsize=7, pad=3)
            for axis, labels in ((left, sample.mask), (right, sample.weak)):
                if labels is not None:
                    _grey(axis, sample.image, aspect)
                    _color_classes(axis, labels, sample.image.shape, aspect)
    return figure


@dataclasses.dataclass(frozen=True)
class Segmented:
    """One slice of a case, segmented by a run.

    Attributes:
      name: name of the case.
      image: float (y, x).
      predictions: branch -> label map, int (y, x).
      entropy: float (y, x), divided by its maximum log(classes).
      spacing: voxel size along (slice, y, x).
    """

    name: str
    image: np.ndarray
    predictions: Mapping[str, np.ndarray]
    entropy: np.ndarray
    spacing: Sequence[float]


def entropies(cases: Sequence[Segmented], title: str) -> Figure:
    """A column per case: its slice with the branches' outlines, and below it the entropy of the last branch."""
    branches = list(cases[0].predictions)
    legend = [Line2D([], [], color=OUTLINES[branch], linewidth=2, label=branch) for branch in branches]
    figure, axes = _panels(2, len(cases), 1.0, title, legend)
    for case, (upper, lower) in zip(cases, axes.T, strict=True):
        aspect = case.spacing[1] / case.spacing[2]
        upper.set_title(case.name[-32:], color=TEXT, fontsize=7, pad=3)
        _grey(upper, case.image, aspect)
        for branch, labels in case.predictions.items():
            _outline(upper, labels, OUTLINES[branch], 1.1)
        _probability(lower, case.entropy, aspect)
    _probability_bar(axes[1, -1], f"{branches[-1]}'s entropy / log(classes)")
    return figure


def _color_classes(axis: Axes, labels: np.ndarray, shape: tuple[int, int], aspect: float) -> None:
    """Draws classes of any size in their colours over an image of `shape`; 255 is not drawn."""
    colors = np.array([to_rgba(CLASS_COLORS[c % len(CLASS_COLORS)], 0.55) for c in range(256)])
    colors[[0, 255], 3] = 0.25, 0
    extent = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)
    axis.imshow(colors[labels], extent=extent, aspect=aspect, interpolation="nearest")


def _probability(axis: Axes, probability: np.ndarray, aspect: float) -> None:
    axis.imshow(probability, cmap="magma", vmin=0, vmax=1, aspect=aspect, interpolation="nearest")


def _probability_bar(axis: Axes, label: str) -> None:
    """Adds a colour bar at the right of a panel."""
    figure, box = axis.figure, axis.get_position()
    assert isinstance(figure, Figure), "panels belong to a figure, not to a subfigure"
    width = figure.get_figwidth()
    bar_axis = figure.add_axes((box.x1 + 0.1 / width, box.y0, 0.1 / width, box.height))
    bar = figure.colorbar(axis.images[0], cax=bar_axis, ticks=(0, 0.5, 1))
    bar.set_label(label, color=TEXT, fontsize=9)
    bar.ax.tick_params(colors=TEXT, labelsize=8)
    bar.outline.set_visible(False)
