"""Experiments, one file each, and the parser of ARG that they share: --config=configs/acdc.py:method=kl,strong=5."""

from ml_collections import ConfigDict

ARGUMENTS = {
    "method": "method.name",
    "strong": "data.strong",
    "seed": "seed",
    "classes": "data.classes",
    "steps": "train.steps",
}
"""Short name in ARG -> key of the config. Lists are joined by "+": strong=patient001+patient002."""


def apply(config: ConfigDict, arg: str | None) -> ConfigDict:
    """Sets what `arg`, like "method=kl_ent,strong=3,seed=0", asks for, and locks the config.

    >>> config = apply(ConfigDict({"train": {"steps": 2000}, "data": {"strong": 3}}), "steps=100,strong=5")
    >>> config.train.steps, config.data.strong
    (100, 5)

    Raises:
      ValueError: a name is unknown or a number is needed.
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
        raise ValueError(f"'{name}={value}' in the config's ARG: a whole number is needed.")
    return value
