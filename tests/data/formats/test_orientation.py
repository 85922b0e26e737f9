"""Reorientation, compared with nibabel's and with values by hand."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
import nibabel as nib
from nibabel.orientations import axcodes2ornt, ornt_transform
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from msl_jax.data.formats import orientation
from msl_jax.data.formats.orientation import Turn

LPS = orientation.directions_of(np.diag([-1.0, -1.0, 1.0, 1.0]))
CODES = ["".join(code) for axes in itertools.permutations(("LR", "PA", "IS")) for code in itertools.product(*axes)]
turns = st.builds(
    Turn,
    st.permutations(range(3)).map(tuple),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)


def rotated(degrees, axis):
    """LPS rotated about an axis of the world."""
    vector = np.zeros(3)
    vector[axis] = np.radians(degrees)
    return LPS @ Rotation.from_rotvec(vector).as_matrix().T


@given(turns, st.integers(3, 4))
def test_undo_is_the_inverse(turn, axes):
    volume = np.arange(2 * 3 * 4 * 5).reshape(*(2, 3, 4, 5)[: axes - 1], -1)
    np.testing.assert_array_equal(turn.undo(turn.apply(volume)), volume)
    assert turn.apply(volume).shape[:3] == turn.spacing(volume.shape)


@pytest.mark.parametrize("stored", CODES)
def test_every_orientation_is_brought_to_lps_as_by_nibabel(stored):
    voxels = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    lps = nib.Nifti1Image(voxels, np.diag([-1.5, -1.2, 5.0, 1.0]), dtype=np.int64)
    change = ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(stored))
    other = lps.as_reoriented(change)
    directions = orientation.directions_of(other.affine)
    assert orientation.codes(directions) == stored
    turn, angle = orientation.nearest(directions, LPS)
    np.testing.assert_array_equal(turn.apply(np.asarray(other.dataobj).T), voxels.T)
    np.testing.assert_allclose(turn.directions(directions), LPS, atol=1e-12)
    np.testing.assert_allclose(turn.affine(other.affine, other.shape[::-1]), lps.affine, atol=1e-12)
    assert turn.spacing(other.header.get_zooms()[::-1]) == pytest.approx((5.0, 1.2, 1.5))
    assert angle == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("degrees", [-40, -15, 7, 30, 44])
def test_less_than_45_degrees_is_not_reoriented(axis, degrees):
    turn, angle = orientation.nearest(rotated(degrees, axis), LPS)
    assert turn == Turn() and angle == pytest.approx(abs(degrees))


@pytest.mark.parametrize(("degrees", "remaining"), [(50, 40), (90, 0), (135.5, 44.5), (180, 0), (200, 20)])
def test_more_than_45_degrees_is_reoriented_and_the_remaining_angle_returned(degrees, remaining):
    directions = rotated(degrees, 2)
    turn, angle = orientation.nearest(directions, LPS)
    assert turn != Turn() and angle == pytest.approx(remaining, abs=1e-4)
    assert np.degrees(np.arccos(np.diag(turn.directions(directions) @ LPS.T).clip(-1, 1))).max() == pytest.approx(
        remaining, abs=1e-4
    )


def test_oblique_stacks_with_different_codes_can_be_similar():
    """Short-axis stacks of two hearts, 15 degrees apart, on either side of a change of codes."""
    first, second = rotated(38, 1), rotated(53, 1)
    assert orientation.codes(first) != orientation.codes(second)
    turn, angle = orientation.nearest(second, first)
    assert turn == Turn() and angle == pytest.approx(15)


def test_the_commonest_is_the_first_of_the_largest_group():
    ras, near = orientation.directions_of(np.eye(4)), rotated(10, 1)
    assert orientation.commonest([]) is None
    np.testing.assert_array_equal(orientation.commonest([ras, near, LPS]), near)
    np.testing.assert_array_equal(orientation.commonest([ras, near]), ras)


@pytest.mark.parametrize("axis", range(3))
def test_slices_are_perpendicular_to_an_axis_of_the_file(axis):
    file = np.arange(24).reshape(2, 3, 4)
    turn = orientation.turn_across(axis)
    np.testing.assert_array_equal(turn.apply(file.T)[1].ravel(), np.take(file, 1, axis).T.ravel())
    assert turn.spacing(("z", "y", "x")) == ("zyx"[2 - axis], *"zyx".replace("zyx"[2 - axis], ""))
