"""The optimizer and the learning rate by step, from the config."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict
import optax


def cosine(rate: float, warmup_steps: int, steps: int) -> optax.Schedule:
    """Linear warm-up to `rate`, then cosine decay that reaches 0 after the last of `steps`."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup_steps else rate, peak_value=rate, warmup_steps=warmup_steps, decay_steps=steps
    )


def polynomial(rate: float, warmup_steps: int, steps: int) -> optax.Schedule:
    """Linear warm-up to `rate`, then rate (1 - t)^0.9 with t from 0 to 1 after the last of `steps`.

    Without warm-up it is nnU-Net's rule (Isensee et al., Nature Methods 2021), per step instead of per epoch.
    """
    warmup = optax.linear_schedule(0.0, rate, warmup_steps)
    decay = optax.polynomial_schedule(rate, 0.0, power=0.9, transition_steps=steps - warmup_steps)
    return optax.join_schedules((warmup, decay), (warmup_steps,))


SCHEDULES: Mapping[str, Callable[[float, int, int], optax.Schedule]] = {"cosine": cosine, "polynomial": polynomial}
"""Value of config.optimizer.schedule -> (peak rate, warm-up steps, all steps) -> step -> learning rate."""


def make_schedule(config: ConfigDict) -> optax.Schedule:
    """The learning rate by step of a stage, from 0."""
    settings = config.optimizer
    return SCHEDULES[settings.schedule](settings.learning_rate, settings.warmup_steps, config.train.steps)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Adam; with the config's settings, AdamW and a limit on the gradient's norm.

    Weight decay is decoupled (Loshchilov and Hutter, ICLR 2019), so each step also multiplies the
    kernels by 1 - learning rate * decay. Biases and the scales of normalisation layers do not decay.
    """
    settings, schedule = config.optimizer, make_schedule(config)
    if settings.weight_decay:
        adam = optax.adamw(schedule, weight_decay=settings.weight_decay, mask=kernels)
    else:
        adam = optax.adam(schedule)  # the optimizer state of older runs
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), adam) if settings.clip_norm else adam


def kernels(params: Any) -> Any:
    """Which arrays are kernels, of convolutions and of dense layers: a tree like `params`, of bools."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
