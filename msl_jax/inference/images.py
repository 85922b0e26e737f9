"""Images for a trained run: read, checked and turned to lie as its training images did."""

from collections.abc import Sequence
import pathlib

from ml_collections import ConfigDict

from msl_jax.data.formats import orientation, volumes
from msl_jax.data.readers import READERS
from msl_jax.errors import InputError
from msl_jax.settings.resolved import directions_of


def read_image(config: ConfigDict, files: Sequence[pathlib.Path]) -> volumes.Volume:
    """An image for a run, on its own grid.

    Args:
      config: of the run.
      files: of the image, as the layout's reader finds them.

    Raises:
      InputError: a file is no image, or there are other channels than in training.
    """
    image = READERS[config.data.layout].read_image(files)
    channels = image.voxels.shape[-1]
    if channels != config.data.channels:
        raise InputError(
            f"{files[0]}: has {channels} channels, the run was trained on {config.data.channels}; give images of the "
            f"same kind{volumes.or_time_points(channels)}."
        )
    return image


def turn_of(config: ConfigDict, image: volumes.Volume) -> tuple[orientation.Turn, float | None]:
    """How an image is turned to lie like the slices that a run was trained on, as `orientation.turn_of` returns it."""
    return orientation.turn_of(image.directions, directions_of(config), config.data.axis)


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
    elif angle is not None and angle > orientation.FAR:
        found.append(
            f"{image.path}: lies {angle:.0f} degrees off the training images, which no permutation of its axes mends; "
            "look at the result, or resample the image."
        )
    return found
