"""A config as a user names it, "NAME", "FILE.py" or either with ":ARG" behind it, and settings by dotted keys."""

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

LONGEST = 300
"""Characters of another error's message that are passed on."""


def split_arg(text: str) -> tuple[str, str | None]:
    """The name or path of a config, and its ARG.

    >>> split_arg("configs/acdc.py:strong=3")
    ('configs/acdc.py', 'strong=3')
    >>> split_arg("phantom")
    ('phantom', None)
    """
    match = re.fullmatch(r"(?P<file>.*?\.py|[^:]*)(?::(?P<arg>.*))?", text, re.DOTALL)
    return (match["file"], match["arg"]) if match else (text, None)


def parse_config(text: str, argument: str) -> ConfigDict:
    """The config that `text` names; the code of a file runs.

    Args:
      text: an experiment of the package or a path, perhaps with ":ARG".
      argument: what the caller names it by, for the message.

    Raises:
      InputError: there is no such config, or it cannot be loaded.
    """
    file, arg = split_arg(text)
    file = expanded(file)
    if file not in EXPERIMENTS and not os.path.exists(file):
        raise InputError(f"{argument}: is {text}, and there is no file {file}; give one, or {', '.join(EXPERIMENTS)}.")
    try:
        config = load(file, arg)
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        said = textwrap.shorten(f"{kind}{message(error)}", LONGEST).rstrip(".")
        raise InputError(f"{argument}: is {text}: {said}; correct it.") from error
    return config


def with_settings(config: ConfigDict, settings: Mapping[str, Any], argument: str) -> ConfigDict:
    """A locked copy of a config with settings by their dotted keys, like "data.source".

    Args:
      config: as `load` gives it.
      settings: dotted key -> value; a path may be a PathLike.
      argument: what the caller names the config by, for the message.

    Raises:
      InputError: the config lacks settings or has unknown ones, a key is unknown, or a value is of the wrong type.
    """
    known = set(keys(defaults()))
    wrong = sorted(known ^ set(keys(config)))
    if wrong:
        raise InputError(
            f"{argument}: unknown or missing are the settings {few(wrong)}; start from settings.defaults()."
        )
    config = copy.deepcopy(config)
    for key, value in settings.items():
        if key not in known:
            inside = sorted(name for name in known if name.startswith(f"{key}."))
            what = (
                f"is a group of settings; give each its own, like {inside[0]}" if inside else "there is no such setting"
            )
            cure = "" if inside else "; see msl_jax/settings/defaults.py for those that there are"
            raise InputError(f"{key}: {what}{cure}.")
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        try:
            config.update_from_flattened_dict({key: value})
        except (TypeError, ValueError) as error:
            raise InputError(f"{key}: is {value!r}; give a value of the type that the default has.") from error
    return config.lock()


def keys(config: ConfigDict, group: str = "") -> Iterator[str]:
    """Every setting of a config by its dotted key."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from keys(value, f"{group}{key}.")
        else:
            yield group + key


def message(error: Exception) -> str:
    """The message of an error, or of the one inside that it is made of."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)
