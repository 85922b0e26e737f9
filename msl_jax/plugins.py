"""Methods, terms, readers, networks and weak recipes from outside the package: rows that a module of the user's adds.

    from msl_jax import plugins
    from msl_jax.methods.table import Method
    from msl_jax.methods.terms import Term

    plugins.register_term("agree", Term(("student",), "weak", lambda logits, maps, *_: ...))
    plugins.register_method("mine", Method({"s": 1.0, "w": 0.05, "agree": 1.0}))

Every command takes --plugins=my_module, a module in the current folder or on Python's path. A run remembers the names
it was begun with, so that a command can say which are missing. Nothing is imported because a file names it.
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
from msl_jax.methods.table import METHODS, Method
from msl_jax.methods.terms import TERMS, Term
from msl_jax.models.dual_branch import NETWORKS, Network

COLUMNS = ("step", "learning_rate", "loss", "skipped")
"""Columns of metrics.csv, whose others are called as the terms."""
KEY = "plugins"
"""Of config.json: the modules that were loaded when the run was begun; missing where there were none."""
LONGEST = 300
"""Characters of what a module's error says that are passed on."""
_loaded: list[str] = []


def register_method(name: str, method: Method) -> None:
    """Adds a method; raises InputError where the name is taken or will not do."""
    _register("method", METHODS, name, method)


def register_term(name: str, term: Term) -> None:
    """Adds a term of the loss; raises InputError where the name is taken or will not do."""
    _register("term", TERMS, name, term, taken=COLUMNS)


def register_reader(name: str, reader: Reader) -> None:
    """Adds a layout of data sets; raises InputError where the name is taken or will not do."""
    _register("reader", READERS, name, reader)


def register_network(name: str, network: Network) -> None:
    """Adds a network; raises InputError where the name is taken or will not do."""
    _register("network", NETWORKS, name, network)


def register_recipe(name: str, recipe: Recipe) -> None:
    """Adds a recipe of weak labels; raises InputError where the name is taken or will not do."""
    _register("recipe", RECIPES, name, recipe, taken=(DRAWN,))


def load(names: Sequence[str]) -> None:
    """Imports modules, which register what they bring. They are found in the current folder and on Python's path.

    Raises:
      InputError: there is no such module, or what it does fails.
    """
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise InputError(f"--plugins={name}: is no module's name; give one as Python imports it, like my_module.")
        here = os.getcwd()
        if not {"", here} & set(sys.path):  # as it is by `python -m` alone
            sys.path.insert(0, here)
        try:
            importlib.import_module(name)
        except InputError as refused:
            raise InputError(f"--plugins={name}: {refused}") from refused
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
                raise InputError(
                    f"--plugins={name}: there is no module {error.name} in {here} or on Python's path; go where it is, "
                    "or add its folder to PYTHONPATH."
                ) from error
            said = textwrap.shorten(str(error), LONGEST).rstrip(".")
            raise InputError(
                f"--plugins={name}: {type(error).__name__}: {said}; correct it, MSL_JAX_TRACEBACK=1 shows where."
            ) from error
        if name not in _loaded:
            _loaded.append(name)


def loaded() -> tuple[str, ...]:
    """The names of the modules that `load` has imported."""
    return tuple(_loaded)


def flag(names: Sequence[str] = ()) -> str:
    """The flag that loads these modules beside those that are loaded."""
    return f"--plugins={','.join(dict.fromkeys((*_loaded, *names)))}"


def check(names: Any, whose: object) -> None:
    """Refuses what needs modules that are not imported.

    Raises:
      InputError: says what `whose` is and which --plugins to give.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{whose}: its plugins are {names}; make them a list of modules' names.")
    if not set(names) <= sys.modules.keys():
        raise InputError(f"{whose}: was begun with plugins that are not loaded; give {flag(names)}.")


def check_run(workdir: str) -> None:
    """Refuses a folder of a run that needs modules which are not imported; says nothing of a folder without a run."""
    path = epath.Path(workdir) / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # what reads it for its settings says so
        return
    if isinstance(found, dict):
        check(found.get(KEY, []), path)


def _register(kind: str, table: Mapping[str, Any], name: str, row: Any, taken: Sequence[str] = ()) -> None:
    """Adds a row, or leaves the one that is the same."""
    if not name.isidentifier() or hasattr(ConfigDict, name):
        raise InputError(f"the {kind} '{name}': its name is no plain word; give one of letters, digits and _.")
    if name in taken or (name in table and table[name] != row):
        raise InputError(f"the {kind} '{name}': there is another of that name; give yours its own.")
    cast(dict[str, Any], table)[name] = row
