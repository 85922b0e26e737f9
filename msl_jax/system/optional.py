"""Libraries that only some uses need, and that come as extras of the package (pyproject.toml lists them)."""

from collections.abc import Iterator
import contextlib

from msl_jax.errors import InputError


@contextlib.contextmanager
def needed(by: object, library: str, extra: str, instead: str = "") -> Iterator[None]:
    """Around an import: says what to install where the library is missing.

    Args:
      by: the file or flag that needs it.
      library: its name, as its users know it.
      extra: the extra that brings it.
      instead: what also helps, if anything does.

    Raises:
      InputError: it cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        cure = f"install it by pip install 'msl_jax[{extra}]'" + (f", or {instead}" if instead else "")
        raise InputError(f"{by}: needs {library}; {cure}.") from error
