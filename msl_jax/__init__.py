"""Mixed-supervision medical image segmentation with a confident student, in JAX and Flax.

    run = msl_jax.train("configs/acdc.py:strong=3", workdir="runs/a", **{"data.source": "ACDC"})
    run = msl_jax.load("runs/a")
    labels = run.predict(image, spacing=(8, 1.4, 1.4))
    msl_jax.evaluate(labels, reference, labels={"LV": 3}, spacing=(8, 1.4, 1.4))

See `msl_jax.api`. Importing the package imports neither JAX nor TensorFlow; the first use of a name does.
"""

import os
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msl_jax.api import Run, evaluate, load, train
    from msl_jax.errors import InputError

# TensorFlow only loads data: hide its start-up messages (not errors), and keep floating-point order on all machines.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
if os.path.expanduser("~") == "~":  # no home folder: Keras, imported by TensorFlow, would create a folder named "~"
    os.environ.setdefault("KERAS_HOME", os.devnull)

__all__ = ["InputError", "Run", "evaluate", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    if name == "InputError":
        from msl_jax import errors

        return errors.InputError
    from msl_jax import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """The package's class: `msl_jax.evaluate` stays the function when the module of that name is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
