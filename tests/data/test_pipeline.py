import itertools

import jax
from jax.experimental import io_callback
import numpy as np
import pytest

from msl_jax.data import builder, intensity, pipeline, transforms
from msl_jax.data.annotator import Annotator
from msl_jax.data.case import Case, Reader, Source
from msl_jax.data.preparation import Preparation
from msl_jax.data.readers import READERS
from msl_jax.data.weak_labels import RECIPES, SlicePosition, Style
from msl_jax.inference.segmenter import Segmenter
from msl_jax.labels import UNLABELED

SIZE = (64, 56)
STYLE = Style(background=True, radius=2, every=3)
OFF = dict(flip=False, rotation=0.0, zoom=0.0, gamma=0.0, contrast=0.0)
STRONG_AUGMENTATION = dict(flip=True, rotation=60.0, zoom=0.5, gamma=0.5, contrast=0.3)
KEYS = {"strong": {"image", "label", "weak_label"}, "weak": {"image", "weak_label"}}


def preparation_of(values):
    return Preparation(SIZE, "percentiles", (1.0, 99.0), (0.0, 1.0), values)


@pytest.fixture(scope="module")
def sets(phantoms):
    """One strong patient and two weak ones."""
    patients = sorted(phantoms.groups())
    return {"strong": phantoms.of_patients(patients[:1]), "weak": phantoms.of_patients(patients[1:3])}


@pytest.fixture(scope="module")
def dataset(phantoms, sets):
    """make(...) -> pipeline.batches for these sets."""

    def make(
        start=0,
        stop=3,
        *,
        values=(0, 1, 2, 3),
        recipe="erosion",
        augmentation=OFF,
        seed=0,
        names=("strong", "weak"),
        **others,
    ):
        return pipeline.batches(
            phantoms,
            {name: sets[name] for name in names},
            {"strong": 4, "weak": 6},
            preparation_of(values),
            Annotator(recipe, STYLE),
            augmentation,
            seed=seed,
            start=start,
            stop=stop,
            **{"ahead": 2, **others},
        )

    return make


@pytest.fixture(scope="module")
def batches(dataset):
    """make(...) -> the batches as a list of dicts of arrays."""
    return lambda *args, **kwargs: list(dataset(*args, **kwargs).as_numpy_iterator())


@pytest.fixture(scope="module")
def augmented(batches):
    """Six batches with all augmentations."""
    return batches(0, 6, augmentation=STRONG_AUGMENTATION)


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


def test_shapes_are_static_and_dtypes_as_documented(dataset):
    parts = dataset(host=1, hosts=2).element_spec
    assert {name: set(part) for name, part in parts.items()} == KEYS
    for name, share in (("strong", 2), ("weak", 3)):
        for key, spec in parts[name].items():
            assert spec.shape == ((share, *SIZE, 1) if key == "image" else (share, *SIZE))
            assert spec.dtype == ("float32" if key == "image" else "int32")


def test_values_are_as_documented(augmented):
    for batch in augmented:
        assert {name: set(part) for name, part in batch.items()} == KEYS
        for name, number in (("strong", 4), ("weak", 6)):
            image, weak_label = batch[name]["image"], batch[name]["weak_label"]
            assert image.shape == (number, *SIZE, 1) and weak_label.shape == (number, *SIZE)
            assert image.min() >= 0 and image.max() <= 1 and image.std() > 0.05
            assert set(np.unique(weak_label)) <= {0, 1, 2, 3, UNLABELED} and UNLABELED in weak_label
        assert set(np.unique(batch["strong"]["label"])) <= {0, 1, 2, 3}


def test_a_run_can_start_at_any_step(batches, augmented):
    assert_same(batches(4, 6, augmentation=STRONG_AUGMENTATION), augmented[4:])
    assert_same(batches(1, 2, augmentation=STRONG_AUGMENTATION, ahead=5), augmented[1:2])


def test_hosts_share_a_batch(batches, augmented):
    shares = [batches(0, 6, augmentation=STRONG_AUGMENTATION, host=host, hosts=2) for host in (0, 1)]
    whole = [
        {name: {key: np.concatenate([share[name][key] for share in pair]) for key in KEYS[name]} for name in KEYS}
        for pair in zip(*shares, strict=True)
    ]
    assert_same(whole, augmented)


def test_a_method_without_weak_images_gets_the_same_strong_ones(batches, augmented):
    strong_only = batches(0, 6, augmentation=STRONG_AUGMENTATION, names=("strong",))
    assert_same(strong_only, [{"strong": batch["strong"]} for batch in augmented])


def test_images_of_other_seeds_and_steps_differ(batches, augmented):
    other = batches(0, 6, augmentation=STRONG_AUGMENTATION, seed=1)
    for name in KEYS:
        images = [image.tobytes() for some in (augmented, other) for image in joined(some, name, "image")]
        assert len(set(images)) == len(images)


def test_the_weak_label_of_a_strong_image_agrees_with_its_mask(augmented):
    label, weak_label = (joined(augmented, "strong", key) for key in ("label", "weak_label"))
    labelled = weak_label != UNLABELED
    assert 0.005 < labelled.mean() < 0.9 and set(weak_label[labelled]) == {0, 1, 2, 3}
    np.testing.assert_array_equal(weak_label[labelled], label[labelled])


class Recorder:
    """A network that records its input images and returns them as logits."""

    def __init__(self):
        self.received = []

    def apply(self, variables, images, branches, train):
        io_callback(lambda array: self.received.append(np.array(array[0])), None, images["images"])
        return {branch: images for branch in branches}


def inference_inputs(phantoms, entries):
    """The images that inference passes to the network, for all slices of these cases."""
    network = Recorder()
    segmenter = Segmenter(network, preparation_of((0, 3)), ("student",), batch=1)
    for entry in entries:
        segmenter.probabilities({}, phantoms.case(entry).image)
    jax.effects_barrier()
    return np.concatenate(network.received)


@pytest.mark.parametrize("name, size", [("strong", 4), ("weak", 6)])
def test_an_epoch_contains_every_slice_once_preprocessed_as_in_inference(phantoms, sets, batches, name, size):
    expected = inference_inputs(phantoms, sets[name])
    slices = len(expected)
    images = joined(batches(0, 3 * slices // size + 1), name, "image")[: 3 * slices]
    distance = abs(images[:, None] - expected[None]).max((2, 3, 4))
    assert distance.min(1).max() < 1e-6 and ((distance < 1e-3).sum(1) == 1).all()
    epochs = distance.argmin(1).reshape(3, slices)
    assert (np.sort(epochs) == np.arange(slices)).all()
    assert all((a != b).any() for a, b in itertools.combinations([np.arange(slices), *epochs], 2))


def test_classes_that_are_not_selected_are_background(batches):
    all_classes, lv, swapped = (batches(values=values) for values in ((0, 1, 2, 3), (0, 3), (0, 3, 1)))
    label = joined(all_classes, "strong", "label")
    assert set(np.unique(label)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(joined(lv, "strong", "label"), label == 3)
    np.testing.assert_array_equal(joined(swapped, "strong", "label"), np.array([0, 2, 0, 1])[label])
    for name in KEYS:
        weak, weak_lv = (joined(some, name, "weak_label") for some in (all_classes, lv))
        assert set(np.unique(weak_lv)) == {0, 1, UNLABELED}
        np.testing.assert_array_equal(weak_lv == 1, weak == 3)


@pytest.mark.parametrize("recipe", ["point", "slices"])
def test_a_slice_gets_the_recipes_weak_label_for_its_position(phantoms, sets, batches, recipe):
    expected = set()
    for entry in sets["strong"]:
        for z, mask in enumerate(phantoms.case(entry).mask):
            label = transforms.resize_labels(mask[..., None].astype(np.int32), SIZE).numpy()[..., 0]
            weak_label = RECIPES[recipe](label, SlicePosition(entry.name, z, entry.slices), STYLE)
            expected.add((label.tobytes(), weak_label.tobytes()))
    two_epochs = batches(0, len(expected) // 2 + 1, recipe=recipe)
    labels, weak_labels = (joined(two_epochs, "strong", key) for key in ("label", "weak_label"))
    actual = {(label.tobytes(), weak_label.tobytes()) for label, weak_label in zip(labels, weak_labels, strict=True)}
    assert actual == expected


SHAPE = (2, 40, 48)


def mixed_cases(source):
    """Three cases of two channels: with a scribble and no mask, with a partial mask, and with neither."""
    for name in ("scribble", "mask", "neither"):
        image = np.random.default_rng(0).random((*SHAPE, 2), np.float32)
        mask = np.full(SHAPE, UNLABELED, np.uint8)
        mask[:, 10:12, 20], mask[:, 30, 40] = 3, 0
        mask, annotation = {"scribble": (None, mask), "mask": (mask, None), "neither": (None, None)}[name]
        case = Case(name, name, image, mask, annotation, (1.0, 1.0, 1.0), "mm")
        yield lambda case=case: case


def test_a_batch_mixes_drawn_annotations_partial_masks_and_unlabelled_images(monkeypatch, tmp_path):
    """At the network's size, with another recipe for one patient."""
    mixed_cases.__module__ = "msl_jax.data.readers.phantom"
    reader = Reader(lambda source: {"LV": 3}, lambda source: "", mixed_cases, dict)
    monkeypatch.setitem(READERS, "users", reader)
    data = builder.build(Source("users", ""), str(tmp_path))
    annotator = Annotator("drawn", STYLE, {"neither": "none"})
    dataset = pipeline.batches(
        data,
        {"weak": data.entries},
        {"weak": 6},
        preparation_of((0, 3)),
        annotator,
        OFF,
        ahead=1,
        seed=0,
        start=0,
        stop=1,
    )
    batch = next(dataset.as_numpy_iterator())["weak"]
    assert batch["image"].shape == (6, *SIZE, 2)
    unlabelled = (batch["weak_label"] == UNLABELED).all((1, 2))
    assert unlabelled.sum() == 2
    for weak_label in batch["weak_label"][~unlabelled]:
        assert set(np.unique(weak_label)) == {0, 1, UNLABELED} and 2 <= (weak_label == 1).sum() <= 8
        y, x = np.argwhere(weak_label == 1).mean(0) / SIZE
        assert abs(y - 11 / 40) < 0.02 and abs(x - 20.5 / 48) < 0.02


def test_class_and_value_tables():
    preparation = preparation_of((0, 3))
    table = preparation.class_of_value()
    assert table[:5].tolist() == [0, 0, 0, 1, 0] and table[UNLABELED] == UNLABELED and table.shape == (256,)
    values = preparation.value_of_class()
    assert values.dtype == np.uint8 and values.tolist() == [0, 3]
    np.testing.assert_array_equal(table[values], [0, 1])


def test_the_cases_of_a_batch_are_named(phantoms, sets, batches):
    """Each image is a slice of a named case, and each named case has a slice in the batch."""
    for step, batch in enumerate(batches()):
        named = pipeline.cases_of(sets, {"strong": 4, "weak": 6}, seed=0, step=step)
        slices = {}
        for entry in phantoms.entries:
            image = phantoms.case(entry).image
            normalized = preparation_of((0,)).normalize(image, intensity.measure(image))
            slices[entry.name] = transforms.resize_image(normalized, SIZE).numpy()
        images = np.concatenate([batch[name]["image"] for name in ("strong", "weak")])
        found = {
            name
            for name, of_case in slices.items()
            for image in images
            if np.isclose(of_case, image, atol=1e-5).all((1, 2, 3)).any()
        }
        assert found == set(named)
