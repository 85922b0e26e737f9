import numpy as np
import pytest

from files import assert_input_error
from msl_jax.data.formats import geometry

SIZES = (1.5, 2.0, 5.0)
PLAIN = np.diag([*SIZES, 1])
PATH = "folder/a.nii"


def sheared(degrees):
    """The second axis rotated towards the first, with the same voxel sizes."""
    affine = PLAIN.copy()
    affine[:2, 1] = 2 * np.sin(np.radians(degrees)), 2 * np.cos(np.radians(degrees))
    return affine


def check(affine, sizes=SIZES):
    return geometry.check(PATH, affine, sizes, ("pixdim", "sform"))


def test_a_perpendicular_affine_has_no_remarks():
    assert check(PLAIN) == check(PLAIN * 1.0009) == check(sheared(0.9)) == check(sheared(-0.9)) == ()


@pytest.mark.parametrize("degrees", [1.1, -5, 30])
def test_sheared_axes_give_a_remark(degrees):
    (remark,) = check(sheared(degrees))
    assert remark.startswith(f"{PATH}: its axes are {abs(degrees):.1f} degrees off perpendicular")


def test_contradicting_voxel_sizes_are_errors():
    message = (
        r"the voxel size is \(1.5, 2, 5.01\) mm in its pixdim, but \(1.5, 2, 5\) mm in its sform; correct the wrong"
    )
    assert_input_error(lambda: check(PLAIN, (1.5, 2, 5.01)), message, PATH)


@pytest.mark.parametrize("column", [(0, 0, 0), (1.5, 0, 0), (-3, 1e-4, 0)])
def test_a_singular_affine_is_an_error(column):
    affine = PLAIN.copy()
    affine[:3, 1] = column
    assert_input_error(lambda: check(affine), "its sform is singular", PATH)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_errors(value):
    affine = PLAIN.copy()
    affine[0, 3] = value
    assert_input_error(lambda: check(affine), "NaN or infinite", PATH)


SHAPE = (10, 20, 4)
DISTANCES = {
    "nothing": (np.eye(4), 0),
    "half a voxel along y": (np.array([[1, 0, 0, 0], [0, 1, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 1]]), 0.5),
    "a tenth larger along y": (np.diag([1, 1.1, 1, 1]), 1.95),  # 0.1 of 19.5, the last voxel's end
    "rotated about z": (np.diag([-1, -1, 1, 1]), 39),  # 19.5 to -19.5
}


@pytest.mark.parametrize("case", DISTANCES)
@pytest.mark.parametrize("scale", [1, 1e-3, 1e3])
def test_corner_distances_are_closed_forms(case, scale):
    """In voxels of any size; `moves` is in voxels of the first grid."""
    moves, expected = DISTANCES[case]
    affine = np.diag([scale, scale, scale, 1]) @ sheared(20)
    assert geometry.corner_distance(affine, affine @ moves, SHAPE) == pytest.approx(expected, abs=1e-9)


def test_the_origin_of_a_subgrid_is_found():
    affine = sheared(20)
    affine[:3, 3] = 90.5, -120, 7
    part = geometry.with_origin_at(affine, np.array([3, -2, 1]))
    np.testing.assert_allclose(part[:3, 3], affine[:3, :3] @ (3, -2, 1) + affine[:3, 3])
    np.testing.assert_array_equal(geometry.first_voxel(affine, part), (3, -2, 1))
    np.testing.assert_allclose(geometry.with_origin_at(part, np.array([-3, 2, -1])), affine)
