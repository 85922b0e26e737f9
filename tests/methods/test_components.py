"""The largest components of guesses, against SciPy's components."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from maps import QUICK
from msl_jax.methods.components import largest_components

CLASSES = 3
cleaned = jax.jit(lambda labels: largest_components(labels, CLASSES))


def check(labels):
    """Every structure has one component of the largest size; the rest is background."""
    result = np.asarray(cleaned(jnp.asarray(labels)))
    assert result.shape == labels.shape and result.dtype == np.int32
    for image, kept in zip(labels, result, strict=True):
        assert ((kept == image) | (kept == 0)).all()
        for value in range(1, CLASSES):
            components, number = ndimage.label(image == value, np.ones([3] * image.ndim))
            sizes = np.bincount(components.ravel())[1:] if number else np.zeros(1, int)
            left = np.unique(components[kept == value])
            assert len(left) == (number > 0) and (kept == value).sum() == sizes.max()


def test_closed_form():
    """A diagonal connects, the smaller component of each structure goes, and structures do not connect each other."""
    labels = jnp.array([[[1, 0, 2, 2], [0, 1, 0, 2], [1, 0, 0, 0], [0, 0, 1, 2]]], jnp.int32)
    expected = [[[1, 0, 2, 2], [0, 1, 0, 2], [1, 0, 0, 0], [0, 0, 0, 0]]]
    assert cleaned(labels).tolist() == expected


@QUICK
@given(hnp.arrays(np.int32, (2, 7, 9), elements=st.integers(0, CLASSES - 1)))
def test_like_scipy(labels):
    check(labels)


@pytest.mark.parametrize("shape", [(2, 40, 60), (1, 9, 12, 10)])
@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_larger_maps_and_volumes_like_scipy(shape, sigma):
    noise = np.random.default_rng(0).normal(size=shape)
    smooth = np.stack([ndimage.gaussian_filter(image, sigma) for image in noise])
    check(np.digitize(smooth, np.quantile(smooth, [0.4, 0.7])).astype(np.int32))


def test_a_long_winding_structure_is_one_component():
    spiral = np.zeros((1, 41, 41), np.int32)
    spiral[0, ::2], spiral[0, 1::4, -1], spiral[0, 3::4, 0] = 1, 1, 1
    np.testing.assert_array_equal(cleaned(jnp.asarray(spiral)), spiral)
