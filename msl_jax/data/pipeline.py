"""Mixed-label batches with tf.data: what step s sees is a function of the seed and s alone.

Slice number p of a set (the strong or the weak one) is place p mod N of the permutation of epoch p div N, and is
augmented with a seed folded from p. So a run may start at any step, and any number of hosts may share a batch, without
any of them reading what came before or what belongs to another. Nothing is held in memory but `ahead` batches.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np
import tensorflow as tf

from msl_jax.data import intensity, transforms, weak_labels
from msl_jax.data.builder import Built, Entry
from msl_jax.data.case import UNLABELED, in_case
from msl_jax.data.intensity import Statistics
from msl_jax.data.weak_labels import RECIPES, Style, Where

STREAMS = {"strong": 0, "weak": 1}
DRAWN = "drawn"
"""In place of a recipe: what a person drew, or the mask where that is all there is, or nothing."""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How slices become what the network sees, the same in training and inference.

    Attributes:
      size: (y, x) of the network's images.
      normalization: a key of intensity.NORMALIZATIONS.
      percentiles: for "percentiles", in percent.
      window: for "window", intensities as stored.
      values: label value of each class in the data set; values[0] is background, which is also every value not here.
    """

    size: tuple[int, int]
    normalization: str
    percentiles: tuple[float, float]
    window: tuple[float, float]
    values: tuple[int, ...]

    def normalize(self, image: tf.Tensor, statistics: Statistics) -> tf.Tensor:
        """float32 (..., y, x, channel): intensities as stored -> [0, 1], by the statistics of their volume."""
        low, high = intensity.limits(self.normalization, statistics, dataclasses.asdict(self))
        return transforms.normalize(image, low, high)

    def collapsed(self, statistics: Statistics) -> np.ndarray:
        """Bool (channels,): where the normalisation's range is of no use to a volume and is widened."""
        return intensity.collapse(self.normalization, statistics, dataclasses.asdict(self)).numpy()

    def class_of_value(self) -> np.ndarray:
        """int32 (256,): value in a case's label map -> class; UNLABELED stays."""
        table = np.zeros(256, np.int32)
        table[[in_case(value) for value in self.values]] = np.arange(len(self.values))
        table[UNLABELED] = UNLABELED
        return table

    def reference(self, mask: np.ndarray) -> np.ndarray:
        """The classes of a case's mask, int32 as shaped; what it leaves open is background."""
        classes = self.class_of_value()[mask]
        return np.where(classes == UNLABELED, 0, classes)

    def value_of_class(self) -> np.ndarray:
        """uint8 (classes,): class -> value in files."""
        return np.asarray(self.values, np.uint8)


@dataclasses.dataclass(frozen=True)
class Weakening:
    """Where weak labels come from.

    Masks are resized before a recipe sees them: a core of few pixels would vanish if it were.

    Attributes:
      recipe: a key of weak_labels.RECIPES, or DRAWN.
      style: of the recipes.
      of_patient: patient -> recipe, for those whose recipe is another.
    """

    recipe: str
    style: Style
    of_patient: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def recipe_of(self, patient: str) -> str:
        """A key of weak_labels.RECIPES, or DRAWN."""
        return self.of_patient.get(patient, self.recipe)

    def __call__(self, entry: Entry, z: int, label: np.ndarray, annotation: np.ndarray) -> np.ndarray:
        """The weak label of slice `z` of a case.

        Args:
          entry: the case.
          z: the slice's number.
          label: int32 (y, x), the mask's classes at the network's size, UNLABELED where there is none.
          annotation: int32, the drawn annotation's at native size, UNLABELED where there is none.

        Returns:
          int32, as `label`.
        """
        recipe = self.recipe_of(entry.patient)
        if recipe != DRAWN:
            return RECIPES[recipe](label, Where(entry.name, z, entry.slices), self.style)
        return weak_labels.resize(annotation, label.shape) if entry.annotated else label


def batches(
    data: Built,
    sets: Mapping[str, Sequence[Entry]],
    sizes: Mapping[str, int],
    preparation: Preparation,
    weakening: Weakening,
    augmentation: Mapping[str, float],
    *,
    ahead: int,
    seed: int,
    start: int,
    stop: int,
    host: int = 0,
    hosts: int = 1,
) -> tf.data.Dataset:
    """The batches of steps `start` to `stop - 1`, this host's share of each.

    Args:
      data: the data set.
      sets: "strong" and, where the method uses it, "weak" -> the cases whose slices are drawn.
      sizes: images of each set in one batch, over all hosts.
      preparation: normalisation, image size and classes.
      weakening: how weak labels are made.
      augmentation: keyword arguments of transforms.augment.
      ahead: how many batches are made ready while a step runs; this bounds the memory.
      seed: of the order and the augmentation.
      start: first step.
      stop: step after the last.
      host: this process among `hosts`, which each take an equal share of every batch.
      hosts: number of processes.

    Returns:
      Batches {"strong": {"image", "label", "weak_label"}, "weak": {"image", "weak_label"}}: float32
      (n, y, x, channels) images in [0, 1], int32 (n, y, x) label maps, with static shapes.
    """

    def stream(name: str, entries: Sequence[Entry]) -> tf.data.Dataset:
        share = sizes[name] // hosts
        stream_seed = tf.constant([seed, STREAMS[name]], tf.int64)
        records = np.concatenate([np.arange(e.first, e.first + e.slices) for e in entries])
        firsts = np.cumsum([0, *(e.slices for e in entries[:-1])])

        def weaken(place, label, annotation):
            of_case = np.searchsorted(firsts, place, side="right") - 1
            return weakening(entries[of_case], int(place - firsts[of_case]), label, annotation)

        def example(k):
            position = k // share * sizes[name] + host * share + k % share
            place = _place(position, len(records), stream_seed)
            image, label, annotation = _load(data, tf.gather(records, place), preparation)
            weak_label = tf.numpy_function(weaken, [place, label, annotation], tf.int32, stateful=False)
            labels = {"weak_label": tf.ensure_shape(weak_label, preparation.size)}
            if name == "strong":
                labels["label"] = label
            labels = {key: label[..., None] for key, label in labels.items()}
            augment_seed = tf.random.experimental.stateless_fold_in(stream_seed, position)
            image, labels = transforms.augment(image, labels, OUTSIDE, augment_seed, **augmentation)
            return {"image": image} | {key: label[..., 0] for key, label in labels.items()}

        dataset = tf.data.Dataset.range(start * share, stop * share)
        return dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE).batch(share, drop_remainder=True)

    return tf.data.Dataset.zip({name: stream(name, entries) for name, entries in sets.items()}).prefetch(ahead)


def cases_of(sets: Mapping[str, Sequence[Entry]], sizes: Mapping[str, int], seed: int, step: int) -> list[str]:
    """The names of the cases whose slices are in the batch of a step, counted from 0; arguments as of `batches`."""
    names: dict[str, None] = {}
    for name, entries in sets.items():
        owners = [entry.name for entry in entries for _ in range(entry.slices)]
        stream_seed = tf.constant([seed, STREAMS[name]], tf.int64)
        positions = tf.range(step * sizes[name], (step + 1) * sizes[name], dtype=tf.int64)
        names |= dict.fromkeys(owners[int(_place(position, len(owners), stream_seed))] for position in positions)
    return list(names)


def _place(position: tf.Tensor, slices: int, stream_seed: tf.Tensor) -> tf.Tensor:
    """Which slice of a set number `position` of its stream is: int64, as `position`."""
    epoch_seed = tf.random.experimental.stateless_fold_in(stream_seed, position // slices)
    return tf.random.experimental.index_shuffle(position % slices, epoch_seed, slices - 1)


OUTSIDE = {"label": 0, "weak_label": UNLABELED}


def _load(data: Built, record: tf.Tensor, preparation: Preparation) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Image and mask at the network's size, and the drawn annotation at its own, as classes."""
    serialized = tf.numpy_function(lambda i: data.records[int(i)], [record], tf.string, stateful=False)
    example = data.features.deserialize_example(tf.ensure_shape(serialized, []))
    image = preparation.normalize(example["image"], example["statistics"])
    image = tf.ensure_shape(transforms.resize_image(image, preparation.size), (*preparation.size, data.channels))
    mask, annotation = (
        tf.gather(preparation.class_of_value(), tf.cast(example[name], tf.int32)) for name in ("mask", "annotation")
    )
    return image, transforms.resize_labels(mask[..., None], preparation.size)[..., 0], annotation
