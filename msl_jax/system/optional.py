"""Optional libraries, installed as extras of the package (listed in pyproject.toml)."""

from collections.abc import Iterator
import contextlib

from msl_jax.errors import InputError


@contextlib.contextmanager
def needed(by: object, library: str, extra: str, instead: str = "") -> Iterator[None]:
    """Context for an import that may fail: the error names the extra to install.

    Args:
      by: the file or flag that needs the library.
      library: its name, for the message.
      extra: the extra that installs it.
      instead: an alternative fix, if there is one.

    Raises:
      InputError: the library cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        cure = f"install it with pip install 'msl_jax[{extra}]'" + (f", or {instead}" if instead else "")
        raise InputError(f"{by}: needs {library}; {cure}.") from error
