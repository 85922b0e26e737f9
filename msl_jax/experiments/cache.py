"""The folder for built data sets and ready cases, and errors if it is not writable."""

from collections.abc import Iterator
import contextlib
import errno
import os
import pathlib

from ml_collections import ConfigDict

from msl_jax.data.builder import DEFAULT_CACHE
from msl_jax.errors import InputError
from msl_jax.system.paths import expanded

CURE = "give a writable folder with --config.data.cache=FOLDER"
WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that only writing causes."""
MAX_CHARACTERS = 120
"""Length to which an error message of array_record is shortened."""


def cache_of(config: ConfigDict) -> str:
    """The folder of config.data.cache, or the default."""
    cache = expanded(config.data.cache or os.environ.get("TFDS_DATA_DIR") or DEFAULT_CACHE, CURE)
    return cache if "://" in cache else os.path.abspath(cache)


@contextlib.contextmanager
def writing(cache: str) -> Iterator[None]:
    """Raises errors of writing to `cache` as InputErrors; within, only `cache` may be written to."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError on a full disk
        path = getattr(error, "filename", None) or cache
        is_parent = pathlib.Path(path) in pathlib.Path(cache).parents
        if not (cache in str(error) or is_parent or getattr(error, "errno", None) in WRITE_ERRORS):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:MAX_CHARACTERS]
        raise InputError(f"{path}: {reason}; {CURE}.") from error
