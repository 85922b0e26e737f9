"""Dice, HD95 and ASSD of one structure of one case, in 3-D, and their summary over cases.

Masks are boolean volumes (slice, y, x), spacing is (slice, y, x); distances have the unit of the spacing, usually mm.

An empty mask has no surface, so the distances are undefined (NaN) if either mask is empty:

- only one mask empty (a missed structure or a false positive): Dice 0, distances undefined;
- both empty: Dice 1, distances undefined.

A case without distances counts in the mean Dice, is left out of the mean distances, and is counted in `empty`.

The surface of a mask is its voxels with at least one of their six neighbours outside the mask. Outside the volume is
outside the mask, so a mask that touches the border has surface there, and a single voxel is its own surface. The
distances from each surface's voxels to the nearest voxel of the other surface are pooled over both directions: HD95 is
the 95th percentile of the pool (linear interpolation) and ASSD its mean, as in `medpy.metric.binary`. Other packages
give other values: MONAI takes the larger of the two directed percentiles, and DeepMind's surface-distance also weights
every surface element by its area. The tests compare all three metrics with SimpleITK and with brute force over all
pairs of surface voxels.
"""

from collections.abc import Sequence

from medpy.metric import binary
import numpy as np

METRICS = ("dice", "hd95", "assd")


def _check_masks(prediction: np.ndarray, reference: np.ndarray) -> None:
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise ValueError(
            f"prediction and reference must be volumes of one shape, not {prediction.shape} and {reference.shape}"
        )
    if prediction.dtype != np.bool_ or reference.dtype != np.bool_:
        raise ValueError(f"prediction and reference must be boolean, not {prediction.dtype} and {reference.dtype}")


def _joint_box(prediction: np.ndarray, reference: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around both masks, of which at least one is not empty."""
    indices = np.nonzero(prediction | reference)
    return tuple(slice(axis.min(), axis.max() + 1) for axis in indices)


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice coefficient, 2 |P & R| / (|P| + |R|).

    Reference: Dice, Measures of the amount of ecologic association between species, Ecology 26(3), 1945.

    Args:
        prediction: boolean (slice, y, x).
        reference: boolean (slice, y, x).

    Returns:
        The coefficient in [0, 1]; 1 if both masks are empty.

    Raises:
        ValueError: the masks are not boolean volumes of one shape.

    >>> dice(np.array([[[True, True, False]]]), np.array([[[False, True, False]]]))
    0.6666666666666666
    """
    _check_masks(prediction, reference)
    if not (prediction.any() or reference.any()):
        return 1.0  # medpy 0.5 divides by zero here and returns NaN
    return float(binary.dc(prediction, reference))


def case_metrics(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Dice, 95 % Hausdorff distance and average symmetric surface distance of one structure of one case.

    With S(M) the surface of mask M and D the pool of min_{r in S(R)} |p - r| for each p in S(P) and of
    min_{p in S(P)} |r - p| for each r in S(R):

        dice = 2 |P & R| / (|P| + |R|),   hd95 = percentile(D, 95),   assd = mean(D)

    References: Huttenlocher et al., Comparing images using the Hausdorff distance, PAMI 15(9), 1993; Heimann et al.,
    Comparison and evaluation of methods for liver segmentation from CT datasets, TMI 28(8), 2009.

    Args:
        prediction: boolean (slice, y, x).
        reference: boolean (slice, y, x).
        spacing: voxel size along (slice, y, x), usually in mm.

    Returns:
        `{"dice": .., "hd95": .., "assd": ..}`, Dice in [0, 1] and the distances in the unit of `spacing`; the distances
        are NaN if either mask is empty.

    Raises:
        ValueError: the masks are not boolean volumes of one shape, or `spacing` is not three positive numbers.
    """
    overlap = dice(prediction, reference)
    sizes = np.asarray(spacing, dtype=np.float64)
    if sizes.shape != (3,) or not np.all(np.isfinite(sizes) & (sizes > 0)):
        raise ValueError(f"spacing must be three positive numbers (slice, y, x), not {spacing}")
    if not (prediction.any() and reference.any()):
        return {"dice": overlap, "hd95": float("nan"), "assd": float("nan")}
    # Both masks are empty outside the box: cropping does not change the surfaces and makes the transforms faster.
    box = _joint_box(prediction, reference)
    prediction, reference = prediction[box], reference[box]
    return {
        "dice": overlap,
        "hd95": float(binary.hd95(prediction, reference, voxelspacing=sizes, connectivity=1)),
        "assd": float(binary.assd(prediction, reference, voxelspacing=sizes, connectivity=1)),
    }


def summarise(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float | None] | int]:
    """Mean and standard deviation of each metric of one structure over cases.

    Args:
        rows: results of `case_metrics`, one per case; other keys are ignored.

    Returns:
        `{"dice": {"mean", "std"}, "hd95": {"mean", "std"}, "assd": {"mean", "std"}, "empty": n}`: the population
        standard deviation (ddof = 0); undefined distances are left out, and `empty` counts their cases. Mean and std
        are None, never NaN, if the metric is undefined in all cases.
    """
    summary: dict[str, dict[str, float | None] | int] = {}
    for name in METRICS:
        values = np.array([row[name] for row in rows], dtype=np.float64)
        values = values[~np.isnan(values)]
        defined = values.size > 0
        summary[name] = {
            "mean": float(values.mean()) if defined else None,
            "std": float(values.std()) if defined else None,
        }
    summary["empty"] = sum(bool(np.isnan(row["hd95"])) for row in rows)
    return summary
