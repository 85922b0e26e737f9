"""How every command starts, and how it ends when its input is refused, a signal comes or the disk is full."""

import codecs
from collections.abc import Callable, Collection, Iterator, Sequence
import contextlib
import io
import itertools
import os
import signal
import sys
import textwrap
import traceback
from typing import Any, NoReturn
import warnings

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from msl_jax import plugins, settings
from msl_jax.errors import InputError, OddInput
from msl_jax.settings.parsing import keys, message, split_arg
from msl_jax.system import machine, restart
from msl_jax.system.paths import expanded, split
from msl_jax.system.signals import Interrupted

SETTINGS_MOVED = (
    "write `from msl_jax import settings` in place of `import configs`: settings.load('acdc') is acdc.get_config(), "
    "settings.apply is configs.apply"
)
TRACEBACK = "MSL_JAX_TRACEBACK"
"""The environment's variable that asks for a traceback as well."""
LONGEST = 300
"""Characters of what a library says that are passed on."""
PLAIN = {"±": "+-", "×": "x"}  # noqa: RUF001
"""What our tables hold -> how it is printed by a terminal that lacks it."""


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` under absl.

    Bad input ends in a sentence a fault on standard error and exit code 2, without a traceback, and so does what the
    system refuses: a folder that cannot be read or written, a full disk. A signal ends it in one, and 128 more than its
    number.
    """
    restart.restart_in_utf8()
    machine.set_up()
    warnings.showwarning = _show_warning  # type: ignore[assignment]  # called by position alone
    codecs.register_error("plain", _plain)  # type: ignore[arg-type]  # only what encodes is asked
    flags.DEFINE_list(
        "plugins",
        None,
        "Modules of yours, with commas between them, that add methods, terms, readers, networks or "
        "recipes: from this folder, or Python's path.",
    )
    if isinstance(sys.stdout, io.TextIOWrapper):  # as it is, but in a notebook
        sys.stdout.reconfigure(errors="plain")
    try:
        app.run(main, flags_parser=_parse_flags)
    except InputError as refused:
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
        f"{what}: a file, configs/NAME.py, or one of the package's, {', '.join(settings.EXPERIMENTS)}; behind it, "
        f"perhaps, :KEY=VALUE,... with KEY one of {', '.join(settings.ARGUMENTS)}. Every setting has a flag as well, "
        "--config.GROUP.KEY=VALUE: configs/nifti.py and msl_jax/settings/defaults.py say what each does.",
        lock_config=True,
    )


def define_choice(name: str, default: str, table: Collection[str], what: str) -> flags.FlagHolder[str]:
    """A flag that names a row of a table, perhaps one that a plugin added."""
    return flags.DEFINE(_Choice(table), name, default, what, serializer=flags.ArgumentSerializer())


def define_path(name: str, default: str | None, what: str) -> flags.FlagHolder[str]:
    """A flag that names a file or folder; `~` is the home folder."""
    return flags.DEFINE(_Path(), name, default, what, serializer=flags.ArgumentSerializer())


def define_paths(name: str, what: str) -> flags.FlagHolder[Any]:
    """A flag that names a file or folder, and may be given once for each of several."""
    return flags.DEFINE_multi(_Path(), flags.ArgumentSerializer(), name, None, what)


def define_path_list(name: str, what: str) -> flags.FlagHolder[Any]:
    """A flag that names files or folders, with commas between them."""
    return flags.DEFINE(_PathList(), name, None, what, serializer=flags.ListSerializer(","))


class _Choice(flags.ArgumentParser):
    """Accepts what the table holds when the flags are parsed."""

    def __init__(self, table: Collection[str]):
        self.table = table

    def parse(self, name: str) -> str:
        if name not in self.table:
            raise ValueError(f"value should be one of <{'|'.join(self.table)}>")
        return name


class _Path(flags.ArgumentParser):
    """Puts the home folder in place of `~`."""

    def parse(self, path: str) -> str:
        return expanded(path)


class _PathList(flags.ArgumentParser):
    """Splits at commas, but for those in the name of what is there."""

    def parse(self, text: str) -> list[str]:
        return split(text)


def _plain(error: UnicodeEncodeError) -> tuple[str, int]:
    """What the terminal's encoding lacks, in ASCII."""
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(c, c.encode("ascii", "backslashreplace").decode()) for c in lacking), error.end


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
        file, arg = split_arg(path)
        file = expanded(file)
        if file not in settings.EXPERIMENTS and not os.path.exists(file):
            raise InputError(
                f"--config={path}: there is no file {file}; give one, or {', '.join(settings.EXPERIMENTS)}."
            )
        try:
            config = settings.load(file, arg).lock()
        except Exception as error:
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            said = textwrap.shorten(message(error), LONGEST).rstrip(".")
            cure = SETTINGS_MOVED if _module(error) == "configs" else f"correct it, {TRACEBACK}=1 shows where"
            raise InputError(f"--config={path}: {kind}{said}; {cure}.") from error
        wrong = sorted(set(keys(config)) ^ set(keys(settings.defaults())))
        if wrong:
            said = textwrap.shorten(", ".join(wrong), LONGEST)
            raise InputError(
                f"--config={path}: unknown or missing is {said}; have those of msl_jax/settings/defaults.py."
            )
        return config


def _module(error: Exception) -> str:
    """The package that could not be imported, or lacks what was asked of it; "" for other errors."""
    asked = error.name if isinstance(error, ImportError) else getattr(getattr(error, "obj", None), "__name__", None)
    return (asked or "").split(".")[0]


def _load_plugins(argv: Sequence[str]) -> None:
    """Imports what --plugins names, wherever it stands, and refuses a run in --workdir that needs more.

    Before the flags are parsed: the settings of --config are those of all terms.
    """
    with contextlib.suppress(flags.Error):  # which is raised again when all flags are parsed
        argv = flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False)
    plugins.load([module.strip() for text in _given("plugins", argv) for module in text.split(",") if module])
    for text in _given("workdir", argv):
        folders: list[str] = []
        with contextlib.suppress(InputError):  # the same
            folders = [] if "://" in text else split(text)
        for folder in folders:
            plugins.check_run(folder)


def _given(flag: str, argv: Sequence[str]) -> Iterator[str]:
    """The values of a flag, as they stand among the arguments."""
    for argument, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        name, given, value = argument.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            yield value if given else following


def _parse_flags(argv: Sequence[str]) -> list[str]:
    logging.set_verbosity(logging.FATAL)  # unless --verbosity says otherwise: JAX and Orbax raise the errors they log
    _load_plugins(argv)
    if "config" in flags.FLAGS:
        flags.FLAGS["config"].parser = _ConfigFile()
    try:
        rest = flags.FLAGS(list(argv))
    except (AttributeError, KeyError) as error:
        name, _, hint = message(error).partition("\n")
        raise InputError(
            f"--config: there is no setting {name}; {hint or 'see its file for those that are.'}"
        ) from error
    except (flags.Error, TypeError, ValueError) as error:
        raise InputError(f"{str(error).strip().splitlines()[-1].strip(' .')}; see --help.") from error
    if rest[1:]:
        raise InputError(f"'{rest[1]}' is no flag; flags are --NAME=VALUE, see --help.")
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if isinstance(flag.value, ConfigDict) and name != "config":
            raise InputError(f"--{name}: is a group of settings; give each its own, --{name}.KEY=VALUE.")
        if flag.present and flag.value in ("", []) and flag.default != "" and "." not in name:
            raise InputError(f"--{name}: is empty; give it a value, or leave it out.")
    return rest
