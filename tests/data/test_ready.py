import dataclasses
import errno
import resource

import numpy as np
import pytest

from msl_jax.data import builder, ready
from msl_jax.data.annotator import Annotator
from msl_jax.data.case import Case, Reader, Source
from msl_jax.data.preparation import Preparation
from msl_jax.data.readers import READERS
from msl_jax.data.weak_labels import RECIPES, SlicePosition, Style
from msl_jax.labels import UNLABELED

STYLE = Style(background=True, radius=2, every=3)
PREPARATION = Preparation((32, 32), (2.0, 2.0), "percentiles", (1.0, 99.0), (0.0, 1.0), (0, 1, 2, 3))
SHAPE = (2, 40, 48)


@pytest.fixture
def data(phantoms, tmp_path):
    """The phantoms, with no case ready."""
    return dataclasses.replace(phantoms, ready=tmp_path / "ready")


@pytest.fixture
def make(data):
    """make(recipe, **changes of the preparation) -> the first two cases."""

    def ready_cases(recipe="erosion", **changes):
        preparation = dataclasses.replace(PREPARATION, **changes)
        return ready.make_ready(data, data.entries[:2], preparation, Annotator(recipe, STYLE))

    return ready_cases


def test_a_ready_case_is_its_case_resampled_normalised_and_annotated(data, make):
    for case in make():
        original = data.case(case.entry)
        images, label, weak_label = ready.compute(original, case.entry, PREPARATION, Annotator("erosion", STYLE))
        y, x = PREPARATION.grid(original.image.shape[1:3], original.spacing[1:])
        assert case.shape == (case.entry.slices, y, x) == label.shape and (y, x) != original.image.shape[1:3]
        for z in range(case.entry.slices):
            pixels = case.slice(z)
            np.testing.assert_allclose(pixels["image"], images[z], atol=2**-12)
            np.testing.assert_array_equal(pixels["label"], label[z])
            np.testing.assert_array_equal(pixels["weak_label"], weak_label[z])
            position = SlicePosition(case.entry.name, z, case.entry.slices)
            np.testing.assert_array_equal(weak_label[z], RECIPES["erosion"](label[z], position, STYLE))
            for name, labels in (("label", label), ("weak_label", weak_label)):
                assert np.flatnonzero(case.classes[name][z]).tolist() == sorted({*labels[z].ravel()} - {UNLABELED})


def test_cases_are_computed_once_and_again_if_anything_changes(make, monkeypatch):
    computed = []
    compute = ready.compute
    monkeypatch.setattr(ready, "compute", lambda case, *rest: computed.append(case.name) or compute(case, *rest))
    folders = {make()[0].file.parent, make(size=(16, 16))[0].file.parent}
    assert len(computed) == 2 and len(folders) == 1  # patches are cut later
    for recipe, changes in (("point", {}), ("erosion", {"spacing": "native"}), ("erosion", {"values": (0, 3)})):
        folders.add(make(recipe, **changes)[0].file.parent)
    folders.add(make(spacing="stretch")[0].file.parent)
    folders.add(make(spacing="stretch", size=(16, 16))[0].file.parent)
    assert len(computed) == 12 and len(folders) == 6


def test_a_case_is_there_whole_or_not_at_all(make, data):
    """A file that may not grow fails like a full disk: with a reason, and with nothing left behind."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            make()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG
    assert list(data.ready.iterdir()) == []
    assert len(make()) == 2


def mixed_cases(source):
    """Three cases of two channels: with a scribble and no mask, with a partial mask, and with neither."""
    for name in ("scribble", "mask", "neither"):
        image = np.random.default_rng(0).random((*SHAPE, 2), np.float32)
        mask = np.full(SHAPE, UNLABELED, np.uint8)
        mask[:, 10:12, 20], mask[:, 30, 40] = 3, 0
        mask, annotation = {"scribble": (None, mask), "mask": (mask, None), "neither": (None, None)}[name]
        case = Case(name, name, image, mask, annotation, (1.0, 1.0, 1.0), "mm")
        yield lambda case=case: case


def test_drawn_annotations_partial_masks_and_unlabelled_cases(monkeypatch, tmp_path):
    """A single labelled pixel survives on a grid of half the resolution."""
    mixed_cases.__module__ = "msl_jax.data.readers.phantom"
    reader = Reader(lambda source: {"LV": 3}, lambda source: "", mixed_cases, dict)
    monkeypatch.setitem(READERS, "users", reader)
    data = builder.build(Source("users", ""), str(tmp_path))
    preparation = dataclasses.replace(PREPARATION, values=(0, 3))
    scribble, mask, neither = ready.make_ready(data, data.entries, preparation, Annotator("drawn", STYLE))
    for z in range(SHAPE[0]):
        drawn = scribble.slice(z)
        assert drawn.shape == (20, 24) and drawn["image"].shape == (20, 24, 2)
        assert (drawn["label"] == UNLABELED).all()
        assert np.argwhere(drawn["weak_label"] == 1).tolist() == [[5, 10]]
        assert np.argwhere(drawn["weak_label"] == 0).tolist() == [[15, 20]]
        for name in ready.LABEL_MAPS:
            np.testing.assert_array_equal(mask.slice(z)[name], drawn["weak_label"])
        assert (neither.slice(z)["weak_label"] == UNLABELED).all()
