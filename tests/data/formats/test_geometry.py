import numpy as np
import pytest

from files import refused
from msl_jax.data.formats import geometry

SIZES = (1.5, 2.0, 5.0)
PLAIN = np.diag([*SIZES, 1])
PATH = "folder/a.nii"


def slanted(degrees):
    """The second axis leans towards the first; sizes are the same."""
    affine = PLAIN.copy()
    affine[:2, 1] = 2 * np.sin(np.radians(degrees)), 2 * np.cos(np.radians(degrees))
    return affine


def check(affine, sizes=SIZES):
    return geometry.check(PATH, affine, sizes, ("pixdim", "sform"))


def test_a_plain_affine_is_passed_without_a_word():
    assert check(PLAIN) == check(PLAIN * 1.0009) == check(slanted(0.9)) == check(slanted(-0.9)) == ()


@pytest.mark.parametrize("degrees", [1.1, -5, 30])
def test_axes_off_perpendicular_are_remarked_on(degrees):
    (remark,) = check(slanted(degrees))
    assert remark.startswith(f"{PATH}: its axes are {abs(degrees):.1f} degrees off perpendicular")


def test_sizes_that_contradict_each_other_are_refused():
    says = r"voxels are of \(1.5, 2, 5.01\) mm by its pixdim and of \(1.5, 2, 5\) mm by its sform; correct the one"
    refused(lambda: check(PLAIN, (1.5, 2, 5.01)), says, PATH)


@pytest.mark.parametrize("column", [(0, 0, 0), (1.5, 0, 0), (-3, 1e-4, 0)])
def test_a_singular_affine_is_refused(column):
    affine = PLAIN.copy()
    affine[:3, 1] = column
    refused(lambda: check(affine), "its sform is singular", PATH)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(value):
    affine = PLAIN.copy()
    affine[0, 3] = value
    refused(lambda: check(affine), "NaN or infinite", PATH)


SHAPE = (10, 20, 4)
FAR = {
    "nothing": (np.eye(4), 0),
    "half a voxel along y": (np.array([[1, 0, 0, 0], [0, 1, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 1]]), 0.5),
    "a tenth larger along y": (np.diag([1, 1.1, 1, 1]), 1.95),  # 0.1 of 19.5, the last voxel's end
    "turned about z": (np.diag([-1, -1, 1, 1]), 39),  # 19.5 to -19.5
}


@pytest.mark.parametrize("case", FAR)
@pytest.mark.parametrize("scale", [1, 1e-3, 1e3])
def test_grids_are_apart_by_where_their_corners_fall(case, scale):
    """In voxels, whatever their size: `moves` is in voxels of the first grid."""
    moves, expected = FAR[case]
    affine = np.diag([scale, scale, scale, 1]) @ slanted(20)
    assert geometry.apart(affine, affine @ moves, SHAPE) == pytest.approx(expected, abs=1e-9)


def test_a_part_of_a_grid_is_found_in_it():
    affine = slanted(20)
    affine[:3, 3] = 90.5, -120, 7
    part = geometry.moved(affine, np.array([3, -2, 1]))
    np.testing.assert_allclose(part[:3, 3], affine[:3, :3] @ (3, -2, 1) + affine[:3, 3])
    np.testing.assert_array_equal(geometry.first_voxel(affine, part), (3, -2, 1))
    np.testing.assert_allclose(geometry.moved(part, np.array([-3, 2, -1])), affine)
