"""File locks: only one process at a time trains a run. A lock ends with its process, even if that is killed."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os

from etils import epath
import jax

from msl_jax.errors import InputError
from msl_jax.system.paths import check_name


@contextlib.contextmanager
def held(workdir: epath.Path) -> Iterator[None]:
    """Creates the folder and locks it until the block or this process ends.

    Of several hosts, only the first takes the lock. File systems without locks, like gs://, are not locked.

    Raises:
      InputError: another process has the lock, the path is a file, or its name is not usable.
    """
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir}: is a file; give a folder as workdir.")
    if "://" in os.fspath(workdir) or jax.process_index() > 0:
        yield
        return
    check_name(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    folder = os.open(workdir, os.O_RDONLY)
    try:
        take(folder, f"{workdir}: another process is training there; wait for it, or give another workdir.")
        yield
    finally:
        os.close(folder)


def take(file: int, message: str) -> None:
    """Locks an open file or folder until it is closed, also by child processes that inherit it.

    Does nothing on file systems without locks.

    Raises:
      InputError: another process has the lock; with the given message.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(message) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL):
            raise
