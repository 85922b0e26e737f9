import dataclasses
import itertools

import numpy as np
import pytest

from msl_jax.data import pipeline
from msl_jax.data.annotator import Annotator
from msl_jax.data.preparation import Preparation
from msl_jax.data.ready import make_ready
from msl_jax.data.weak_labels import Style
from msl_jax.labels import UNLABELED

SIZE = (32, 24)
SOURCE = (40, 30)
SIZES = {"strong": 4, "weak": 6}
KEYS = {"strong": {"image", "label", "weak_label"}, "weak": {"image", "weak_label"}}


@pytest.fixture(scope="module")
def sets(phantoms):
    """One strong patient and two weak ones, at a third of their resolution."""
    patients = sorted(phantoms.groups())
    entries = {"strong": phantoms.of_patients(patients[:1]), "weak": phantoms.of_patients(patients[1:3])}
    spacing = tuple(3 * size for size in phantoms.entries[0].spacing[1:])
    preparation = Preparation(SIZE, spacing, "percentiles", (1.0, 99.0), (0.0, 1.0), (0, 1, 2, 3))
    annotator = Annotator("erosion", Style(background=True, radius=2, every=3))
    return {name: make_ready(phantoms, some, preparation, annotator) for name, some in entries.items()}


@pytest.fixture(scope="module")
def streams(sets):
    """make(names, **changes) -> the streams of these sets."""

    def make(names=("strong", "weak"), size=SIZE, source_size=SOURCE, foreground=0.0, seed=0):
        return {name: pipeline.Stream(name, sets[name], size, source_size, foreground, seed) for name in names}

    return make


@pytest.fixture(scope="module")
def batches(streams):
    """make(start, stop, host, hosts, **changes of the streams) -> the batches as a list of dicts of arrays."""

    def make(start=0, stop=3, *, host=0, hosts=1, ahead=2, **changes):
        dataset = pipeline.batches(
            streams(**changes), SIZES, ahead=ahead, start=start, stop=stop, host=host, hosts=hosts
        )
        return list(dataset.as_numpy_iterator())

    return make


def assert_same(some, others):
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].keys() == b[name].keys()
            for key in a[name]:
                np.testing.assert_array_equal(a[name][key], b[name][key], err_msg=f"{name} {key}")


def joined(some, name, key):
    return np.concatenate([batch[name][key] for batch in some])


def test_shapes_are_static_and_dtypes_as_documented(streams):
    parts = pipeline.batches(streams(), SIZES, ahead=1, start=0, stop=3, host=1, hosts=2).element_spec
    assert {name: set(part) for name, part in parts.items()} == KEYS
    for name, share in (("strong", 2), ("weak", 3)):
        for key, spec in parts[name].items():
            assert spec.shape == ((share, *SOURCE, 1) if key == "image" else (share, *SOURCE))
            assert spec.dtype == ("float16" if key == "image" else "uint8")


def test_values_are_as_documented(batches):
    for batch in batches():
        for name in KEYS:
            image, weak_label = batch[name]["image"], batch[name]["weak_label"]
            assert image.min() >= 0 and image.max() <= 1 and image.std() > 0.05
            assert set(np.unique(weak_label)) <= {0, 1, 2, 3, UNLABELED} and UNLABELED in weak_label
        assert set(np.unique(batch["strong"]["label"])) <= {0, 1, 2, 3}


@pytest.mark.parametrize("foreground", [0.0, 0.5])
def test_a_run_can_start_at_any_step(batches, foreground):
    whole = batches(0, 6, foreground=foreground)
    assert_same(batches(4, 6, foreground=foreground), whole[4:])
    assert_same(batches(1, 2, foreground=foreground, ahead=5), whole[1:2])


def test_hosts_share_a_batch(batches):
    shares = [batches(host=host, hosts=2) for host in (0, 1)]
    whole = [
        {name: {key: np.concatenate([share[name][key] for share in pair]) for key in KEYS[name]} for name in KEYS}
        for pair in zip(*shares, strict=True)
    ]
    assert_same(whole, batches())


def test_a_method_without_weak_images_gets_the_same_strong_ones(batches):
    assert_same(batches(names=("strong",)), [{"strong": batch["strong"]} for batch in batches()])


def test_patches_of_other_seeds_and_steps_differ(batches):
    for name in KEYS:
        patches = [image.tobytes() for seed in (0, 1) for image in joined(batches(seed=seed), name, "image")]
        assert len(set(patches)) == len(patches)


@pytest.mark.parametrize("name", ["strong", "weak"])
def test_an_epoch_has_every_slice_once_in_an_order_of_its_own(streams, name):
    stream = streams()[name]
    slices = len(stream.slices)
    draws = [stream.draw(position) for position in range(3 * slices)]
    epochs = [[(d.case, d.slice) for d in draws[i * slices : (i + 1) * slices]] for i in range(3)]
    assert all(sorted(epoch) == [tuple(row) for row in stream.slices.tolist()] for epoch in epochs)
    assert all(a != b for a, b in itertools.combinations(epochs, 2))


def test_patches_lie_in_the_slice_and_reach_each_of_its_borders(streams):
    """The source patch is larger than the patch by (4, 3) pixels on each side."""
    stream = streams()["weak"]
    draws = [stream.draw(position) for position in range(2000)]
    starts = np.add([draw.start for draw in draws], (4, 3))
    ends = np.array([stream.cases[draw.case].shape[1:] for draw in draws]) - starts - SIZE
    assert starts.min(0).tolist() == ends.min(0).tolist() == [0, 0] and (starts > 0).any(0).all()


def test_a_patch_shows_the_slice_where_it_was_drawn_and_nothing_beyond(streams):
    """With a source patch twice as large as the slice, the whole slice is in it."""
    height, width = streams()["strong"].cases[0].shape[1:]
    stream = streams(size=(height, width), source_size=(2 * height, 2 * width))["strong"]
    for position in range(3):
        draw, patch = stream.draw(position), stream.patches([position])
        y, x = height // 2, width // 2
        assert draw.start == (-y, -x)
        pixels = stream.cases[draw.case].slice(draw.slice)
        for name, fill in (("image", 0), ("label", 0), ("weak_label", UNLABELED)):
            expected = np.full_like(patch[name][0], fill)
            expected[y : y + height, x : x + width] = pixels[name]
            np.testing.assert_array_equal(patch[name][0], expected)


def test_a_slice_smaller_than_the_patch_is_centred(streams):
    size = (99, 98)
    stream = streams(size=size, source_size=size)["weak"]
    for draw in map(stream.draw, range(20)):
        expected = [-((patch - n) // 2) for patch, n in zip(size, stream.cases[draw.case].shape[1:], strict=True)]
        assert list(draw.start) == expected and max(expected) < 0


@pytest.mark.parametrize("name", ["strong", "weak"])
def test_foreground_patches_show_each_structure_equally_often(streams, name):
    stream = streams(foreground=1.0)[name]
    centre = tuple(slice((s - 1) // 2, s // 2 + 1) for s in SOURCE)
    found = np.zeros(4, int)
    for position in range(90):
        patch = stream.patches([position])[pipeline.GUIDES[name]][0]
        assert set(np.unique(patch[4:36, 3:27])) & {1, 2, 3}
        found += [c in patch[centre] for c in range(4)]
    assert (found[1:] > 15).all()


def test_a_share_of_the_patches_is_drawn_around_structures(streams):
    """Positions that are not drawn so are the same as without."""
    some, none = streams(foreground=0.33)["weak"], streams()["weak"]
    same = sum(some.draw(position) == none.draw(position) for position in range(600))
    assert 0.60 < same / 600 < 0.74


def test_without_annotated_structures_patches_are_uniform(streams):
    stream = streams(foreground=1.0)["weak"]
    cases = [
        dataclasses.replace(case, classes={name: np.zeros_like(present) for name, present in case.classes.items()})
        for case in stream.cases
    ]
    bare = dataclasses.replace(stream, cases=cases)
    assert [bare.draw(p) for p in range(9)] == [streams()["weak"].draw(p) for p in range(9)]


def test_the_cases_of_a_batch_are_named(streams):
    some = streams(foreground=0.5)
    for step in range(3):
        drawn = {
            stream.cases[stream.draw(position).case].entry.name
            for name, stream in some.items()
            for position in range(step * SIZES[name], (step + 1) * SIZES[name])
        }
        assert set(pipeline.cases_of(some, SIZES, step)) == drawn
