"""Mixed-label batches with tf.data: what step s sees is a function of the seed and s alone.

Slice number p of a set (the strong or the weak one) is place p mod N of the permutation of epoch p div N, and is
augmented with a seed folded from p. So a run may start at any step, and any number of hosts may share a batch, without
any of them reading what came before or what belongs to another. Nothing is held in memory but `ahead` batches.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np
import tensorflow as tf

from msl_jax.data import transforms, weak_labels
from msl_jax.data.builder import QUANTILES, Built, Entry
from msl_jax.data.case import UNLABELED

STREAMS = {"strong": 0, "weak": 1}


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How slices become what the network sees, the same in training and inference.

    Attributes:
      size: (y, x) of the network's images.
      percentiles: the volume's intensities at these two, in percent, become 0 and 1.
      values: label value of each class in the data set; values[0] is background, which is also every value not here.
    """

    size: tuple[int, int]
    percentiles: tuple[float, float]
    values: tuple[int, ...]

    def class_of_value(self) -> np.ndarray:
        """int32 (256,): label value -> class; UNLABELED stays."""
        table = np.zeros(256, np.int32)
        table[list(self.values)] = np.arange(len(self.values))
        table[UNLABELED] = UNLABELED
        return table

    def value_of_class(self) -> np.ndarray:
        """uint8 (classes,): class -> label value."""
        return np.asarray(self.values, np.uint8)


@dataclasses.dataclass(frozen=True)
class Weakening:
    """How a full mask becomes a weak label: a recipe of weak_labels.RECIPES and whether background is annotated.

    Masks are resized first: a core of few pixels would vanish if it were.
    """

    recipe: str
    background: bool


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
      Batches {"strong": {"image", "label", "weak_label"}, "weak": {"image", "weak_label"}}: float32 (n, y, x, 1)
      images in [0, 1], int32 (n, y, x) label maps, with static shapes.
    """

    def stream(name: str, entries: Sequence[Entry]) -> tf.data.Dataset:
        share = sizes[name] // hosts
        stream_seed = tf.constant([seed, STREAMS[name]], tf.int64)
        fold_in = tf.random.experimental.stateless_fold_in
        records = np.concatenate([np.arange(e.first, e.first + e.slices) for e in entries])

        def example(k):
            position = k // share * sizes[name] + host * share + k % share
            epoch, place = position // len(records), position % len(records)
            place = tf.random.experimental.index_shuffle(place, fold_in(stream_seed, epoch), len(records) - 1)
            image, labels = _load(data, tf.gather(records, place), preparation, weakening, with_label=name == "strong")
            augment_seed = fold_in(stream_seed, position)
            image, labels = transforms.augment(image, labels, OUTSIDE, augment_seed, **augmentation)
            return {"image": image} | {key: label[..., 0] for key, label in labels.items()}

        dataset = tf.data.Dataset.range(start * share, stop * share)
        return dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE).batch(share, drop_remainder=True)

    return tf.data.Dataset.zip({name: stream(name, entries) for name, entries in sets.items()}).prefetch(ahead)


OUTSIDE = {"label": 0, "weak_label": UNLABELED}


def _load(
    data: Built, record: tf.Tensor, preparation: Preparation, weakening: Weakening, with_label: bool
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    serialized = tf.numpy_function(lambda i: data.records[int(i)], [record], tf.string, stateful=False)
    example = data.features.deserialize_example(tf.ensure_shape(serialized, []))
    low, high = (round(p / 100 * (len(QUANTILES) - 1)) for p in preparation.percentiles)
    image = transforms.normalize(example["image"], example["quantiles"][low], example["quantiles"][high])
    label = tf.gather(preparation.class_of_value(), tf.cast(example["mask"], tf.int32))
    label = transforms.resize_labels(label[..., None], preparation.size)
    weak_label = tf.numpy_function(
        lambda mask: weak_labels.RECIPES[weakening.recipe](mask, background=weakening.background),
        [label[..., 0]],
        tf.int32,
        stateful=False,
    )
    labels = {"label": label} if with_label else {}
    labels["weak_label"] = tf.ensure_shape(weak_label, preparation.size)[..., None]
    return transforms.resize_image(image[..., None], preparation.size), labels
