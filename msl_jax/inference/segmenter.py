"""Segments whole volumes with the network of a run folder or of a run in training."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import math
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict
import numpy as np

from msl_jax.data import intensity, resampling
from msl_jax.data.preparation import Preparation
from msl_jax.inference import windows
from msl_jax.models.dual_branch import DualBranchUNet
from msl_jax.models.initial import Variables, initializer
from msl_jax.runs import checkpoints
from msl_jax.runs.config import read_config
from msl_jax.settings.objects import method_of, model_of, preparation_of

Slab = tuple[slice, dict[str, np.ndarray]]
"""Some consecutive slices of a volume, and branch -> their probabilities, float32 (n, y, x, classes)."""
FLIPS = ((), (1,), (2,), (1, 2))
"""Axes of images (n, y, x, channel) that `mirror` reverses, as in nnU-Net."""


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """Segments volumes: slices are resampled as in training, and the network sees windows of them.

    Attributes:
      model: the network.
      preparation: normalisation, resampling, size of the windows and label values, as in training.
      branches: which branches to run.
      batch: windows per batch; the last one is filled up, so that only one shape is compiled.
      mirror: average the probabilities over FLIPS of each window.
    """

    model: DualBranchUNet
    preparation: Preparation
    branches: tuple[str, ...]
    batch: int
    mirror: bool = False

    def slabs(self, variables: Variables, volume: np.ndarray, spacing: Sequence[float]) -> Iterator[Slab]:
        """Softmax outputs on the volume's own grid, a few slices at a time.

        Probabilities are merged from the windows and resized linearly. Both are weighted means, so they sum to 1.

        Args:
          variables: {"params", "batch_stats"} of the model.
          volume: float32 (slice, y, x, channel), intensities as stored.
          spacing: size of its voxels along (slice, y, x).

        Yields:
          Slabs of `slab_length` slices, the last one of at most as many; background is the first class.
        """
        statistics = intensity.measure(volume)
        length = self.slab_length(volume.shape, spacing)
        for first in range(0, len(volume), length):
            slices = volume[first : first + length]
            images = self.preparation.images(slices, statistics, spacing)
            yield (
                slice(first, first + len(slices)),
                {
                    branch: resampling.resize_image(p, slices.shape[1:3], antialias=False)
                    for branch, p in self._on_grid(variables, images).items()
                },
            )

    def slab_length(self, shape: Sequence[int], spacing: Sequence[float]) -> int:
        """Slices of a slab: the fewest whose windows fill whole batches, so that slabs do not change any batch."""
        grid = self.preparation.grid(shape[1:3], spacing[1:])
        padded = [max(sides) for sides in zip(grid, self.preparation.size, strict=True)]
        return self.batch // math.gcd(self.batch, len(windows.corners(padded, self.preparation.size)))

    def probabilities(
        self, variables: Variables, volume: np.ndarray, spacing: Sequence[float]
    ) -> dict[str, np.ndarray]:
        """All slabs of a small volume: branch -> float32 (slice, y, x, classes); arguments as of `slabs`."""
        return joined(slab for _, slab in self.slabs(variables, volume, spacing))

    def classes(self, variables: Variables, volume: np.ndarray, spacing: Sequence[float]) -> dict[str, np.ndarray]:
        """Branch -> the most probable class, uint8 (slice, y, x); arguments as of `slabs`."""
        return joined(most_probable(slab) for _, slab in self.slabs(variables, volume, spacing))

    def classes_and_foreground(
        self, variables: Variables, volume: np.ndarray, spacing: Sequence[float]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """`classes`, and the foreground probability of the last branch, float32 (slice, y, x)."""
        classes, foreground = [], []
        for _, slab in self.slabs(variables, volume, spacing):
            classes.append(most_probable(slab))
            foreground.append(1 - slab[self.branches[-1]][..., 0])
        return joined(classes), np.concatenate(foreground)

    def softmax(self, variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
        """Prepared float32 images (n, y, x, channel) -> branch -> float32 probabilities (n, y, x, classes)."""
        sets = {"images": images[None]}
        logits: Any = self.model.apply(variables, sets, dict.fromkeys(self.branches, tuple(sets)), train=False)
        return {branch: jax.nn.softmax(logits[branch]["images"][0]) for branch in self.branches}

    def averaged(self, variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
        """`softmax`; with `mirror`, its mean over FLIPS."""
        if not self.mirror:
            return self.softmax(variables, images)
        flipped = [(axes, self.softmax(variables, jnp.flip(images, axes))) for axes in FLIPS]
        return {
            branch: jnp.mean(jnp.stack([jnp.flip(output[branch], axes) for axes, output in flipped]), 0)
            for branch in self.branches
        }

    def label_map(self, probabilities: np.ndarray) -> np.ndarray:
        """uint8 (slice, y, x): the most probable class as the data set's own label value."""
        return self.preparation.value_of_class()[probabilities.argmax(-1)]

    def _on_grid(self, variables: Variables, images: np.ndarray) -> dict[str, np.ndarray]:
        """Prepared images (n, *grid, channel) -> branch -> probabilities (n, *grid, classes)."""
        padded = windows.pad(images, self.preparation.size)
        patches = windows.split(padded, self.preparation.size)
        outputs = [_averaged(self, variables, batch) for batch in windows.batches(patches, self.batch)]
        fetched: list[dict[str, np.ndarray]] = jax.device_get(outputs)
        found = {branch: [window for output in fetched for window in output[branch]] for branch in self.branches}
        merged = {branch: windows.merge(found[branch][: len(patches)], padded.shape[1:3]) for branch in self.branches}
        return {branch: windows.cut(p, images.shape[1:3]) for branch, p in merged.items()}


def most_probable(slab: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Branch -> the most probable class, uint8 (n, y, x), of a slab's probabilities."""
    return {branch: probabilities.argmax(-1).astype(np.uint8) for branch, probabilities in slab.items()}


def joined(parts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Concatenates the arrays of each branch along the first axis."""
    parts = list(parts)
    return {branch: np.concatenate([part[branch] for part in parts]) for branch in parts[0]}


def segmenter_of(config: ConfigDict, branches: tuple[str, ...]) -> Segmenter:
    """The segmenter of a filled-in config."""
    return Segmenter(model_of(config), preparation_of(config), branches, config.eval.batch, config.eval.mirror)


def load_network(workdir: epath.Path, which: str = "last") -> tuple[Segmenter, Variables, int]:
    """Reads a run's network.

    Args:
      workdir: the run's folder.
      which: "last" or "best" checkpoint.

    Returns:
      The segmenter of all trained branches, its variables and the checkpoint's step.

    Raises:
      InputError: the folder contains no run or no readable checkpoint.
    """
    config = read_config(workdir)
    segmenter = segmenter_of(config, tuple(method_of(config).branches()))
    manager = checkpoints.open_manager(workdir)
    size, channels = segmenter.preparation.size, config.data.channels
    abstract = jax.eval_shape(initializer(segmenter.model, size, segmenter.branches, channels), jax.random.key(0))
    sharding = SingleDeviceSharding(jax.local_devices()[0])  # independent of the devices that wrote it
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)
    step, items = checkpoints.load(manager, which, network=abstract)
    return segmenter, items["network"], step


_averaged = jax.jit(Segmenter.averaged, static_argnums=0)
