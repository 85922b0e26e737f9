"""Segments whole volumes with the network of a run folder or of a run in training."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from etils import epath
import jax
from jax.sharding import SingleDeviceSharding
import numpy as np

from msl_jax.data import intensity, resampling
from msl_jax.data.preparation import Preparation
from msl_jax.models.dual_branch import DualBranchUNet
from msl_jax.models.initial import Variables, initializer
from msl_jax.runs import checkpoints
from msl_jax.runs.config import read_config
from msl_jax.settings.objects import method_of, model_of, preparation_of


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """Segments volumes slice by slice.

    Attributes:
      model: the network.
      preparation: normalisation, image size and label values, as in training.
      branches: which branches to run.
      batch: slices per batch; a volume's last batch is padded, so that only one shape is compiled.
    """

    model: DualBranchUNet
    preparation: Preparation
    branches: tuple[str, ...]
    batch: int

    def probabilities(
        self, variables: Variables, volume: np.ndarray, spacing: Sequence[float]
    ) -> dict[str, np.ndarray]:
        """Softmax outputs on the volume's own grid.

        Args:
          variables: {"params", "batch_stats"} of the model.
          volume: float32 (slice, y, x, channel), intensities as stored.
          spacing: size of its voxels along (slice, y, x).

        Returns:
          Branch -> float32 (slice, y, x, classes), background first.
        """
        images = self.preparation.images(volume, intensity.measure(volume), spacing)
        slices = len(images)
        images = np.pad(images, ((0, -slices % self.batch), (0, 0), (0, 0), (0, 0)))
        outputs = [
            _softmax(self, variables, images[first : first + self.batch]) for first in range(0, slices, self.batch)
        ]
        fetched: list[dict[str, np.ndarray]] = jax.device_get(outputs)
        return {
            branch: resampling.resize_image(
                np.concatenate([output[branch] for output in fetched])[:slices], volume.shape[1:3], antialias=False
            )
            for branch in self.branches
        }

    def softmax(self, variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
        """Prepared float32 images (n, y, x, channel) -> branch -> float32 probabilities (n, y, x, classes)."""
        sets = {"images": images[None]}
        logits: Any = self.model.apply(variables, sets, dict.fromkeys(self.branches, tuple(sets)), train=False)
        return {branch: jax.nn.softmax(logits[branch]["images"][0]) for branch in self.branches}

    def label_map(self, probabilities: np.ndarray) -> np.ndarray:
        """uint8 (slice, y, x): the most probable class as the data set's own label value."""
        return self.preparation.value_of_class()[probabilities.argmax(-1)]


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
    segmenter = Segmenter(
        model=model_of(config),
        preparation=preparation_of(config),
        branches=tuple(method_of(config).branches()),
        batch=config.eval.batch,
    )
    manager = checkpoints.open_manager(workdir)
    size, channels = segmenter.preparation.size, config.data.channels
    abstract = jax.eval_shape(initializer(segmenter.model, size, segmenter.branches, channels), jax.random.key(0))
    sharding = SingleDeviceSharding(jax.local_devices()[0])  # independent of the devices that wrote it
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)
    step, items = checkpoints.load(manager, which, network=abstract)
    return segmenter, items["network"], step


_softmax = jax.jit(Segmenter.softmax, static_argnums=0)
