"""Start-up and flags of every command, and its exit on bad input, signals and system errors."""

import codecs
from collections.abc import Callable, Collection, Iterator, Sequence
import contextlib
import io
import itertools
import os
import signal
import sys
import traceback
from typing import Any, NoReturn
import warnings

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from msl_jax import plugins, settings
from msl_jax.errors import InputError, OddInput
from msl_jax.settings.parsing import message, parse_config, with_settings
from msl_jax.system import machine, restart
from msl_jax.system.paths import expanded, split
from msl_jax.system.signals import Interrupted

TRACEBACK = "MSL_JAX_TRACEBACK"
"""Environment variable: if set, errors also print a traceback."""
PLAIN = {"±": "+-", "×": "x"}  # noqa: RUF001
"""Characters of our tables -> ASCII, for terminals that cannot encode them."""


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` under absl.

    On bad input, prints one sentence per problem on standard error, without a traceback, and exits with code 2. So do
    system errors, like missing permissions or a full disk. After a signal, prints one sentence and exits with 128 plus
    the signal's number.
    """
    restart.restart_in_utf8()
    machine.set_up()
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # called by position only
    codecs.register_error("plain", _plain)  # type: ignore[arg-type]  # it is only used for encoding
    flags.DEFINE_list(
        "plugins",
        None,
        "Your own modules, separated by commas, that add methods, terms, readers, networks or recipes; found in this "
        "folder or on Python's path.",
    )
    if isinstance(sys.stdout, io.TextIOWrapper):  # not in a notebook
        sys.stdout.reconfigure(errors="plain")
    try:
        app.run(main, flags_parser=_parse_flags)
    except InputError as error:
        _end(str(error), 2)
    except Interrupted as interrupted:
        _end(str(interrupted), 128 + interrupted.number)
    except KeyboardInterrupt:
        _end("stopped; rerun the same command to resume or start again.", 128 + signal.SIGINT)
    except BrokenPipeError:  # the reader of the output has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        text = str(error) if error.filename is None else f"{error.filename}: {error.strerror}"
        _end(f"{' '.join(text.split())}; check the path, its permissions and the free space, then rerun.", 2)


flags.disclaim_key_flags()  # so that --help lists --config among the flags of the command


def define_config(subject: str = "The experiment") -> flags.FlagHolder[ConfigDict]:
    """The flag --config of every command that opens an experiment; its help text starts with `subject`.

    `_parse_flags` has it loaded by `_ConfigFile` instead of ml_collections' own parser.
    """
    return config_flags.DEFINE_config_file(
        "config",
        None,
        f"{subject}: a file, configs/NAME.py, or one of the package's, {', '.join(settings.EXPERIMENTS)}; optionally "
        f"followed by :KEY=VALUE,... with KEY one of {', '.join(settings.ARGUMENTS)}. Every setting also has a flag, "
        "--config.GROUP.KEY=VALUE; see configs/nifti.py and msl_jax/settings/defaults.py.",
        lock_config=True,
    )


def define_choice(name: str, default: str, table: Collection[str], text: str) -> flags.FlagHolder[str]:
    """A flag that names a row of a table; plugins can add rows."""
    return flags.DEFINE(_Choice(table), name, default, text, serializer=flags.ArgumentSerializer())


def define_path(name: str, default: str | None, text: str) -> flags.FlagHolder[str]:
    """A flag that names a file or folder; `~` is the home folder."""
    return flags.DEFINE(_Path(), name, default, text, serializer=flags.ArgumentSerializer())


def define_paths(name: str, text: str) -> flags.FlagHolder[Any]:
    """A flag that names a file or folder and can be repeated."""
    return flags.DEFINE_multi(_Path(), flags.ArgumentSerializer(), name, None, text)


def define_path_list(name: str, text: str) -> flags.FlagHolder[Any]:
    """A flag that names files or folders, separated by commas."""
    return flags.DEFINE(_PathList(), name, None, text, serializer=flags.ListSerializer(","))


class _Choice(flags.ArgumentParser):
    """Accepts the names in the table at the time of parsing."""

    def __init__(self, table: Collection[str]):
        self.table = table

    def parse(self, name: str) -> str:
        if name not in self.table:
            raise ValueError(f"value should be one of <{'|'.join(self.table)}>")
        return name


class _Path(flags.ArgumentParser):
    """Expands `~` to the home folder."""

    def parse(self, path: str) -> str:
        return expanded(path)


class _PathList(flags.ArgumentParser):
    """Splits at commas, except those in the names of existing files and folders."""

    def parse(self, text: str) -> list[str]:
        return split(text)


def _plain(error: UnicodeEncodeError) -> tuple[str, int]:
    """Replaces characters that the terminal's encoding lacks by ASCII."""
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(c, c.encode("ascii", "backslashreplace").decode()) for c in missing), error.end


def _show_warning(message, category, *location, default=warnings.showwarning) -> None:
    """Prints our warnings as a sentence, others as Python does."""
    if issubclass(category, OddInput):
        print(f"warning: {message}", file=sys.stderr, flush=True)
    else:
        default(message, category, *location)


def _end(message: str, code: int) -> NoReturn:
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    for line in message.splitlines():
        print(f"msl_jax: {line}", file=sys.stderr)
    sys.exit(code)


class _ConfigFile(flags.ArgumentParser):
    """Loads and executes the file of --config; any error in it becomes an InputError."""

    def parse(self, path: str) -> ConfigDict:
        name = f"--config={path}"
        return with_settings(parse_config(path, name, advice=f"correct it, {TRACEBACK}=1 shows where"), {}, name)


def _load_plugins(argv: Sequence[str]) -> None:
    """Imports the modules of --plugins; raises InputError if a run in --workdir needs others.

    This comes before the flags are parsed, because plugins add settings to --config.
    """
    with contextlib.suppress(flags.Error):  # raised again when all flags are parsed
        argv = flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False)
    plugins.load([module.strip() for text in _values("plugins", argv) for module in text.split(",") if module])
    for text in _values("workdir", argv):
        folders: list[str] = []
        with contextlib.suppress(InputError):  # raised again when all flags are parsed
            folders = [] if "://" in text else split(text)
        for folder in folders:
            plugins.check_run(folder)


def _values(flag: str, argv: Sequence[str]) -> Iterator[str]:
    """The values of a flag among unparsed arguments."""
    for argument, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        name, equals, value = argument.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            yield value if equals else following


def _parse_flags(argv: Sequence[str]) -> list[str]:
    logging.set_verbosity(logging.FATAL)  # JAX and Orbax raise the errors that they log; --verbosity overrides this
    _load_plugins(argv)
    if "config" in flags.FLAGS:
        flags.FLAGS["config"].parser = _ConfigFile()
    try:
        rest = flags.FLAGS(list(argv))
    except (AttributeError, KeyError) as error:
        name, _, hint = message(error).partition("\n")
        raise InputError(f"--config: there is no setting {name}; {hint or 'see the config file.'}") from error
    except (flags.Error, TypeError, ValueError) as error:
        raise InputError(f"{str(error).strip().splitlines()[-1].strip(' .')}; see --help.") from error
    if rest[1:]:
        raise InputError(f"'{rest[1]}' is not a flag; flags are --NAME=VALUE, see --help.")
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if isinstance(flag.value, ConfigDict) and name != "config":
            raise InputError(f"--{name}: is a group of settings; set each one by --{name}.KEY=VALUE.")
        if flag.present and flag.value in ("", []) and flag.default != "" and "." not in name:
            raise InputError(f"--{name}: is empty; give a value, or leave it out.")
    return rest
