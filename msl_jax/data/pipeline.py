"""Mixed-label batches with tf.data: the batch of step s depends only on the seed and s.

Slice number p of a set (strong or weak) is element p mod N of the permutation of epoch p div N, and is augmented with a
seed folded from p. So a run can start at any step, and any number of hosts can share a batch; none reads the slices of
earlier steps or of other hosts. Only `ahead` batches are kept in memory.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from msl_jax.data import transforms
from msl_jax.data.annotator import Annotator
from msl_jax.data.builder import Dataset, Entry
from msl_jax.data.preparation import Preparation
from msl_jax.labels import UNLABELED

STREAMS = {"strong": 0, "weak": 1}
"""Set -> number that seeds its stream of slices."""
FILL_VALUES = {"label": 0, "weak_label": UNLABELED}
"""Label map -> the class that augmentation gives to pixels from outside the image."""


def batches(
    data: Dataset,
    sets: Mapping[str, Sequence[Entry]],
    sizes: Mapping[str, int],
    preparation: Preparation,
    annotator: Annotator,
    augmentation: Mapping[str, Any],
    *,
    ahead: int,
    seed: int,
    start: int,
    stop: int,
    host: int = 0,
    hosts: int = 1,
) -> tf.data.Dataset:
    """This host's share of the batches of steps `start` to `stop - 1`.

    Args:
      data: the data set.
      sets: "strong" and, if the method uses it, "weak" -> the cases to sample slices from.
      sizes: images of each set in one batch, over all hosts.
      preparation: normalisation, image size and classes.
      annotator: makes the weak labels.
      augmentation: keyword arguments of transforms.augment.
      ahead: number of batches to prefetch; limits the memory.
      seed: seed of order and augmentation.
      start: first step.
      stop: step after the last.
      host: index of this process; each has an equal share of every batch.
      hosts: number of processes.

    Returns:
      Batches {"strong": {"image", "label", "weak_label"}, "weak": {"image", "weak_label"}}: float32
      (n, y, x, channels) images in [0, 1], int32 (n, y, x) label maps, with static shapes.
    """

    def stream(name: str, entries: Sequence[Entry]) -> tf.data.Dataset:
        """This host's share of each batch of one set."""
        share = sizes[name] // hosts
        stream_seed = tf.constant([seed, STREAMS[name]], tf.int64)
        records = np.concatenate([np.arange(e.first, e.first + e.slices) for e in entries])
        first_indices = np.cumsum([0, *(e.slices for e in entries[:-1])])

        def weak_label_of(index, label, annotation):
            """The weak label of the slice `records[index]`."""
            case = np.searchsorted(first_indices, index, side="right") - 1
            return annotator(entries[case], int(index - first_indices[case]), label, annotation)

        def example(k):
            """Slice number k of this host's share of the stream, with its label maps, augmented."""
            step, row = k // share, k % share
            position = step * sizes[name] + host * share + row
            index = _shuffled(position, len(records), stream_seed)
            image, label, annotation = _load(data, tf.gather(records, index), preparation)
            weak_label = tf.numpy_function(weak_label_of, [index, label, annotation], tf.int32, stateful=False)
            labels = {"weak_label": tf.ensure_shape(weak_label, preparation.size)}  # for strong images, too: see w_on
            if name == "strong":
                labels["label"] = label
            labels = {key: label[..., None] for key, label in labels.items()}
            augment_seed = tf.random.experimental.stateless_fold_in(stream_seed, position)
            image, labels = transforms.augment(image, labels, FILL_VALUES, augment_seed, **augmentation)
            return {"image": image} | {key: label[..., 0] for key, label in labels.items()}

        dataset = tf.data.Dataset.range(start * share, stop * share)
        return dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE).batch(share, drop_remainder=True)

    return tf.data.Dataset.zip({name: stream(name, entries) for name, entries in sets.items()}).prefetch(ahead)


def cases_of(sets: Mapping[str, Sequence[Entry]], sizes: Mapping[str, int], seed: int, step: int) -> list[str]:
    """The names of the cases in the batch of a step, counted from 0; arguments as in `batches`."""
    names: dict[str, None] = {}
    for name, entries in sets.items():
        case_of_slice = [entry.name for entry in entries for _ in range(entry.slices)]
        stream_seed = tf.constant([seed, STREAMS[name]], tf.int64)
        positions = tf.range(step * sizes[name], (step + 1) * sizes[name], dtype=tf.int64)
        indices = [int(_shuffled(position, len(case_of_slice), stream_seed)) for position in positions]
        names |= dict.fromkeys(case_of_slice[index] for index in indices)
    return list(names)


def _shuffled(position: tf.Tensor, slices: int, stream_seed: tf.Tensor) -> tf.Tensor:
    """The index in a set of element `position` of its stream, int64 like `position`."""
    epoch_seed = tf.random.experimental.stateless_fold_in(stream_seed, position // slices)
    return tf.random.experimental.index_shuffle(position % slices, epoch_seed, slices - 1)


def _load(data: Dataset, record: tf.Tensor, preparation: Preparation) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Image and mask at the network's size, drawn annotation at native size; label maps as classes."""
    serialized = tf.numpy_function(lambda i: data.records[int(i)], [record], tf.string, stateful=False)
    example = data.features.deserialize_example(tf.ensure_shape(serialized, []))
    image = preparation.normalize(example["image"], example["statistics"])
    image = tf.ensure_shape(transforms.resize_image(image, preparation.size), (*preparation.size, data.channels))
    mask, annotation = (
        tf.gather(preparation.class_of_value(), tf.cast(example[name], tf.int32)) for name in ("mask", "annotation")
    )
    return image, transforms.resize_labels(mask[..., None], preparation.size)[..., 0], annotation
