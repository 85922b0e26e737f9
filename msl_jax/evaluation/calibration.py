"""Calibration of a branch, voxel by voxel: expected calibration error, reliability curve and entropy.

The confidence of a voxel is the probability of its most probable class. A branch is calibrated if it labels 80 % of the
voxels with a confidence of 0.8 correctly, and over-confident if it labels fewer correctly. With B_m the voxels whose
confidence is in the m-th of 15 equal bins of [0, 1], n their number over all bins, and accuracy and confidence their
means over a bin,

    ECE = sum_m |B_m| / n * |accuracy(B_m) - confidence(B_m)|

(Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, ICML 2017, equations 2 and 3). There are
three regions, each a subset of the one before:

- "all": all voxels. Nearly all are background far from any structure, which every branch labels correctly with a
  confidence near 1, so this error is always small.
- "structure": the voxels that are structure in the reference or in the prediction. They include every wrong voxel, but
  no correctly labelled background. So even in a calibrated branch the accuracy is below the confidence, the more so the
  higher its entropy: of two classes at 0.5, a third of these voxels is correct, not a half. This error cannot rank
  branches that differ in entropy.
- "predicted": the voxels that the branch labels as a structure. They do not depend on the reference, so the error of a
  branch that is calibrated given its label is 0 (Gupta and Ramdas, Top-label calibration and multiclass-to-binary
  reductions, ICLR 2022). It does not cover missed structure.

Voxels of all cases are pooled: `measure` each case or part of one, `total` the sums, `summarise` the total.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from msl_jax.system import text

BINS = 15
EDGES = np.linspace(0, 1, BINS + 1, dtype=np.float32)
"""A bin includes its upper edge; the first one includes its lower edge, too."""
REGIONS = ("all", "structure", "predicted")


class Sums(NamedTuple):
    """The sums of `measure`; they add up over cases and slices, field by field.

    The rows of an array (3, BINS) are the voxels that are background in reference and prediction, missed structure, and
    voxels labelled as a structure: a region of REGIONS is its row and the rows below. The columns are the bins.

    Attributes:
        voxels: number of voxels, int (3, BINS).
        correct: number of correctly labelled voxels, int (3, BINS).
        confidence: sum of the confidence, float64 (3, BINS).
        wrong_confidence: sum of the confidence over wrongly labelled voxels, float64 scalar.
        reference: number of voxels of the reference's background and foreground, int (2,).
        entropy: sum of the Shannon entropy in nats over each of these, float64 (2,).
    """

    voxels: np.ndarray
    correct: np.ndarray
    confidence: np.ndarray
    wrong_confidence: np.float64
    reference: np.ndarray
    entropy: np.ndarray


def measure(probabilities: np.ndarray, classes: np.ndarray) -> Sums:
    """The sums of one case, or of some of its slices, which may have no labelled voxel.

    Args:
        probabilities: float32 (..., classes), background first, that sum to 1 in each voxel.
        classes: the reference's class of each voxel, int (...), from 0 (background) to classes - 1.

    Raises:
        ValueError: the shapes do not match, a voxel's probabilities are not a distribution, or a class is out of range.
    """
    _check(probabilities, classes)
    prediction = probabilities.argmax(-1)
    confidence = probabilities.max(-1)
    correct = prediction == classes
    foreground = (classes > 0).ravel()
    row = np.where(prediction > 0, 2, classes > 0)
    cell = (row * BINS + np.digitize(confidence, EDGES[1:-1], right=True)).ravel()

    def by_cell(weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(cell, weights, minlength=len(REGIONS) * BINS).reshape(-1, BINS)

    return Sums(
        voxels=by_cell(),
        correct=by_cell(correct.ravel()).astype(np.int64),
        confidence=by_cell(confidence.ravel()),
        wrong_confidence=confidence[~correct].sum(dtype=np.float64),
        reference=np.bincount(foreground, minlength=2),
        entropy=np.bincount(foreground, _entropy(probabilities).ravel(), minlength=2),
    )


def total(parts: Iterable[Sums]) -> Sums:
    """The sums of one or more parts together."""
    return Sums._make(sum(field) for field in zip(*parts, strict=True))


def summarise(sums: Sums) -> dict[str, Any]:
    """Calibration of a branch, for JSON.

    Returns:
        "ece", "ece_structure", "ece_predicted": the expected calibration error in [0, 1] over each of REGIONS.
        "entropy": {"foreground", "background"}: the mean Shannon entropy in nats over these voxels of the reference,
        from 0 (certain) to log(classes).
        "confidence_where_wrong": the mean confidence over wrongly labelled voxels.
        "reliability": region -> {"count", "confidence", "accuracy"}, each a list with a value per bin: the number of
        voxels, their mean confidence, and the share of correct ones.
        A mean over no voxels is None.
    """
    regions = {
        name: [field[first:].sum(0) for field in (sums.voxels, sums.correct, sums.confidence)]
        for first, name in enumerate(REGIONS)
    }
    background, foreground = map(_mean, sums.entropy, sums.reference)
    return {
        "ece": _ece(*regions["all"]),
        "ece_structure": _ece(*regions["structure"]),
        "ece_predicted": _ece(*regions["predicted"]),
        "entropy": {"foreground": foreground, "background": background},
        "confidence_where_wrong": _mean(sums.wrong_confidence, np.sum(sums.voxels - sums.correct)),
        "reliability": {name: _curve(*fields) for name, fields in regions.items()},
    }


HEADER = (
    *("branch", "temperature", "ECE %", "ECE on predicted structure %", "confidence where wrong %"),
    *("entropy on foreground", "entropy on background"),
)
NOTE = (
    f"ECE is the expected calibration error with {BINS} bins, over all voxels of all cases and over those that the "
    "branch labels as a structure; entropy is the mean in nats over the reference's foreground and background. At a "
    "temperature other than 1, probabilities are scaled as predict --calibrated does."
)


def table(results: Mapping[str, Any]) -> list[list[str]]:
    """Rows under HEADER: each branch of test.json without and, where it was measured, with its temperature."""
    rows = []
    for branch, summary in results["calibration"].items():
        for measured in (summary, summary.get("scaled")):
            if measured:
                cells = [_cell(measured.get("temperature", 1.0), 1, 2), _cell(measured["ece"], 100, 2)]
                cells += [_cell(measured["ece_predicted"], 100, 2), _cell(measured["confidence_where_wrong"], 100, 1)]
                cells += [_cell(measured["entropy"][key], 1, 3) for key in ("foreground", "background")]
                rows.append([branch, *cells])
    return rows


def markdown(results: Mapping[str, Any]) -> str:
    """`table` with a note; ECE and confidence in percent, entropy in nats."""
    return f"{text.markdown(list(HEADER), table(results))}\n\n{NOTE}"


def _check(probabilities: np.ndarray, classes: np.ndarray) -> None:
    if probabilities.shape[:-1] != classes.shape:
        raise ValueError(
            "probabilities must be (..., classes) and the reference's classes (...) of the same voxels, not "
            f"{probabilities.shape} and {classes.shape}"
        )
    if not classes.size:
        return
    if not (np.abs(probabilities.sum(-1) - 1).max() < 1e-3 and probabilities.min() >= 0):
        raise ValueError("probabilities must be finite, not negative, and sum to 1 in each voxel")
    low, high, last = classes.min(), classes.max(), probabilities.shape[-1] - 1
    if low < 0 or high > last:
        raise ValueError(f"the reference's classes must be from 0 to {last}, not from {low} to {high}")


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """-sum_c p_c log p_c of each voxel in nats, with p log p = 0 at p = 0."""
    smallest = np.finfo(probabilities.dtype).tiny
    return -(probabilities * np.log(probabilities.clip(smallest, 1))).sum(-1)


def _ece(voxels: np.ndarray, correct: np.ndarray, confidence: np.ndarray) -> float | None:
    """The module's formula; |B_m| times a mean over B_m is the sum over B_m."""
    return _mean(np.abs(correct - confidence).sum(), voxels.sum())


def _curve(voxels: np.ndarray, correct: np.ndarray, confidence: np.ndarray) -> dict[str, list]:
    return {
        "count": voxels.tolist(),
        "confidence": list(map(_mean, confidence, voxels)),
        "accuracy": list(map(_mean, correct, voxels)),
    }


def _mean(summed: float, count: int) -> float | None:
    return float(summed / count) if count else None


def _cell(value: float | None, scale: float, digits: int) -> str:
    return "-" if value is None else f"{value * scale:.{digits}f}"
