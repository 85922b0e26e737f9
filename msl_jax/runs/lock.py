"""One process at a time where a run is trained; locks end with the process that holds them, however it ends."""

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
    """Makes the folder and keeps others out of it until the block, or this process, ends, however it ends.

    The first of several hosts holds it for all. Where the file system knows no locks, as gs:// does not, nobody is
    kept out.

    Raises:
      InputError: another process holds it, it is a file, or its name does not do.
    """
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir}: is a file; give a folder as --workdir.")
    if "://" in os.fspath(workdir) or jax.process_index() > 0:
        yield
        return
    check_name(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    folder = os.open(workdir, os.O_RDONLY)
    try:
        take(folder, f"{workdir}: another process is training there; wait for it, or give another --workdir.")
        yield
    finally:
        os.close(folder)


def take(file: int, taken: str) -> None:
    """Locks an open file or folder until it is closed, by those as well who inherit it.

    Does nothing where the file system knows no locks.

    Raises:
      InputError: `taken`, another process has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(taken) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL):
            raise
