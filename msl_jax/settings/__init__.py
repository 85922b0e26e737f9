"""All settings with defaults and rules, and the experiments that set them.

An experiment is a Python file with a function `get_config(arg)`: it starts from `defaults()`, changes settings, and
returns `apply(config, arg)`.
"""

from msl_jax.settings.configs import ARGUMENTS, EXPERIMENTS, apply, load
from msl_jax.settings.defaults import defaults

__all__ = ["ARGUMENTS", "EXPERIMENTS", "apply", "defaults", "load"]
