"""Every setting with its default and its rules, and the experiments that set them.

An experiment is a Python file whose `get_config(arg)` takes `defaults`, sets what differs, and returns `apply` of both.
"""

from msl_jax.settings.configs import ARGUMENTS, EXPERIMENTS, apply, load
from msl_jax.settings.defaults import defaults

__all__ = ["ARGUMENTS", "EXPERIMENTS", "apply", "defaults", "load"]
