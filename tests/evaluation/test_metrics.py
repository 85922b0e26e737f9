import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from medpy.metric import binary
import numpy as np
import pytest
from scipy.spatial.distance import cdist
import SimpleITK as sitk

from msl_jax.evaluation.metrics import case_metrics, dice, summarise

SPACING = (10.0, 1.5, 2.0)


def box(shape, *ranges):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(start, stop) for start, stop in ranges)] = True
    return mask


def blob(generator, shape):
    """A random box with a tenth of all voxels flipped: several parts, holes, and parts at the border."""
    start = [generator.integers(0, size) for size in shape]
    stop = [generator.integers(low, size) + 1 for low, size in zip(start, shape, strict=True)]
    return box(shape, *zip(start, stop, strict=True)) ^ (generator.random(shape) < 0.1)


def surface_points(mask, spacing):
    """Positions of the voxels that have one of their six neighbours outside the mask, voxel by voxel."""
    voxels = {tuple(voxel) for voxel in np.argwhere(mask).tolist()}
    steps = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    surface = [(z, y, x) for z, y, x in voxels if any((z + dz, y + dy, x + dx) not in voxels for dz, dy, dx in steps)]
    return np.array(surface) * np.array(spacing)


def brute_force(prediction, reference, spacing):
    distances = cdist(surface_points(prediction, spacing), surface_points(reference, spacing))
    pool = np.sort(np.concatenate([distances.min(axis=1), distances.min(axis=0)]))
    position = 0.95 * (len(pool) - 1)
    low, high = math.floor(position), math.ceil(position)
    return {
        "dice": 2 * np.sum(prediction * reference) / (prediction.sum() + reference.sum()),
        "hd95": pool[low] + (position - low) * (pool[high] - pool[low]),
        "assd": pool.mean(),
    }


def test_identical_masks_are_perfect():
    mask = box((4, 8, 8), (1, 3), (2, 6), (2, 6))
    assert case_metrics(mask, mask, SPACING) == {"dice": 1.0, "hd95": 0.0, "assd": 0.0}


@pytest.mark.parametrize(
    ("voxel", "distance"),
    [((1, 0, 0), 10.0), ((0, 2, 0), 3.0), ((0, 0, 3), 6.0), ((0, 2, 2), 5.0), ((2, 4, 4), math.sqrt(500))],
)
def test_two_voxels_are_their_distance_in_mm_apart(voxel, distance):
    prediction, reference = np.zeros((2, 3, 5, 5), dtype=bool)
    prediction[0, 0, 0] = True
    reference[voxel] = True
    metrics = case_metrics(prediction, reference, SPACING)
    assert metrics == pytest.approx({"dice": 0.0, "hd95": distance, "assd": distance})


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cubes_shifted_by_one_voxel(axis):
    """3 x 3 x 3 voxels, 26 of them surface, shifted by one voxel, so that 18 of 27 are shared.

    The nine of the face that sticks out are one step away; the centre of the opposite face lies inside the other cube,
    1.5 mm from its surface along y (the shortest step, whichever way the shift); the remaining 16 are shared.
    """
    prediction = box((6, 6, 6), (1, 4), (1, 4), (1, 4))
    metrics = case_metrics(prediction, np.roll(prediction, 1, axis=axis), SPACING)
    step = SPACING[axis]
    assert metrics == pytest.approx({"dice": 18 / 27, "hd95": step, "assd": (9 * step + 1.5) / 26})


@pytest.mark.parametrize("offset", [0, 1], ids=["at the border", "inside"])
def test_flat_squares_shifted_along_x(offset):
    """One slice: every voxel is surface. Three columns of 4 shifted by two: distances 4, 2, 0 each way, in mm."""
    shape = (1 + 2 * offset, 4 + 2 * offset, 5 + 2 * offset)
    z, y = (offset, offset + 1), (offset, offset + 4)
    prediction = box(shape, z, y, (offset, offset + 3))
    reference = box(shape, z, y, (offset + 2, offset + 5))
    metrics = case_metrics(prediction, reference, SPACING)
    assert metrics == pytest.approx({"dice": 1 / 3, "hd95": 4.0, "assd": 2.0})


def test_nested_boxes():
    """A voxel in the middle of 3 x 3 x 3 unit voxels: 6 neighbours at 1, 12 at sqrt 2, 8 at sqrt 3, itself at 1."""
    outer = box((3, 3, 3), (0, 3), (0, 3), (0, 3))
    inner = box((3, 3, 3), (1, 2), (1, 2), (1, 2))
    metrics = case_metrics(inner, outer, (1, 1, 1))
    assd = (6 + 12 * math.sqrt(2) + 8 * math.sqrt(3) + 1) / 27
    assert metrics == pytest.approx({"dice": 2 / 28, "hd95": math.sqrt(3), "assd": assd})


def test_percentile_is_of_both_directions_pooled():
    """A line of 21 voxels against its first: distances 0..20 and one 0, so the 95th percentile of 22 values is 18.95.

    The larger of the two directed percentiles would be 19.
    """
    line, voxel = box((1, 1, 21), (0, 1), (0, 1), (0, 21)), box((1, 1, 21), (0, 1), (0, 1), (0, 1))
    assert case_metrics(line, voxel, (1, 1, 1))["hd95"] == pytest.approx(18.95)
    assert case_metrics(voxel, line, (1, 1, 1))["hd95"] == pytest.approx(18.95)


def test_one_empty_mask_is_dice_0_without_distances():
    empty, mask = np.zeros((2, 4, 4), dtype=bool), box((2, 4, 4), (0, 1), (1, 3), (1, 3))
    for prediction, reference in [(empty, mask), (mask, empty)]:
        metrics = case_metrics(prediction, reference, SPACING)
        assert metrics["dice"] == 0.0
        assert math.isnan(metrics["hd95"]) and math.isnan(metrics["assd"])


def test_both_empty_is_dice_1_without_distances():
    empty = np.zeros((2, 4, 4), dtype=bool)
    metrics = case_metrics(empty, empty, SPACING)
    assert metrics["dice"] == 1.0
    assert math.isnan(metrics["hd95"]) and math.isnan(metrics["assd"])


def itk(prediction, reference, spacing):
    """The same of SimpleITK: contours of the padded masks, and Maurer's distance to those, which is float32."""
    images = [sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8)) for mask in (prediction, reference)]
    for image in images:
        image.SetSpacing(tuple(map(float, spacing))[::-1])
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    contours = [sitk.BinaryContour(image, fullyConnected=False) for image in images]
    far = [
        np.abs(sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(c, squaredDistance=False, useImageSpacing=True)))
        for c in contours
    ]
    on = [sitk.GetArrayFromImage(contour) > 0 for contour in contours]
    pool = np.concatenate([far[1][on[0]], far[0][on[1]]]).astype(float)
    return {"dice": overlap.GetDiceCoefficient(), "hd95": np.percentile(pool, 95), "assd": pool.mean()}


@pytest.mark.parametrize(("other", "tolerance"), [(brute_force, 1e-9), (itk, 1e-5)])
def test_against_others_on_200_random_pairs(other, tolerance):
    """Of 1 to 6 slices, voxels up to 40 times as long as wide, masks that touch the border or lie apart."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        shape = (generator.integers(1, 7), *generator.integers(2, 13, size=2))
        prediction, reference = blob(generator, shape), blob(generator, shape)
        prediction[0, 0, 0] = reference[-1, -1, -1] = True  # so that neither is empty, and both touch the border
        spacing = np.exp(generator.uniform(np.log(0.25), np.log(10), size=3))
        expected = other(prediction, reference, spacing)
        assert case_metrics(prediction, reference, spacing) == pytest.approx(expected, rel=tolerance, abs=tolerance)


EDGES = {
    "one voxel and itself": (box((2, 3, 4), (0, 1), (1, 2), (1, 2)), box((2, 3, 4), (0, 1), (1, 2), (1, 2))),
    "one voxel at a corner and one at the opposite": (
        box((2, 3, 4), (0, 1), (0, 1), (0, 1)),
        box((2, 3, 4), (1, 2), (2, 3), (3, 4)),
    ),
    "one voxel inside a structure": (box((5, 5, 5), (2, 3), (2, 3), (2, 3)), box((5, 5, 5), (0, 5), (0, 5), (0, 5))),
    "one voxel beside a structure": (box((3, 5, 5), (0, 1), (4, 5), (0, 1)), box((3, 5, 5), (0, 3), (0, 4), (0, 5))),
    "the whole volume and itself": (np.ones((3, 4, 5), bool), np.ones((3, 4, 5), bool)),
    "the whole volume and its inside": (np.ones((5, 5, 5), bool), box((5, 5, 5), (1, 4), (1, 4), (1, 4))),
    "a border face and the other": (box((4, 4, 4), (0, 1), (0, 4), (0, 4)), box((4, 4, 4), (3, 4), (0, 4), (0, 4))),
    "a volume of one voxel": (np.ones((1, 1, 1), bool), np.ones((1, 1, 1), bool)),
}


@pytest.mark.parametrize("other", [brute_force, itk])
@pytest.mark.parametrize("edge", EDGES)
def test_against_others_at_the_edges(edge, other):
    prediction, reference = EDGES[edge]
    assert case_metrics(prediction, reference, SPACING) == pytest.approx(
        other(prediction, reference, SPACING), rel=1e-5, abs=1e-5
    )


def test_outside_the_volume_is_outside_the_mask():
    """A full 3 x 3 x 3 volume of unit voxels has 26 surface voxels, as it has in a larger volume."""
    whole, centre = np.ones((3, 3, 3), bool), box((3, 3, 3), (1, 2), (1, 2), (1, 2))
    assert len(surface_points(whole, (1, 1, 1))) == 26
    assert case_metrics(whole, centre, (1, 1, 1)) == case_metrics(np.pad(whole, 2), np.pad(centre, 2), (1, 1, 1))


def test_cropping_changes_nothing():
    generator = np.random.default_rng(1)
    for index in range(20):
        prediction, reference = np.zeros((2, 6, 14, 13), dtype=bool)
        # Every corner in turn, so that every border of the volume is touched.
        corner = tuple(slice(None, 4) if index >> axis & 1 else slice(-4, None) for axis in range(3))
        prediction[corner], reference[corner] = blob(generator, (4, 4, 4)), blob(generator, (4, 4, 4))
        metrics = case_metrics(prediction, reference, SPACING)
        assert metrics["hd95"] == pytest.approx(binary.hd95(prediction, reference, SPACING, 1), rel=1e-12)
        assert metrics["assd"] == pytest.approx(binary.assd(prediction, reference, SPACING, 1), rel=1e-12)
        padded = case_metrics(np.pad(prediction, 3), np.pad(reference, 3), SPACING)
        assert padded == pytest.approx(metrics, rel=1e-12)


SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)
SPACINGS = st.tuples(*[st.floats(0.25, 12)] * 3)


@settings(max_examples=60)
@given(SHAPES.flatmap(lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))), SPACINGS)
def test_symmetry_and_bounds(masks, spacing):
    prediction, reference = masks
    metrics = case_metrics(prediction, reference, spacing)
    assert metrics == pytest.approx(case_metrics(reference, prediction, spacing), nan_ok=True)
    assert metrics["dice"] == dice(prediction, reference)
    assert 0 <= metrics["dice"] <= 1
    if not (prediction.any() and reference.any()):
        assert math.isnan(metrics["hd95"]) and math.isnan(metrics["assd"])
        return
    diagonal = math.dist(np.multiply(prediction.shape, spacing), np.array(spacing))
    assert 0 <= metrics["assd"] <= diagonal + 1e-9
    assert 0 <= metrics["hd95"] <= diagonal + 1e-9
    if np.array_equal(prediction, reference):
        assert metrics == {"dice": 1.0, "hd95": 0.0, "assd": 0.0}


@settings(max_examples=20)
@given(st.floats(0.1, 10))
def test_distances_scale_with_the_spacing(factor):
    prediction, reference = box((3, 6, 6), (0, 2), (1, 4), (0, 3)), box((3, 6, 6), (1, 3), (2, 6), (1, 6))
    metrics = case_metrics(prediction, reference, SPACING)
    scaled = case_metrics(prediction, reference, np.multiply(SPACING, factor))
    expected = {"dice": metrics["dice"], "hd95": factor * metrics["hd95"], "assd": factor * metrics["assd"]}
    assert scaled == pytest.approx(expected)


def test_only_boolean_volumes_of_one_shape_are_accepted():
    mask = np.ones((2, 3, 4), dtype=bool)
    for other in (np.ones((2, 3, 5), dtype=bool), np.ones((1, 3, 4), dtype=bool), mask.astype(np.int32)):
        with pytest.raises(ValueError, match="prediction and reference must be"):
            dice(mask, other)
        with pytest.raises(ValueError, match="prediction and reference must be"):
            case_metrics(mask, other, SPACING)
    with pytest.raises(ValueError, match="volumes"):
        dice(mask[0], mask[0])


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 1, 1), (0, 1, 1), (1, -1, 1), (1, math.nan, 1), (1, 1, math.inf)])
def test_an_invalid_spacing_is_refused(spacing):
    mask = np.ones((2, 3, 4), dtype=bool)
    with pytest.raises(ValueError, match="three positive numbers"):
        case_metrics(mask, mask, spacing)


def test_summary_leaves_undefined_distances_out_and_counts_them():
    rows = [
        {"dice": 0.5, "hd95": 4.0, "assd": 1.0},
        {"dice": 1.0, "hd95": 8.0, "assd": 2.0},
        {"dice": 0.0, "hd95": math.nan, "assd": math.nan},
    ]
    summary = summarise(rows)
    assert summary == {
        "dice": {"mean": pytest.approx(0.5), "std": pytest.approx(math.sqrt(1 / 6))},
        "hd95": {"mean": 6.0, "std": 2.0},
        "assd": {"mean": 1.5, "std": 0.5},
        "empty": 1,
    }


def test_summary_without_any_distance_is_null_and_valid_json():
    undefined = {"mean": None, "std": None}
    summary = summarise([{"dice": 0.0, "hd95": math.nan, "assd": math.nan}] * 2)
    assert summary == {"dice": {"mean": 0.0, "std": 0.0}, "hd95": undefined, "assd": undefined, "empty": 2}
    json.dumps(summary, allow_nan=False)
    assert summarise([]) == {"dice": undefined, "hd95": undefined, "assd": undefined, "empty": 0}
