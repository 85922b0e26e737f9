"""Arrays on disk, for what does not fit into memory."""

from collections.abc import Sequence
import math
import os
import shutil
import tempfile

import numpy as np

from msl_jax.errors import InputError


def array(shape: Sequence[int], folder: str | os.PathLike[str] | None = None) -> np.memmap:
    """Zeros, float32, in an unnamed file that is deleted with the array.

    Args:
      shape: the array's shape.
      folder: where the file is; by default the system's folder for temporary files.

    Raises:
      InputError: the disk has too little space, so that writing would end the process.
    """
    folder = tempfile.gettempdir() if folder is None else os.fspath(folder)
    needed, free = 4 * math.prod(shape), shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: has {free / 1e9:.1f} GB of free space, but probabilities of {needed / 1e9:.1f} GB are to be "
            "stored there; free some space."
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.float32, "w+", shape=tuple(shape))
