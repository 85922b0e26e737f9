"""Parsing of configs ("NAME" or "FILE.py", optionally followed by ":ARG") and of settings by dotted keys."""

from collections.abc import Iterator, Mapping
import copy
import os
import re
import textwrap
from typing import Any

from ml_collections import ConfigDict

from msl_jax.errors import InputError
from msl_jax.settings.configs import EXPERIMENTS, load
from msl_jax.settings.defaults import defaults
from msl_jax.system.paths import expanded
from msl_jax.system.text import few

MAX_CHARACTERS = 300
"""Length to which another error's message is shortened."""
SETTINGS_MOVED = (
    "write `from msl_jax import settings` in place of `import configs`: settings.load('acdc') is acdc.get_config(), "
    "settings.apply is configs.apply"
)


def split_arg(text: str) -> tuple[str, str | None]:
    """The name or path of a config, and its ARG.

    >>> split_arg("configs/acdc.py:strong=3")
    ('configs/acdc.py', 'strong=3')
    >>> split_arg("phantom")
    ('phantom', None)
    """
    match = re.fullmatch(r"(?P<file>.*?\.py|[^:]*)(?::(?P<arg>.*))?", text, re.DOTALL)
    return (match["file"], match["arg"]) if match else (text, None)


def parse_config(text: str, name: str, advice: str = "correct it") -> ConfigDict:
    """Loads a config. Executes its file.

    Args:
      text: an experiment of the package or a path, optionally followed by ":ARG".
      name: the start of messages, such as "config=FILE.py".
      advice: what to do about an error in the file, for its message.

    Raises:
      InputError: there is no such config, or loading it fails.
    """
    file, arg = split_arg(text)
    file = expanded(file)
    if file not in EXPERIMENTS and not os.path.exists(file):
        raise InputError(f"{name}: there is no file {file}; give a file, or one of {', '.join(EXPERIMENTS)}.")
    try:
        config = load(file, arg)
        if not isinstance(config, ConfigDict):
            raise ValueError(f"get_config returns a {type(config).__name__}, not a ConfigDict")
        return config
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = textwrap.shorten(f"{kind}{message(error)}", MAX_CHARACTERS).rstrip(".")
        advice = SETTINGS_MOVED if _module(error) == "configs" else advice
        raise InputError(f"{name}: {reason}; {advice}.") from error


def _module(error: Exception) -> str:
    """The package that could not be imported or lacks an attribute; "" for other errors."""
    name = error.name if isinstance(error, ImportError) else getattr(getattr(error, "obj", None), "__name__", None)
    return (name or "").split(".")[0]


def with_settings(config: ConfigDict, settings: Mapping[str, Any], name: str) -> ConfigDict:
    """A locked copy of a config with changed settings.

    Args:
      config: as returned by `load`.
      settings: dotted key, like "data.source" -> value; a path may be a PathLike.
      name: of the config, for messages.

    Raises:
      InputError: settings are missing or unknown, or a value has the wrong type.
    """
    known = set(keys(defaults()))
    wrong = sorted(known ^ set(keys(config)))
    if wrong:
        raise InputError(
            f"{name}: unknown or missing settings: {few(wrong)}; use those of msl_jax/settings/defaults.py."
        )
    config = copy.deepcopy(config)
    for key, value in settings.items():
        if key not in known:
            members = sorted(other for other in known if other.startswith(f"{key}."))
            if members:
                raise InputError(f"{key}: is a group of settings; set each one separately, like {members[0]}.")
            raise InputError(f"{key}: there is no such setting; msl_jax/settings/defaults.py lists all.")
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        try:
            config.update_from_flattened_dict({key: value})
        except (TypeError, ValueError) as error:
            raise InputError(f"{key}: is {value!r}; give a value of the default's type.") from error
    return config.lock()


def keys(config: ConfigDict, group: str = "") -> Iterator[str]:
    """The dotted keys of all settings of a config."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from keys(value, f"{group}{key}.")
        else:
            yield group + key


def message(error: Exception) -> str:
    """The message of an error, or of the innermost error that it wraps."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)
