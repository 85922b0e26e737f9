"""How every command starts, and how it ends when its input is refused, a signal comes or the disk is full."""

from collections.abc import Callable, Iterator, Sequence
import os
import runpy
import signal
import sys
import textwrap
import traceback
from typing import NoReturn
import warnings

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from configs import ARGUMENTS, acdc
from msl_jax import machine
from msl_jax.checks import OddInput, Refused
from msl_jax.signals import Interrupted

TRACEBACK = "MSL_JAX_TRACEBACK"
"""The environment's variable that asks for a traceback as well."""
LONGEST = 300
"""Characters of what a library says that are passed on."""


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` under absl.

    Bad input ends in a sentence a fault on standard error and exit code 2, without a traceback, and so does what the
    system refuses: a folder that cannot be read or written, a full disk. A signal ends it in one, and 128 more than its
    number.
    """
    machine.set_up()
    warnings.showwarning = _show_warning
    try:
        app.run(main, flags_parser=_parse_flags)
    except Refused as refused:
        _end(str(refused), 2)
    except Interrupted as interrupted:
        _end(str(interrupted), 128 + interrupted.number)
    except KeyboardInterrupt:
        _end("stopped; the same command begins again or goes on.", 128 + signal.SIGINT)
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        said = str(error) if error.filename is None else f"{error.filename}: {error.strerror}"
        _end(f"{' '.join(said.split())}; check the path, its permissions and the space there, then go on.", 2)


flags.disclaim_key_flags()  # so that --help lists --config among the flags of the command


def define_config(what: str = "The experiment") -> flags.FlagHolder[ConfigDict]:
    """The flag --config of every command that opens an experiment; what it says in --help begins with `what`."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        f"{what}: configs/NAME.py, or configs/NAME.py:KEY=VALUE,... with KEY one of {', '.join(ARGUMENTS)}. Every "
        "setting in the file has a flag as well, --config.GROUP.KEY=VALUE: configs/nifti.py and configs/acdc.py say "
        "what each does.",
        lock_config=True,
    )


def _show_warning(message, category, *place, shown=warnings.showwarning) -> None:
    """Ours as a sentence, others as Python shows them."""
    if issubclass(category, OddInput):
        print(f"warning: {message}", file=sys.stderr, flush=True)
    else:
        shown(message, category, *place)


def _end(said: str, code: int) -> NoReturn:
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    for line in said.splitlines():
        print(f"msl_jax: {line}", file=sys.stderr)
    sys.exit(code)


class _ConfigFile(flags.ArgumentParser):
    """Loads the file of --config, whose whole code may run; whatever goes wrong in it is refused."""

    def parse(self, path: str) -> ConfigDict:
        file, *arg = path.split(":", 1)
        try:
            config = runpy.run_path(file)["get_config"](*arg).lock()
        except Exception as error:
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            said = textwrap.shorten(_said(error), LONGEST).rstrip(".")
            raise Refused(f"--config={path}: {kind}{said}; correct it, {TRACEBACK}=1 shows where.") from error
        wrong = sorted(set(_settings(config)) ^ set(_settings(acdc.get_config())))
        if wrong:
            said = textwrap.shorten(", ".join(wrong), LONGEST)
            raise Refused(f"--config={path}: unknown or missing is {said}; have the settings of configs/acdc.py.")
        return config


def _settings(config: ConfigDict, group: str = "") -> Iterator[str]:
    """Every setting by its name, like "data.source"."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _settings(value, f"{group}{key}.")
        else:
            yield group + key


def _said(error: Exception) -> str:
    """The message of an error, or of the one inside that it is made of."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    return str(error.args[0] if isinstance(error, KeyError) else error)


def _parse_flags(argv: Sequence[str]) -> list[str]:
    logging.set_verbosity(logging.FATAL)  # unless --verbosity says otherwise: JAX and Orbax raise the errors they log
    if "config" in flags.FLAGS:
        flags.FLAGS["config"].parser = _ConfigFile()
    try:
        rest = flags.FLAGS(list(argv))
    except (AttributeError, KeyError) as error:
        name, _, hint = _said(error).partition("\n")
        raise Refused(f"--config: there is no setting {name}; {hint or 'see its file for those that are.'}") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise Refused(f"{str(error).strip().splitlines()[-1].strip(' .')}; see --help.") from error
    if rest[1:]:
        raise Refused(f"'{rest[1]}' is no flag; flags are --NAME=VALUE, see --help.")
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if isinstance(flag.value, ConfigDict) and name != "config":
            raise Refused(f"--{name}: is a group of settings; give each its own, --{name}.KEY=VALUE.")
        if flag.present and flag.value in ("", []) and flag.default != "" and "." not in name:
            raise Refused(f"--{name}: is empty; give it a value, or leave it out.")
    return rest
