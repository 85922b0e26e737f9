"""How every command starts, and how it ends when its input is refused, a signal comes or the disk is full."""

from collections.abc import Callable, Sequence
import errno
import signal
import sys
from typing import NoReturn

from absl import app, flags, logging

from msl_jax import machine
from msl_jax.checks import Refused
from msl_jax.signals import Interrupted

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
"""What the system says where a file cannot be written, whatever is written."""


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` under absl.

    Bad input ends in a sentence a fault on standard error and exit code 2, without a traceback; a signal in one, and
    128 more than its number.
    """
    machine.set_up()
    try:
        app.run(main, flags_parser=_parse_flags)
    except Refused as refused:
        _end(str(refused), 2)
    except Interrupted as interrupted:
        _end(str(interrupted), 128 + interrupted.number)
    except KeyboardInterrupt:
        _end("stopped; the same command begins again or goes on.", 128 + signal.SIGINT)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        _end(f"{error.filename}: cannot be written, {error.strerror}; mend that, and the same command goes on.", 2)


def _end(said: str, code: int) -> NoReturn:
    for line in said.splitlines():
        print(f"msl_jax: {line}", file=sys.stderr)
    sys.exit(code)


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
        logging.set_verbosity(logging.FATAL)  # JAX and Orbax raise the errors that they log
    return rest
