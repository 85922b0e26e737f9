"""Every picture and curve, as matplotlib figures without global state; equal inputs give equal bytes.

Volumes are (slice, y, x) and slices (y, x), drawn with y downwards. Only `save` writes.
"""

from collections.abc import Mapping, Sequence
import io
import math
from typing import Any

from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
import numpy as np

MAX_SLICES = 6
PANEL, GAP, MARGIN = 2.1, 0.06, 0.8  # inches
BACKGROUND, TEXT = "#14161a", "#e8eaed"
# After Okabe and Ito, Color Universal Design (2008): distinct under the common colour blindnesses.
OUTLINES = {"reference": "#f0e442", "teacher": "#56b4e9", "student": "#ff6f2c"}
DICE = "validation_dice_"
NOT_TERMS = ("step", "learning_rate")


def save(figure: Figure, path: epath.PathLike) -> None:
    """Write `figure` to `path` as PNG; a reader finds the whole file or none, whatever interrupts the writing."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150, bbox_inches="tight", pad_inches=0.15, metadata={"Software": None})
    beside = epath.Path(path).parent / f".{epath.Path(path).name}.tmp"
    try:
        beside.write_bytes(png.getvalue())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _panels(rows: int, columns: int, ratio: float, title: str, legend: Sequence) -> tuple[Figure, np.ndarray]:
    """A dark grid of panels of `ratio`, height by width, with a title above and a legend below."""
    inner = columns * (PANEL + GAP) - GAP, rows * (PANEL * ratio + GAP) - GAP
    width, height = (size + 2 * MARGIN for size in inner)
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    left, bottom = MARGIN / width, MARGIN / height
    figure.subplots_adjust(left, bottom, 1 - left, 1 - bottom, wspace=GAP / PANEL, hspace=GAP / (PANEL * ratio))
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


def _shown_slices(structure: np.ndarray) -> np.ndarray:
    """At most MAX_SLICES indices: evenly among the slices that hold structure, else the middle ones."""
    indices = np.flatnonzero(structure.any(axis=(1, 2)))
    if indices.size == 0:
        first = max(0, (len(structure) - MAX_SLICES) // 2)
        return np.arange(len(structure))[first : first + MAX_SLICES]
    return indices[np.round(np.linspace(0, indices.size - 1, min(MAX_SLICES, indices.size))).astype(int)]


def _crop(structure: np.ndarray, spacing: Sequence[float]) -> tuple[slice, ...]:
    """Rows and columns of a window, square in mm, of 1.5 times the structure's longer side; all where it is empty."""
    if not structure.any():
        return slice(None), slice(None)
    boxes = [(int(position.min()), int(position.max()) + 1) for position in np.nonzero(structure)[1:]]
    side = 1.5 * max((stop - start) * step for (start, stop), step in zip(boxes, spacing[1:], strict=True))
    window = []
    for (start, stop), step, length in zip(boxes, spacing[1:], structure.shape[1:], strict=True):
        size = min(length, math.ceil(side / step))
        first = min(max((start + stop - size) // 2, 0), length - size)
        window.append(slice(first, first + size))
    return tuple(window)


def _outline(axis: Axes, labels: np.ndarray, color: str, width: float) -> None:
    """The boundary of every label other than 0 of a label map (y, x), closed where it meets the border."""
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
    """Outlines of reference and predictions on the image, above the probability maps, around the structures.

    Args:
        image: float (slice, y, x).
        reference: label map, int (slice, y, x), 0 the background.
        predictions: branch ("teacher", "student") -> label map, int (slice, y, x).
        probability: foreground probability of the student, or of the only branch, float (slice, y, x) in [0, 1].
        title: the line above the picture.
        spacing: the voxel's size along (slice, y, x).

    Returns:
        One column a slice: at most `MAX_SLICES` of those that hold structure, the middle ones where none does.
    """
    outlines = {"reference": reference, **predictions}
    structure = np.any([labels != 0 for labels in outlines.values()], axis=0)
    window = _crop(structure, spacing)
    image, probability = image[:, *window], probability[:, *window]
    indices, aspect = _shown_slices(structure), spacing[1] / spacing[2]
    legend = [Line2D([], [], color=OUTLINES[name], linewidth=2, label=name) for name in outlines]
    figure, axes = _panels(2, len(indices), aspect * image.shape[1] / image.shape[2], title, legend)
    for index, (upper, lower) in zip(indices, axes.T, strict=True):
        _grey(upper, image[index], aspect)
        upper.set_title(f"slice {index + 1} of {len(image)}", color=TEXT, fontsize=9, pad=4)
        for name, labels in outlines.items():
            _outline(upper, labels[index][window], OUTLINES[name], 1.8 if name == "reference" else 1.1)
        shown = lower.imshow(probability[index], cmap="magma", vmin=0, vmax=1, aspect=aspect, interpolation="nearest")
        _outline(lower, reference[index][window], OUTLINES["reference"], 0.8)
    box, width = axes[1, -1].get_position(), figure.get_figwidth()
    place = figure.add_axes((box.x1 + 0.1 / width, box.y0, 0.1 / width, box.height))
    bar = figure.colorbar(shown, cax=place, ticks=(0, 0.5, 1))
    bar.set_label(f"{'student' if 'student' in predictions else 'teacher'} probability", color=TEXT, fontsize=9)
    bar.ax.tick_params(colors=TEXT, labelsize=8)
    bar.outline.set_visible(False)
    return figure


def _lines(axis: Axes, title: str, rows: Sequence[Mapping[str, float | None]], series: Mapping[str, str]) -> None:
    for key, label in series.items():
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            axis.plot(*zip(*points, strict=True), linewidth=1.3, marker=".", markersize=3, label=label)
    style = {"ncols": 5, "frameon": False, "fontsize": 9, "handlelength": 1.5, "columnspacing": 1.2}
    axis.legend(handles=axis.lines, loc="upper center", bbox_to_anchor=(0.5, -0.16), **style)
    axis.set_title(title, fontsize=11)
    axis.set_xlabel("step")
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def curves(rows: Sequence[Mapping[str, float | None]]) -> Figure:
    """Loss and its terms (log scale), and the validation Dice, against the step.

    Args:
        rows: of `metrics.csv`, one a report: "step", "learning_rate", "validation_dice_BRANCH", and whatever else
            there is is a term; what is missing or None is skipped.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in NOT_TERMS))
    figure = Figure(figsize=(10, 4.2), facecolor="white", layout="constrained")
    losses, dice = figure.subplots(1, 2, sharex=True)
    losses.set_yscale("log", nonpositive="mask")
    _lines(losses, "Loss and terms", rows, {key: key for key in keys if not key.startswith(DICE)})
    _lines(dice, "Validation Dice", rows, {key: key.removeprefix(DICE) for key in keys if key.startswith(DICE)})
    dice.set_ylim(0, 1)
    return figure


def reliability(calibration: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Reliability diagrams: accuracy against confidence, and below it the share of the voxels in each bin (log scale).

    On the diagonal a branch is calibrated, below it over-confident. An empty bin has no point.

    Args:
        calibration: branch ("teacher", "student") -> what `calibration.summarise` returned.

    Returns:
        A panel a branch: the voxels that it labels as a structure in its own colour, all voxels in grey.
    """
    figure = Figure(figsize=(0.8 + 4.2 * len(calibration), 6), facecolor="white", layout="constrained")
    rows = {"squeeze": False, "sharex": True, "sharey": "row", "height_ratios": (3, 1)}
    axes = figure.subplots(2, len(calibration), **rows)
    for (branch, summary), (diagram, shares) in zip(calibration.items(), axes.T, strict=True):
        _reliability_panel(diagram, shares, branch, summary)
    points = [line.get_xydata() for diagram in axes[0] for line in diagram.lines]
    low = min(math.floor(10 * np.nanmin(points)), 9) / 10
    for diagram in axes[0]:
        diagram.plot((low, 1), (low, 1), color="#aaaaaa", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes[0, 0].set(xlim=(low, 1), ylim=(low, 1), ylabel="accuracy")
    axes[1, 0].set(yscale="log", ylim=(None, 1), ylabel="share of voxels")
    return figure


def _reliability_panel(diagram: Axes, shares: Axes, branch: str, summary: Mapping[str, Any]) -> None:
    curves_of = summary["reliability"]
    for curve, name, error, color in (
        (curves_of["all"], "all voxels", summary["ece"], "#5f6670"),
        (curves_of["predicted"], "labelled as structure", summary["ece_predicted"], OUTLINES[branch]),
    ):
        count, confidence, accuracy = (np.array(curve[key], float) for key in ("count", "confidence", "accuracy"))
        style = {"color": color, "linewidth": 1.5, "marker": "o", "markersize": 4, "clip_on": False}
        diagram.plot(confidence, accuracy, label=f"{name}: ECE {_number(error, 100, 2, ' %')}", **style)
        shares.plot(confidence, count / max(count.sum(), 1), **style)
    entropy = {name: _number(value, 1, 3) for name, value in summary["entropy"].items()}
    diagram.set_title(
        f"{branch}\nentropy: foreground {entropy['foreground']}, background {entropy['background']} nats", fontsize=11
    )
    diagram.legend(loc="upper left", frameon=False, fontsize=9)
    place = {"transform": diagram.transAxes, "ha": "right", "fontsize": 9, "color": "#777777"}
    diagram.text(0.97, 0.04, "below the diagonal: over-confident", **place)
    shares.set_xlabel("confidence")
    for axis in (diagram, shares):
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)


def _number(value: float | None, scale: float, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value * scale:.{digits}f}{unit}"
