"""Mixed-label batches with tf.data: the batch of step s depends only on the seed and s.

Image number p of a set (strong or weak) is a patch of one slice. Which one follows from the seed, the set and p alone,
so a run can start at any step, and any number of hosts can share a batch; none reads the slices of earlier steps or of
other hosts. Only `ahead` batches are kept in memory.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools

import numpy as np
import tensorflow as tf

from msl_jax.data.ready import ReadyCase
from msl_jax.data.resampling import Size
from msl_jax.labels import UNLABELED

STREAMS = {"strong": 0, "weak": 1}
"""Set -> number that seeds its stream of patches."""
GUIDES = {"strong": "label", "weak": "weak_label"}
"""Set -> the label map whose structures the patches of `foreground` are centred on."""
FILL_VALUES = {"label": 0, "weak_label": UNLABELED}
"""Label map -> the class of pixels from outside the slice, where images are 0; UNLABELED beside a partial mask."""
MAPS = {"strong": ("label", "weak_label"), "weak": ("weak_label",)}
"""Set -> the label maps of its images. Strong images have weak labels, too: see the method's setting w_on."""
ORDER, PATCH = 0, 1
"""What random numbers are drawn for: the order of slices in an epoch, and the patch at a position of the stream."""


@dataclasses.dataclass(frozen=True)
class Draw:
    """One patch of a stream.

    Attributes:
      case: index of the case in the set.
      slice: index in the volume.
      start: (y, x) of the patch's first pixel in the slice; negative where the patch begins outside.
    """

    case: int
    slice: int
    start: tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """The endless stream of patches of one set.

    Attributes:
      name: of the set, "strong" or "weak".
      cases: its cases.
      size: (y, x) of the network's images.
      source_size: (y, x) of the patches; larger than `size` by a margin for rotated and scaled images.
      foreground: share of patches centred on a pixel of a structure. The structure is drawn first, then the slice.
      seed: of the run.
      backgrounds: for each case, the label that background has in its label maps; empty for 0.
    """

    name: str
    cases: Sequence[ReadyCase]
    size: Size
    source_size: Size
    foreground: float
    seed: int
    backgrounds: Sequence[int] = ()

    @functools.cached_property
    def slices(self) -> np.ndarray:
        """Int (slices of all cases, 2): index of the case, index in the volume."""
        return np.array([(c, z) for c, case in enumerate(self.cases) for z in range(case.shape[0])])

    @functools.cached_property
    def slices_of_class(self) -> list[tuple[int, np.ndarray]]:
        """For each structure that is labelled somewhere, its class and the rows of `slices` with a labelled pixel."""
        present = np.concatenate([case.classes[GUIDES[self.name]] for case in self.cases])
        return [(c, np.flatnonzero(present[:, c])) for c in range(1, present.shape[1]) if present[:, c].any()]

    def draw(self, position: int) -> Draw:
        """The patch at a position of the stream.

        Without `foreground`, patch p is of element p mod N of the order of epoch p div N, so that every slice occurs
        once in an epoch, and its place in the slice is uniform.
        """
        random = _generator(self.seed, STREAMS[self.name], PATCH, position)
        if random.random() < self.foreground and self.slices_of_class:
            focus, rows = self.slices_of_class[random.integers(len(self.slices_of_class))]
            row = rows[random.integers(len(rows))]
        else:
            epoch, element = divmod(position, len(self.slices))
            focus, row = None, _order(self.seed, STREAMS[self.name], epoch, len(self.slices))[element]
        case, z = self.slices[row].tolist()
        shape = self.cases[case].shape[1:]
        free = np.maximum(np.subtract(shape, self.size), 0)
        if focus is None:
            corner = random.integers(free + 1)
        else:
            pixels = np.argwhere(self.cases[case].slice(z)[GUIDES[self.name]] == focus)
            corner = np.clip(pixels[random.integers(len(pixels))] - np.floor_divide(self.size, 2), 0, free)
        padding = np.maximum(np.subtract(self.size, shape), 0) // 2
        margin = np.subtract(self.source_size, self.size) // 2
        y, x = (corner - padding - margin).tolist()
        return Draw(case, z, (y, x))

    def patches(self, positions: Sequence[int]) -> dict[str, np.ndarray]:
        """The patches at these positions, as in `batches`."""
        cut = [self._cut(self.draw(position)) for position in positions]
        return {key: np.stack([patch[key] for patch in cut]) for key in cut[0]}

    def _cut(self, draw: Draw) -> dict[str, np.ndarray]:
        """A patch, filled up outside the slice."""
        case = self.cases[draw.case]
        pixels, fill_values = case.slice(draw.slice), FILL_VALUES if case.entry.full else {}
        inside, target = [], []
        for start, patch, n in zip(draw.start, self.source_size, pixels.shape, strict=True):
            first, last = max(start, 0), min(start + patch, n)
            inside.append(slice(first, last))
            target.append(slice(first - start, last - start))
        pixels = pixels[*inside]
        patches: dict[str, np.ndarray] = {
            "image": np.zeros((*self.source_size, pixels["image"].shape[-1]), np.float16),
            **{name: np.full(self.source_size, fill_values.get(name, UNLABELED), np.uint8) for name in MAPS[self.name]},
        }
        background = self.backgrounds[draw.case] if self.backgrounds else 0
        for name, array in patches.items():
            array[*target] = pixels[name]
            if background and name != "image":
                array[*target][pixels[name] == 0] = background
        return patches


def batches(
    streams: Mapping[str, Stream],
    sizes: Mapping[str, int],
    *,
    ahead: int,
    start: int,
    stop: int,
    host: int = 0,
    hosts: int = 1,
) -> tf.data.Dataset:
    """This host's share of the batches of steps `start` to `stop - 1`.

    Args:
      streams: "strong" and, if the method uses it, "weak" -> the stream of its patches.
      sizes: images of each set in one batch, over all hosts.
      ahead: number of batches to prefetch; limits the memory.
      start: first step.
      stop: step after the last.
      host: index of this process; each has an equal share of every batch.
      hosts: number of processes.

    Returns:
      Batches {"strong": {"image", "label", "weak_label"}, "weak": {"image", "weak_label"}}: float16
      (n, y, x, channels) images in [0, 1], uint8 (n, y, x) label maps, with static shapes.
    """

    def arrays_of(step: int) -> list[np.ndarray]:
        return tf.nest.flatten({name: _share(s, sizes[name], step, host, hosts) for name, s in streams.items()})

    example = {name: _share(stream, sizes[name], start, host, hosts) for name, stream in streams.items()}
    spec = tf.nest.map_structure(lambda array: tf.TensorSpec(array.shape, array.dtype), example)

    def batch(step: tf.Tensor) -> dict[str, dict[str, tf.Tensor]]:
        flat = tf.nest.flatten(spec)
        arrays = tf.numpy_function(arrays_of, [step], [s.dtype for s in flat], stateful=False)
        shaped = [tf.ensure_shape(array, s.shape) for array, s in zip(arrays, flat, strict=True)]
        return tf.nest.pack_sequence_as(spec, shaped)

    return tf.data.Dataset.range(start, stop).map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(ahead)


def _share(stream: Stream, size: int, step: int, host: int, hosts: int) -> dict[str, np.ndarray]:
    """A host's images of one set in the batch of a step."""
    share = size // hosts
    first = int(step) * size + host * share
    return stream.patches(range(first, first + share))


def cases_of(streams: Mapping[str, Stream], sizes: Mapping[str, int], step: int) -> list[str]:
    """The names of the cases in the batch of a step, counted from 0; arguments as in `batches`."""
    names = [
        stream.cases[stream.draw(position).case].entry.name
        for name, stream in streams.items()
        for position in range(step * sizes[name], (step + 1) * sizes[name])
    ]
    return list(dict.fromkeys(names))


@functools.lru_cache(maxsize=8)
def _order(seed: int, stream: int, epoch: int, slices: int) -> np.ndarray:
    return _generator(seed, stream, ORDER, epoch).permutation(slices)


def _generator(seed: int, stream: int, purpose: int, number: int) -> np.random.Generator:
    """The random numbers of one purpose and position: Philox's counter starts where no other position's does."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, number, purpose, 0]))
