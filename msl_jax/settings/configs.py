"""Config files, their ARG, and the package's experiments."""

import pathlib
import runpy

from ml_collections import ConfigDict

ARGUMENTS = {
    "method": "method.name",
    "strong": "data.strong",
    "seed": "seed",
    "classes": "data.classes",
    "steps": "train.steps",
}
"""Short name in ARG -> key of the config. Lists use "+": strong=patient001+patient002."""
PACKAGE = pathlib.Path(__file__).parent.parent
FOLDER = next((folder for folder in [PACKAGE / "configs"] if folder.is_dir()), PACKAGE.parent / "configs")
"""The experiments: inside the package in a wheel, next to it in a checkout."""
EXPERIMENTS = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
"""Name in --config=NAME -> file."""


def load(name: str, arg: str | None = None) -> ConfigDict:
    """The locked config of a package's experiment or of a file. Executes the file.

    >>> load("phantom", "method=kl,steps=100").train.steps
    100

    Args:
      name: a name in EXPERIMENTS, or the path of a Python file.
      arg: passed to `apply`.

    Raises:
      FileNotFoundError: there is no such experiment or file.
      ValueError: `arg` is invalid.
    """
    path = EXPERIMENTS.get(name, name)
    return runpy.run_path(str(path))["get_config"](*([arg] if arg else []))


def apply(config: ConfigDict, arg: str | None) -> ConfigDict:
    """Applies `arg`, like "method=kl_ent,strong=3,seed=0", and locks the config.

    >>> config = apply(ConfigDict({"train": {"steps": 2000}, "data": {"strong": 3}}), "steps=100,strong=5")
    >>> config.train.steps, config.data.strong
    (100, 5)

    Raises:
      ValueError: a name is unknown, or a value is not a whole number where one is needed.
    """
    for pair in filter(None, (arg or "").split(",")):
        name, _, value = pair.partition("=")
        if name not in ARGUMENTS or not value:
            raise ValueError(f"'{pair}' in the config's ARG is not NAME=VALUE with one of {', '.join(ARGUMENTS)}.")
        config.update_from_flattened_dict({ARGUMENTS[name]: _parse(name, value)})
    return config.lock()


def _parse(name: str, value: str) -> int | str | list[str]:
    if value.isdecimal():
        return int(value)
    if name == "strong" and value != "all":
        return value.split("+")
    if name in ("seed", "steps"):
        raise ValueError(f"'{name}={value}' in the config's ARG: give a whole number.")
    return value
