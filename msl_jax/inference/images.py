"""Images for a trained run: read, checked and reoriented like its training images."""

from collections.abc import Iterator, Mapping, Sequence
import pathlib
from typing import TypeVar

from ml_collections import ConfigDict

from msl_jax.data.formats import orientation, volumes
from msl_jax.data.readers import READERS
from msl_jax.errors import InputError
from msl_jax.settings.objects import directions_of

Name = TypeVar("Name")


def read_image(config: ConfigDict, files: Sequence[pathlib.Path]) -> volumes.Volume:
    """Reads an image for a run, on the image's own grid.

    Args:
      config: the run's config.
      files: the image's files, as found by the layout's reader.

    Raises:
      InputError: a file is not an image, or the channels differ from those in training.
    """
    image = READERS[config.data.layout].read_image(files)
    channels = image.voxels.shape[-1]
    if channels != config.data.channels:
        raise InputError(
            f"{files[0]}: has {channels} channels, the run was trained on {config.data.channels}; give images of the "
            f"same kind{volumes.or_time_points(channels)}."
        )
    return image


def readable_images(
    config: ConfigDict, cases: Mapping[Name, Sequence[pathlib.Path]], problems: list[str]
) -> Iterator[tuple[Name, volumes.Volume]]:
    """Reads one image after another; adds the errors of those that cannot be used to `problems`."""
    for name, files in cases.items():
        try:
            image = read_image(config, files)
        except InputError as error:
            problems.append(str(error))
        else:
            yield name, image


def turn_of(config: ConfigDict, image: volumes.Volume) -> tuple[orientation.Turn, float | None]:
    """How to reorient an image like the run's training slices; as returned by `orientation.turn_of`."""
    return orientation.turn_of(image.directions, directions_of(config), config.data.axis)


def units_differ(run: str | None, images: str | None) -> list[str]:
    """A warning if the voxel sizes of a run that resamples and of images have different units.

    Args:
      run: the run's config.data.units, "mm" or "voxel"; None if it does not resample.
      images: the same of the images.
    """
    if None in (run, images) or run == images:
        return []
    known, unknown = ("the run's", "theirs") if run == "mm" else ("theirs", "the run's")
    return [
        f"{known} voxel sizes are in mm, {unknown} are unknown (in voxels), so slices are resampled to a wrong size; "
        "write voxel sizes into the headers, or use a run that was trained on such images."
    ]


def remarks(config: ConfigDict, image: volumes.Volume) -> list[str]:
    """Warnings about an image for a run, a sentence each."""
    angle = turn_of(config, image)[1]
    warnings = list(image.remarks)
    warnings += [f"{image.path}: {text}" for text in units_differ(config.data.units, image.units)]
    if config.data.directions is None:
        warnings.append(
            "The orientation of the run's training images is unknown, so images are segmented as stored; check that "
            "theirs is the same."
        )
    elif image.directions is None:
        warnings.append(
            f"{image.path}: its orientation is unknown, so it is segmented as stored; if the result is poor, reorient "
            "it like the training images."
        )
    elif angle is not None and angle > orientation.FAR:
        warnings.append(
            f"{image.path}: is rotated by {angle:.0f} degrees against the training images, which permuting axes cannot "
            "correct; check the result, or resample the image."
        )
    return warnings
