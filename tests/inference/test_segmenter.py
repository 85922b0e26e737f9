"""Whole volumes through windows: the grid of the network and back, in slabs of bounded size."""

import dataclasses

import jax
import numpy as np
import pytest

from msl_jax.data import intensity, resampling
from msl_jax.data.preparation import NATIVE, STRETCH
from msl_jax.inference.segmenter import Segmenter, load_network

SPACING = (8.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def loaded(untrained):
    """A segmenter of windows of 32 x 32, four a batch, and its variables."""
    segmenter, variables, _ = load_network(untrained("method=kl_ent,classes=all"))
    assert segmenter.preparation.size == (32, 32)
    return dataclasses.replace(segmenter, batch=4), variables


@pytest.fixture(scope="module")
def volume():
    return np.random.default_rng(0).normal(size=(10, 50, 61, 1)).astype(np.float32)


def at(segmenter, spacing, **changes):
    """The segmenter with slices of another pixel size."""
    preparation = dataclasses.replace(segmenter.preparation, spacing=spacing)
    return dataclasses.replace(segmenter, preparation=preparation, **changes)


class Echo(Segmenter):
    """In place of a network, the image and what is missing to 1 are the probabilities of two classes."""

    def averaged(self, variables, images):
        return {"student": np.concatenate([images, 1 - images], -1)}


@pytest.fixture
def echo(loaded, monkeypatch):
    """echo(spacing) -> a segmenter without a network."""
    monkeypatch.setattr("msl_jax.inference.segmenter._averaged", Echo.averaged)
    return lambda spacing: dataclasses.replace(at(loaded[0], spacing), branches=("student",))


def test_a_stretched_slice_is_one_window(loaded, volume):
    """The older runs' prediction to the last bit: resize to the network's size, network, resize back."""
    segmenter, variables = at(loaded[0], STRETCH), loaded[1]
    low, high = intensity.limits("percentiles", intensity.measure(volume), {"percentiles": (1.0, 99.0)})
    images = resampling.resize_image(intensity.normalize(volume, low, high), (32, 32), antialias=False)
    softmax = jax.jit(segmenter.softmax)
    outputs = [
        softmax(variables, np.pad(images[i : i + 4], ((0, -len(images[i : i + 4]) % 4), *[(0, 0)] * 3)))
        for i in (0, 4, 8)
    ]
    found = segmenter.probabilities(variables, volume, SPACING)
    for branch in segmenter.branches:
        whole = np.concatenate([output[branch] for output in outputs])[: len(volume)]
        np.testing.assert_array_equal(found[branch], resampling.resize_image(whole, (50, 61), antialias=False))


@pytest.mark.parametrize("spacing", [NATIVE, (1.0, 1.0), (2.0, 1.5), (4.0, 4.0), (0.7, 0.5)])
def test_probabilities_of_any_pixel_size_are_on_the_volumes_own_grid(loaded, volume, spacing):
    segmenter, variables = at(loaded[0], spacing), loaded[1]
    for probabilities in segmenter.probabilities(variables, volume, SPACING).values():
        assert probabilities.shape == (10, 50, 61, 4) and probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)
    for labels in segmenter.classes(variables, volume, SPACING).values():
        assert labels.shape == volume.shape[:3] and labels.dtype == np.uint8


@pytest.mark.parametrize("spacing", [NATIVE, (0.5, 0.5), (2.0, 2.0)])
def test_what_the_network_returns_is_where_its_input_was(echo, spacing):
    """A ramp stays a ramp when it is resampled to finer or coarser pixels, cut into windows, merged and resampled back.

    Except within one coarse pixel of the borders, where interpolation repeats the outermost one.
    """
    ramp = np.linspace(0, 1, 100, dtype=np.float32)[None, :, None, None] * np.ones((3, 1, 90, 1), np.float32)
    segmenter = echo(spacing)
    low, high = intensity.limits("percentiles", intensity.measure(ramp), {"percentiles": (1.0, 99.0)})
    expected = intensity.normalize(ramp, low, high)[..., 0]
    found = segmenter.probabilities({}, ramp, SPACING)["student"][..., 0]
    np.testing.assert_allclose(found[:, 4:-4], expected[:, 4:-4], atol=1e-5)


def test_a_step_of_intensity_is_a_step_of_the_label_map(echo):
    """Pixels twice as coarse: a 60 x 80 slice is a 30 x 40 grid, smaller than a window in y, larger in x."""
    volume = np.zeros((2, 60, 80, 1), np.float32)
    volume[0, 20:40] = volume[1, :, 30:60] = 1
    segmenter = echo((2.0, 2.0))
    assert segmenter.preparation.grid((60, 80), SPACING[1:]) == (30, 40)
    np.testing.assert_array_equal(segmenter.classes({}, volume, SPACING)["student"], 1 - volume[..., 0])


def test_slabs_are_whole_batches_of_a_few_slices(loaded, volume):
    """50 x 61 has 3 x 3 windows of 32 x 32: four slices have 9 batches of four. 48 x 64 has one window at 1.5 x 2."""
    segmenter, variables = at(loaded[0], NATIVE), loaded[1]
    assert [slices for slices, _ in segmenter.slabs(variables, volume, SPACING)] == [
        slice(0, 4),
        slice(4, 8),
        slice(8, 10),
    ]
    assert segmenter.slab_length((10, 48, 32), SPACING) == 2
    assert segmenter.slab_length((10, 48, 48), SPACING) == 1
    assert at(segmenter, (1.5, 2.0)).slab_length((10, 48, 64), SPACING) == 4


def test_slices_do_not_depend_on_those_of_other_slabs(loaded, volume, monkeypatch):
    """One slab of the whole volume has the same bits."""
    segmenter, variables = at(loaded[0], NATIVE), loaded[1]
    expected = segmenter.probabilities(variables, volume, SPACING)
    monkeypatch.setattr(Segmenter, "slab_length", lambda *_: 100)
    assert len(list(segmenter.slabs(variables, volume, SPACING))) == 1
    for branch, probabilities in segmenter.probabilities(variables, volume, SPACING).items():
        np.testing.assert_array_equal(probabilities, expected[branch])


def test_mirrored_probabilities_are_those_of_the_mirrored_volume_mirrored(loaded, volume):
    """The mean over flips does not change with a flip of y, of x or of both; without it, it does."""
    variables, volume = loaded[1], volume[:, :, :60]  # 0, 14 and 28 are mirrored windows, 0, 14 and 29 are not
    for mirror in (True, False):
        segmenter = at(loaded[0], NATIVE, mirror=mirror)
        found = segmenter.probabilities(variables, volume, SPACING)["student"]
        for axes in ((1,), (2,), (1, 2)):
            flipped = segmenter.probabilities(variables, np.flip(volume, axes), SPACING)["student"]
            same = np.abs(np.flip(flipped, axes) - found).max() < 1e-5
            assert same == mirror


def test_mirroring_is_the_mean_of_four(loaded):
    segmenter, variables = dataclasses.replace(loaded[0], mirror=True), loaded[1]
    images = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)
    each = [
        np.flip(segmenter.softmax(variables, np.flip(images, axes))["student"], axes) for axes in ((), 1, 2, (1, 2))
    ]
    found = segmenter.averaged(variables, images)["student"]
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-6)


def test_pictures_get_the_classes_and_the_students_foreground(loaded, volume):
    segmenter, variables = at(loaded[0], NATIVE), loaded[1]
    probabilities = segmenter.probabilities(variables, volume, SPACING)
    classes, foreground = segmenter.classes_and_foreground(variables, volume, SPACING)
    for branch, of_branch in probabilities.items():
        np.testing.assert_array_equal(classes[branch], of_branch.argmax(-1))
    np.testing.assert_array_equal(foreground, 1 - probabilities["student"][..., 0])
