"""Curves and diagrams as matplotlib figures without global state; equal inputs give equal bytes."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter
import numpy as np

from msl_jax.pictures.plots import OUTLINES
from msl_jax.runs.journal import DICE, SKIPPED

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vPX<>*phd"
"""Each method takes the next color and marker; from the eighth method on markers are hollow."""
TEACHER = {"linestyle": "--", "linewidth": 1.0, "marker": ""}
TERM_PANELS = {"kd": "KL, teacher to student", "ent": "Entropy of the student"}
NOT_TERMS = ("step", "learning_rate", SKIPPED)


def _lines(axis: Axes, title: str, rows: Sequence[Mapping[str, float | None]], series: Mapping[str, str]) -> None:
    for key, label in series.items():
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            axis.plot(*zip(*points, strict=True), linewidth=1.3, marker=".", markersize=3, label=label)
    style = {"ncols": 5, "frameon": False, "fontsize": 9, "handlelength": 1.5, "columnspacing": 1.2}
    axis.legend(handles=axis.lines, loc="upper center", bbox_to_anchor=(0.5, -0.16), **style)
    _plain(axis, title, "step")


def _plain(axis: Axes, title: str, xlabel: str) -> None:
    axis.set_title(title, fontsize=11)
    axis.set_xlabel(xlabel)
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _logarithmic(axis: Axes) -> None:
    """A log scale with plain numbers, because `plots.png` does not parse math text."""
    axis.set_yscale("log", nonpositive="mask")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def curves(rows: Sequence[Mapping[str, float | None]]) -> Figure:
    """Loss and its terms (log scale), and the validation Dice, against the step.

    Args:
        rows: rows of `metrics.csv`: "step", "learning_rate", "validation_dice_BRANCH"; all other keys are terms.
            Missing keys and None are skipped.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in NOT_TERMS))
    figure = Figure(figsize=(10, 4.2), facecolor="white", layout="constrained")
    losses, dice = figure.subplots(1, 2, sharex=True)
    _logarithmic(losses)
    _lines(losses, "Loss and terms", rows, {key: key for key in keys if not key.startswith(DICE)})
    _lines(dice, "Validation Dice", rows, {key: key.removeprefix(DICE) for key in keys if key.startswith(DICE)})
    dice.set_ylim(0, 1)
    return figure


def reliability(calibration: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Reliability diagrams: accuracy against confidence, and below it the share of voxels in each bin (log scale).

    On the diagonal a branch is calibrated, below it over-confident. Empty bins have no point.

    Args:
        calibration: branch ("teacher", "student") -> the result of `calibration.summarise`.

    Returns:
        A panel per branch: voxels labelled as a structure in the branch's colour, all voxels in grey.
    """
    figure = Figure(figsize=(0.8 + 4.2 * len(calibration), 6), facecolor="white", layout="constrained")
    axes = figure.subplots(2, len(calibration), squeeze=False, sharex=True, sharey="row", height_ratios=(3, 1))
    for (branch, summary), (diagram, shares) in zip(calibration.items(), axes.T, strict=True):
        _reliability_panel(diagram, shares, branch, summary)
    points = [line.get_xydata() for diagram in axes[0] for line in diagram.lines]
    low = min(math.floor(10 * np.nanmin(points)), 9) / 10
    for diagram in axes[0]:
        diagram.plot((low, 1), (low, 1), color="#aaaaaa", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes[0, 0].set(xlim=(low, 1), ylim=(low, 1), ylabel="accuracy")
    _logarithmic(axes[1, 0])
    axes[1, 0].set(ylim=(None, 1), ylabel="share of voxels")
    return figure


def _reliability_panel(diagram: Axes, shares: Axes, branch: str, summary: Mapping[str, Any]) -> None:
    curves_of = summary["reliability"]
    for curve, name, error, color in (
        (curves_of["all"], "all voxels", summary["ece"], "#5f6670"),
        (curves_of["predicted"], "labelled as structure", summary["ece_predicted"], OUTLINES[branch]),
    ):
        count, confidence, accuracy = (np.array(curve[key], float) for key in ("count", "confidence", "accuracy"))
        style: dict[str, Any] = {"color": color, "linewidth": 1.5, "marker": "o", "markersize": 4, "clip_on": False}
        diagram.plot(confidence, accuracy, label=f"{name}: ECE {_number(error, 100, 2, ' %')}", **style)
        shares.plot(confidence, count / max(count.sum(), 1), **style)
    entropy = {name: _number(value, 1, 3) for name, value in summary["entropy"].items()}
    diagram.set_title(
        f"{branch}\nentropy, nats: {entropy['foreground']} on foreground\n{entropy['background']} on background",
        fontsize=11,
    )
    diagram.legend(loc="upper left", frameon=False, fontsize=9)
    text_style: dict[str, Any] = {"transform": diagram.transAxes, "ha": "right", "fontsize": 9, "color": "#777777"}
    diagram.text(0.97, 0.04, "below the diagonal: over-confident", **text_style)
    shares.set_xlabel("confidence")
    for axis in (diagram, shares):
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)


def _number(value: float | None, scale: float, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value * scale:.{digits}f}{unit}"


def gradients(probability: np.ndarray, by_logit: Mapping[str, np.ndarray]) -> Figure:
    """Gradient of terms by the logit of a two-class pixel against its probability, as in arXiv 2109.10902.

    Args:
        probability: probability of one class, increasing.
        by_logit: name of a term -> its gradient by that class's logit, at each probability.
    """
    figure = Figure(figsize=(6, 4), facecolor="white", layout="constrained")
    axis = figure.subplots()
    for color, (name, gradient) in zip(COLORS, by_logit.items(), strict=False):
        axis.plot(probability, gradient, color=color, linewidth=1.5, label=name)
    axis.axhline(0, color="#aaaaaa", linewidth=0.8)
    axis.legend(frameon=False, fontsize=9)
    _plain(axis, "Gradient by the logit", "probability")
    return figure


def dice_by_strong(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Dice of every method against the number of strong patients, a panel per structure.

    Args:
      rows: result of comparison.compare: "method", "strong" (a number or "all", None for a method that always uses
        all), "branch", "structure", "dice_mean" and "dice_std" (None for one seed) in [0, 1].

    Returns:
      A line per method for its student or only branch, with the standard deviation over seeds as error bars; dashed for
      the teacher of a student. A method that uses all masks is a horizontal line, its standard deviation a band.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    numbers = sorted({row["strong"] for row in rows if row["strong"]}, key=lambda n: math.inf if n == "all" else n)
    structures = dict.fromkeys(row["structure"] for row in rows)
    lines: dict[tuple[str, str, str], list] = {}
    for row in rows:
        lines.setdefault((row["structure"], row["method"], row["branch"]), []).append(row)
    figure, axes = _charts(len(structures), methods)
    figure.legends[0].set_title("dashed: its teacher")
    panels = dict(zip(structures, axes, strict=True))
    offsets = 0.03 * (np.arange(len(methods)) - (len(methods) - 1) / 2)  # so that error bars do not overlap
    for (structure, method, branch), line in lines.items():
        axis, index = panels[structure], methods.index(method)
        has_student = branch == "teacher" and (structure, method, "student") in lines
        style = _style(index) | (TEACHER if has_student else {})
        mean = np.array([100 * row["dice_mean"] for row in line])
        spread = np.array([100 * (row["dice_std"] or 0) for row in line])
        if line[0]["strong"] is None:
            axis.axhline(mean[0], **style | {"marker": ""})
            axis.axhspan(mean[0] - spread[0], mean[0] + spread[0], color=style["color"], alpha=0.12, linewidth=0)
        else:
            x = [numbers.index(row["strong"]) + offsets[index] for row in line]
            axis.errorbar(x, mean, None if has_student else spread, capsize=2, elinewidth=1, **style)
    for structure, axis in panels.items():
        axis.set_xticks(range(len(numbers)), numbers)
        axis.set_xlim(-0.5, len(numbers) - 0.5)
        _plain(axis, structure, "patients with full masks")
    axes[0].set_ylabel("Dice %")
    return figure


def terms(reports: Mapping[str, Sequence[Sequence[Mapping[str, float | None]]]]) -> Figure:
    """The KL and entropy terms (log scale) and the validation Dice of every method against the step.

    Args:
      reports: method -> one item per seed -> rows of `metrics.csv`, as in `curves`.

    Returns:
      A line per method, the mean over the seeds that have a report at a step. A method has lines only for its terms; a
      term without any line has no panel. Dice is that of the student, or of the only branch.
    """
    keys = {key for runs in reports.values() for rows in runs for row in rows for key in row}
    panels = {key: title for key, title in TERM_PANELS.items() if key in keys}
    figure, axes = _charts(len(panels) + 1, list(reports))
    for index, runs in enumerate(reports.values()):
        for axis, key in zip(axes, panels, strict=False):
            axis.plot(*_mean_by_step(runs, key), **_style(index), markevery=0.1)
        dice = [_mean_by_step(runs, DICE + branch) for branch in ("student", "teacher")]
        axes[-1].plot(*(dice[0] if dice[0][0] else dice[1]), **_style(index), markevery=0.1)
    for axis, title in zip(axes, panels.values(), strict=False):
        _logarithmic(axis)
        _plain(axis, title, "step")
    axes[-1].set_ylim(0, 1)
    _plain(axes[-1], "Validation Dice", "step")
    return figure


def _mean_by_step(runs: Sequence[Sequence[Mapping]], key: str) -> tuple[list[float], list[float]]:
    values: dict[float, list[float]] = {}
    for row in (row for rows in runs for row in rows):
        if row.get(key) is not None:
            values.setdefault(row["step"], []).append(row[key])
    steps = sorted(values)
    return steps, [float(np.mean(values[step])) for step in steps]


def _style(index: int) -> dict[str, Any]:
    color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
    fill = color if index < len(COLORS) else "white"
    return {"color": color, "marker": marker, "markerfacecolor": fill, "markersize": 4.5, "linewidth": 1.4}


def _charts(panels: int, methods: Sequence[str]) -> tuple[Figure, np.ndarray]:
    """A white figure with panels in a row and a legend of the methods at the right."""
    figure = Figure(figsize=(4.4 * panels + 1.8, 4.2), facecolor="white", layout="constrained")
    handles = [Line2D([], [], **_style(index), label=method) for index, method in enumerate(methods)]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9, title_fontsize=8)
    return figure, figure.subplots(1, panels, squeeze=False)[0]
