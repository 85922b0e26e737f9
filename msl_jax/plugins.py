"""Plugins: user modules that add methods, terms, mixes, readers, networks and recipes of weak labels.

    from msl_jax import plugins
    from msl_jax.methods.table import Method
    from msl_jax.methods.terms import Term

    plugins.register_term("agree", Term(("student",), "weak", lambda logits, maps, *_: ...))
    plugins.register_method("mine", Method({"s": 1.0, "w": 0.05, "agree": 1.0}))

Every command takes --plugins=my_module, a module in the current folder or on Python's path. A run records its plugins,
so that commands can report missing ones. Plugins named in files are never imported.
"""

from collections.abc import Mapping, Sequence
import importlib
import json
import os
import sys
import textwrap
from typing import Any, cast

from etils import epath
from ml_collections import ConfigDict

from msl_jax.data.case import Reader
from msl_jax.data.readers import READERS
from msl_jax.data.weak_labels import DRAWN, RECIPES, Recipe
from msl_jax.errors import InputError
from msl_jax.methods.mixing import MIXES, Mix
from msl_jax.methods.table import METHODS, Method
from msl_jax.methods.terms import TERMS, Term
from msl_jax.models.dual_branch import NETWORKS, Network

COLUMNS = ("step", "learning_rate", "loss", "skipped")
"""Columns of metrics.csv besides the terms."""
KEY = "plugins"
"""Key of config.json for the modules loaded at the start of the run; missing if there were none."""
MAX_CHARACTERS = 300
"""Length to which an error message from a module is shortened."""
LOADED: list[str] = []
"""The modules that `load` has imported, in their order."""


def register_method(name: str, method: Method) -> None:
    """Adds a method; raises InputError if the name is taken or invalid."""
    _register("method", METHODS, name, method)


def register_term(name: str, term: Term) -> None:
    """Adds a term of the loss; raises InputError if the name is taken or invalid."""
    _register("term", TERMS, name, term, reserved=COLUMNS)


def register_mix(name: str, mix: Mix) -> None:
    """Adds a mix of images; raises InputError if the name is taken or invalid."""
    _register("mix", MIXES, name, mix)


def register_reader(name: str, reader: Reader) -> None:
    """Adds a layout of data sets; raises InputError if the name is taken or invalid."""
    _register("reader", READERS, name, reader)


def register_network(name: str, network: Network) -> None:
    """Adds a network; raises InputError if the name is taken or invalid."""
    _register("network", NETWORKS, name, network)


def register_recipe(name: str, recipe: Recipe) -> None:
    """Adds a recipe of weak labels; raises InputError if the name is taken or invalid."""
    _register("recipe", RECIPES, name, recipe, reserved=(DRAWN,))


def load(names: Sequence[str]) -> None:
    """Imports modules, from the current folder or Python's path; they call the register functions.

    Raises:
      InputError: a module does not exist or its import fails.
    """
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise InputError(f"--plugins={name}: is not a module name; give one as in an import, like my_module.")
        here = os.getcwd()
        if not {"", here} & set(sys.path):  # only `python -m` adds it
            sys.path.insert(0, here)
        try:
            importlib.import_module(name)
        except InputError as error:
            raise InputError(f"--plugins={name}: {error}") from error
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
                raise InputError(
                    f"--plugins={name}: there is no module {error.name} in {here} or on Python's path; change to its "
                    "folder, or add the folder to PYTHONPATH."
                ) from error
            text = textwrap.shorten(str(error), MAX_CHARACTERS).rstrip(".")
            raise InputError(
                f"--plugins={name}: {type(error).__name__}: {text}; correct it, MSL_JAX_TRACEBACK=1 shows where."
            ) from error
        if name not in LOADED:
            LOADED.append(name)


def flag(names: Sequence[str] = ()) -> str:
    """The flag that loads these modules in addition to the loaded ones."""
    return f"--plugins={','.join(dict.fromkeys((*LOADED, *names)))}"


def check(names: Any, path: object) -> None:
    """Checks that the plugins listed in the file at `path` are loaded.

    Raises:
      InputError: some are not; the message says which --plugins to give.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: plugins is {names}; make it a list of module names.")
    if not set(names) <= sys.modules.keys():
        raise InputError(
            f"{path}: the run needs plugins that are not loaded; give {flag(names)}, or in Python call "
            f"plugins.load({names})."
        )


def check_run(workdir: str) -> None:
    """Raises InputError if a run needs plugins that are not loaded; ignores folders without a run."""
    path = epath.Path(workdir) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # reported when the settings are read
        return
    if isinstance(config, dict):
        check(config.get(KEY, []), path)


def _register(kind: str, table: Mapping[str, Any], name: str, row: Any, reserved: Sequence[str] = ()) -> None:
    """Adds a row; adding an equal row again has no effect."""
    if not name.isidentifier() or hasattr(ConfigDict, name):
        raise InputError(f"the {kind} '{name}': is not a valid name; choose another of letters, digits and _.")
    if name in reserved or (name in table and table[name] != row):
        raise InputError(f"the {kind} '{name}': the name is taken; choose another.")
    cast(dict[str, Any], table)[name] = row
