"""Random initialisation of a network."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from msl_jax.models.dual_branch import DualBranchUNet
from msl_jax.system import machine

Variables = Mapping[str, Any]


def initializer(
    model: DualBranchUNet, size: tuple[int, int], branches: tuple[str, ...], channels: int = 1
) -> Callable[[jax.Array], Variables]:
    """A function of a PRNG key that returns initial parameters and batch statistics of a model with these branches.

    Without batch norm, "batch_stats" is {}.
    """
    images = {"images": jnp.zeros((1, 1, *size, channels), jnp.float32)}
    sets = dict.fromkeys(branches, tuple(images))
    return lambda key: {"batch_stats": {}, **model.init(key, images, sets, train=False)}


def init_variables(
    model: DualBranchUNet, size: tuple[int, int], branches: tuple[str, ...], seed: int, channels: int = 1
) -> Variables:
    """Initial parameters and batch statistics from a seed; see `initializer`."""
    return machine.jit_once(initializer(model, size, branches, channels))(jax.random.key(seed))
