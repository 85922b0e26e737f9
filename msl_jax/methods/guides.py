"""Targets made by a guide: a second network that no gradient trains, asked about the weak images before every step.

It is a moving average of the network in training (Mean Teacher, UA-MT), or the one that an earlier stage has trained
(proposals). What it says joins the weak images' label maps, where terms find it under the names in `makes`.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from msl_jax.labels import UNLABELED


class Ask(Protocol):
    """The guide's teacher branch: images (groups, n, y, x, 1) -> float32 logits (groups, n, y, x, classes).

    In training mode (`train`) batch norm takes the statistics of these images, and dropout is a function of the key.
    """

    def __call__(self, images: jax.Array, key: jax.Array, train: bool) -> jax.Array:
        """Logits of these images."""


@dataclasses.dataclass(frozen=True)
class Guide:
    """How a guide's targets are made.

    Attributes:
      targets: (ask, images, key, ramp, noise, passes) -> name -> array (groups, n, y, x, ...), over the images
        (groups, n, y, x, 1) of `images` that lie in groups, one a device. `ramp` is a float32 scalar that rises from
        exp(-5) to 1, `noise` and `passes` are the method's settings.
      makes: the names.
      images: the set of images it is asked about.
    """

    targets: Callable[[Ask, jax.Array, jax.Array, jax.Array, float | None, int | None], Mapping[str, jax.Array]]
    makes: tuple[str, ...]
    images: str = "weak"


def _perturbed(images: jax.Array, key: jax.Array, noise: float) -> jax.Array:
    """Gaussian noise of this standard deviation, cut at two of them, as in the published code of UA-MT."""
    return images + noise * jnp.clip(jax.random.normal(key, images.shape), -2.0, 2.0)


def average(ask, images, key, ramp, noise, passes) -> dict[str, jax.Array]:
    """Mean Teacher (Tarvainen and Valpola, NeurIPS 2017): the guide's probabilities on images under noise, everywhere.

    "target" is float32 (groups, n, y, x, classes), "certain" int32 (groups, n, y, x), all 0.
    """
    del ramp, passes
    noise_key, dropout_key = jax.random.split(key)
    target = jax.nn.softmax(ask(_perturbed(images, noise_key, noise), dropout_key, train=False))
    return {"target": target, "certain": jnp.zeros(target.shape[:-1], jnp.int32)}


def certain_average(ask, images, key, ramp, noise, passes) -> dict[str, jax.Array]:
    """UA-MT (Yu et al., MICCAI 2019): the same where the guide is certain, which it need be less and less.

    Uncertainty is the entropy of the mean probabilities of several passes, each under its own noise and dropout
    (equation 2); its threshold rises from 3/4 of log(classes) to all of it. "certain" is UNLABELED above it, else 0.
    """
    average_key, noise_key, dropout_key = jax.random.split(key, 3)
    target = average(ask, images, average_key, ramp, noise, passes)["target"]
    groups, n, *plane = images.shape
    repeated = jnp.broadcast_to(images[:, None], (groups, passes, n, *plane)).reshape(groups, passes * n, *plane)
    logits = ask(_perturbed(repeated, noise_key, noise), dropout_key, train=True)
    mean = jax.nn.softmax(logits).reshape(groups, passes, *target.shape[1:]).mean(1)
    entropy = jax.scipy.special.entr(mean).sum(-1)
    threshold = (0.75 + 0.25 * ramp) * jnp.log(jnp.float32(target.shape[-1]))
    return {"target": target, "certain": jnp.where(entropy < threshold, 0, UNLABELED)}


def proposals(ask, images, key, ramp, noise, passes) -> dict[str, jax.Array]:
    """The guide's likeliest class for every pixel, taken for a full mask: "proposal", int32 (groups, n, y, x)."""
    del ramp, noise, passes
    return {"proposal": ask(images, key, train=False).argmax(-1).astype(jnp.int32)}


AVERAGE = Guide(average, makes=("target", "certain"))
CERTAIN_AVERAGE = Guide(certain_average, makes=("target", "certain"))
PROPOSALS = Guide(proposals, makes=("proposal",))
