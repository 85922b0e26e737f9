"""How every command starts and how it ends when its input is refused."""

from collections.abc import Callable, Sequence
import sys

from absl import app, flags, logging

from msl_jax import machine
from msl_jax.checks import Refused


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` under absl; bad input ends in a sentence a fault on standard error and exit code 2, no traceback."""
    machine.set_up()
    try:
        app.run(main, flags_parser=_parse_flags)
    except Refused as refused:
        for problem in str(refused).splitlines():
            print(f"msl_jax: {problem}", file=sys.stderr)
        sys.exit(2)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(list(argv))
        if getattr(flags.FLAGS, "config", None) is not None:
            flags.FLAGS.config.seed  # noqa: B018  a file that could not be loaded says so when it is first used
    except (AttributeError, KeyError) as error:
        setting = " ".join(str(error.args[0]).split())
        raise Refused(f"--config: there is no setting {setting}; see the config's file for those that are.") from error
    except (flags.Error, OSError, TypeError, ValueError) as error:
        raise Refused(str(error).strip().splitlines()[-1].strip()) from error
    if rest[1:]:
        raise Refused(f"'{rest[1]}' is no flag; flags are --NAME=VALUE, see --help.")
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.ERROR)
    return rest
