"""How every command starts and how it ends when its input is refused."""

from collections.abc import Callable, Sequence
import sys

from absl import app, flags, logging

from msl_jax.checks import Refused


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` under absl; bad input ends in one sentence on standard error and exit code 2, without a traceback."""
    try:
        app.run(main, flags_parser=_parse_flags)
    except Refused as refused:
        print(f"msl_jax: {refused}", file=sys.stderr)
        sys.exit(2)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        rest = app.parse_flags_with_usage(list(argv))
    except (AttributeError, KeyError, TypeError, ValueError, SyntaxError, FileNotFoundError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Refused(
            f"--config: cannot be read as asked for ({reason.rstrip('.')}); see --help and the file."
        ) from error
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.ERROR)
    if rest[1:]:
        raise Refused(f"'{rest[1]}' is no flag; flags are --NAME=VALUE, see --help.")
    return rest
