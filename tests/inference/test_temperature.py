"""Temperature scaling: closed forms, and the temperature that random classes were drawn with is found again."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

from maps import QUICK
from msl_jax.inference.temperature import RANGE, Voxels, draw, fit, scaled
from msl_jax.labels import UNLABELED


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)


def test_scaled_closed_form():
    """At 1/2, (1/4, 3/4) becomes its squares 1 : 9; at 2, (1/5, 4/5) its roots 1 : 2. Certain voxels stay."""
    np.testing.assert_allclose(scaled(np.array([0.25, 0.75], np.float32), 0.5), [0.1, 0.9], rtol=1e-6)
    np.testing.assert_allclose(scaled(np.array([[0.2, 0.8]], np.float32), 2.0), [[1 / 3, 2 / 3]], rtol=1e-6)
    certain = np.array([0, 1, 0], np.float32)
    assert scaled(certain, 3.0).dtype == np.float32 and np.array_equal(scaled(certain, 3.0), certain)


@QUICK
@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-8, 8, width=32)), st.floats(*RANGE))
def test_scaled_is_the_softmax_of_divided_logits(logits, temperature):
    found = scaled(softmax(logits), temperature)
    np.testing.assert_allclose(found, softmax(logits / temperature), atol=2e-5)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_fit_finds_the_temperature_that_classes_were_drawn_with(temperature):
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (100_000, 3))
    classes = (softmax(logits / temperature).cumsum(-1) < generator.random((100_000, 1))).sum(-1)
    thirds = np.array_split(np.arange(100_000), 3)
    parts = [Voxels(softmax(logits)[part], classes[part].astype(np.uint8)) for part in thirds]
    assert fit(parts) == pytest.approx(temperature, rel=0.03)


def test_fit_is_finite_where_the_network_is_certain_and_wrong_and_stays_in_its_range():
    certain = np.array([[1, 0], [0, 1]], np.float32)
    assert fit([Voxels(certain, np.array([0, 0]))]) == pytest.approx(RANGE[1], rel=0.01)
    likely = np.array([[0.9, 0.1], [0.1, 0.9]], np.float32)
    assert RANGE[0] <= fit([Voxels(likely, np.array([0, 1]))]) < 0.2
    assert fit([Voxels(likely[:0], np.array([], np.uint8))]) == 1.0


def test_draw_takes_labelled_voxels_with_their_classes():
    generator = np.random.default_rng(0)
    classes = generator.integers(0, 3, (2, 5, 6)).astype(np.uint8)
    probabilities = np.eye(3, dtype=np.float32)[classes]  # 1 for the voxel's own class
    classes[0, :3] = UNLABELED
    for number, expected in ((1000, 2 * 5 * 6 - 18), (10, 10), (0, 0)):
        voxels = draw(probabilities, classes, number, (1, 2))
        assert voxels.classes.shape == (expected,) and voxels.probabilities.shape == (expected, 3)
        assert np.array_equal(voxels.probabilities.argmax(-1), voxels.classes)
        assert np.array_equal(draw(probabilities, classes, number, (1, 2)).classes, voxels.classes)
    one, other = (draw(probabilities, classes, 10, (1, seed)) for seed in (2, 3))
    assert not np.array_equal(one.classes, other.classes)
