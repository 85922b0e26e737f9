"""From a run folder, or a network in training, to label maps and probabilities of whole volumes."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict
import numpy as np

from msl_jax import checkpoints, experiment, machine
from msl_jax.checks import Refused
from msl_jax.data import builder, intensity, orientation, transforms, volumes
from msl_jax.data.pipeline import Preparation
from msl_jax.models.dual_branch import DualBranchUNet

Variables = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """Segments volumes slice by slice.

    Attributes:
      model: the network.
      preparation: normalisation, image size and label values, as in training.
      branches: which branches to run.
      batch: slices at a time; the last batch of a volume is padded, so that one shape is compiled.
    """

    model: DualBranchUNet
    preparation: Preparation
    branches: tuple[str, ...]
    batch: int

    def probabilities(self, variables: Variables, volume: np.ndarray) -> dict[str, np.ndarray]:
        """Softmax outputs on the volume's own grid.

        Args:
          variables: {"params", "batch_stats"} of the model.
          volume: float32 (slice, y, x, channel), intensities as stored.

        Returns:
          Branch -> float32 (slice, y, x, classes), background first.
        """
        images = self.preparation.normalize(volume, intensity.measure(volume))
        images = transforms.resize_image(images, self.preparation.size).numpy()
        slices = len(images)
        images = np.pad(images, ((0, -slices % self.batch), (0, 0), (0, 0), (0, 0)))
        outputs = [
            _softmax(self, variables, images[first : first + self.batch]) for first in range(0, slices, self.batch)
        ]
        outputs = jax.device_get(outputs)
        return {
            branch: transforms.resize_image(
                np.concatenate([output[branch] for output in outputs])[:slices], volume.shape[1:3]
            ).numpy()
            for branch in self.branches
        }

    def softmax(self, variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
        """Prepared float32 images (n, y, x, channel) -> branch -> float32 probabilities (n, y, x, classes)."""
        rows = {branch: slice(None) for branch in self.branches}
        logits = self.model.apply(variables, images[None], rows, train=False)
        return {branch: jax.nn.softmax(logits[branch][0]) for branch in self.branches}

    def label_map(self, probabilities: np.ndarray) -> np.ndarray:
        """uint8 (slice, y, x): the likeliest class as the data set's own label value."""
        return self.preparation.value_of_class()[probabilities.argmax(-1)]


def load(workdir: epath.Path, which: str = "last", branch: str | None = None) -> tuple[Segmenter, Variables, int]:
    """Reads a run's network.

    Args:
      workdir: the run's folder.
      which: "last" or "best" checkpoint.
      branch: "teacher" or "student", None for all that were trained.

    Returns:
      The segmenter, its variables and the step they are of.

    Raises:
      Refused: the folder holds no run or no checkpoint that can be read, or the branch was not trained.
    """
    config = experiment.read_config(workdir)
    trained = tuple(experiment.method_of(config).branches())
    if branch and branch not in trained:
        raise Refused(
            f"--branch={branch}: method '{config.method.name}' trains {' and '.join(trained)} alone; ask for that."
        )
    segmenter = Segmenter(
        model=experiment.model_of(config),
        preparation=experiment.preparation_of(config),
        branches=(branch,) if branch else trained,
        batch=config.eval.batch,
    )
    manager = checkpoints.open_manager(workdir)
    size, channels = segmenter.preparation.size, config.data.channels
    abstract = jax.eval_shape(initializer(segmenter.model, size, trained, channels), jax.random.key(0))
    here = SingleDeviceSharding(jax.local_devices()[0])  # whatever devices wrote it
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), abstract)
    step, items = checkpoints.load(manager, which, network=abstract)
    return segmenter, items["network"], step


def read_image(config: ConfigDict, files: Sequence[pathlib.Path]) -> volumes.Volume:
    """An image for a run, on its own grid.

    Args:
      config: of the run.
      files: of the image, as the layout's reader finds them.

    Raises:
      Refused: a file is no image, or there are other channels than in training.
    """
    image = builder.READERS[config.data.layout].read_image(files)
    channels = image.voxels.shape[-1]
    if channels != config.data.channels:
        raise Refused(
            f"{files[0]}: has {channels} channels, the run was trained on {config.data.channels}; give images of the "
            f"same kind{volumes.or_time_points(channels)}."
        )
    return image


def turn_of(config: ConfigDict, image: volumes.Volume) -> tuple[orientation.Turn, float | None]:
    """How an image is turned to lie like the slices that a run was trained on, as `orientation.turn_of` returns it."""
    return orientation.turn_of(image.directions, experiment.directions_of(config), config.data.axis)


def remarks(config: ConfigDict, image: volumes.Volume) -> list[str]:
    """What looks odd about an image for a run, a sentence each."""
    angle = turn_of(config, image)[1]
    found = list(image.remarks)
    if config.data.directions is None:
        found.append(
            "The run does not know which way its training images lay, so images are segmented as they are stored: they "
            "must lie like those."
        )
    elif image.directions is None:
        found.append(
            f"{image.path}: does not say which way it lies, so it is segmented as it is stored; if the result is poor, "
            "reorient it like the training images."
        )
    elif angle > orientation.FAR:
        found.append(
            f"{image.path}: lies {angle:.0f} degrees off the training images, which no permutation of its axes mends; "
            "look at the result, or resample the image."
        )
    return found


def initializer(
    model: DualBranchUNet, size: tuple[int, int], branches: tuple[str, ...], channels: int = 1
) -> Callable[[jax.Array], Variables]:
    """A function of a random key: freshly drawn parameters and batch statistics of a model with these branches."""
    images = jnp.zeros((1, 1, *size, channels), jnp.float32)
    rows = {branch: slice(None) for branch in branches}
    return lambda key: model.init(key, images, rows, train=False)


def init_variables(
    model: DualBranchUNet, size: tuple[int, int], branches: tuple[str, ...], seed: int, channels: int = 1
) -> Variables:
    """What `initializer` draws from a seed."""
    return machine.jit_once(initializer(model, size, branches, channels))(jax.random.key(seed))


_softmax = jax.jit(Segmenter.softmax, static_argnums=0)
