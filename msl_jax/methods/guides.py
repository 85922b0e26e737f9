"""Targets from a guide: a second network, without gradient, that runs on the weak images before every step.

It is a moving average of the trained network (Mean Teacher, UA-MT) or the network of an earlier stage (proposals). Its
targets are added to the weak images' label maps under the names in `target_names`.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from msl_jax.labels import UNLABELED


class Predict(Protocol):
    """The guide's teacher branch: images (groups, n, y, x, channels) -> float32 logits (groups, n, y, x, classes).

    With `train`, batch norm uses the statistics of these images and dropout uses the key.
    """

    def __call__(self, images: jax.Array, key: jax.Array, train: bool) -> jax.Array:
        """Logits of these images."""


@dataclasses.dataclass(frozen=True)
class Guide:
    """How a guide computes targets.

    Attributes:
      targets: (predict, images, key, progress, noise, passes) -> name -> array (groups, n, y, x, ...). The images are
        (groups, n, y, x, channels), one group per device. `progress` is a float32 scalar that rises from exp(-5) to 1;
        `noise` and `passes` are the method's settings.
      target_names: the names of the targets.
      images: the set of images it runs on.
    """

    targets: Callable[[Predict, jax.Array, jax.Array, jax.Array, float | None, int | None], Mapping[str, jax.Array]]
    target_names: tuple[str, ...]
    images: str = "weak"


def _perturbed(images: jax.Array, key: jax.Array, noise: float) -> jax.Array:
    """Adds Gaussian noise of this standard deviation, clipped at two of them, as in the published code of UA-MT."""
    return images + noise * jnp.clip(jax.random.normal(key, images.shape), -2.0, 2.0)


def average(predict, images, key, progress, noise, passes) -> dict[str, jax.Array]:
    """Mean Teacher (Tarvainen and Valpola, NeurIPS 2017): the guide's probabilities on noisy images, at every pixel.

    "target" is float32 (groups, n, y, x, classes), "certain" int32 (groups, n, y, x), all 0.
    """
    del progress, passes
    noise_key, dropout_key = jax.random.split(key)
    target = jax.nn.softmax(predict(_perturbed(images, noise_key, noise), dropout_key, train=False))
    return {"target": target, "certain": jnp.zeros(target.shape[:-1], jnp.int32)}


def certain_average(predict, images, key, progress, noise, passes) -> dict[str, jax.Array]:
    """UA-MT (Yu et al., MICCAI 2019): targets of `average`, used only where the guide is certain.

    Uncertainty is the entropy of the mean probabilities of several passes, each with its own noise and dropout
    (equation 2). Its threshold rises from 3/4 log(classes) to log(classes). "certain" is 0 below it, else UNLABELED.
    """
    average_key, noise_key, dropout_key = jax.random.split(key, 3)
    target = average(predict, images, average_key, progress, noise, passes)["target"]
    groups, n, *plane = images.shape
    repeated = jnp.broadcast_to(images[:, None], (groups, passes, n, *plane)).reshape(groups, passes * n, *plane)
    logits = predict(_perturbed(repeated, noise_key, noise), dropout_key, train=True)
    mean = jax.nn.softmax(logits).reshape(groups, passes, *target.shape[1:]).mean(1)
    entropy = jax.scipy.special.entr(mean).sum(-1)
    threshold = (0.75 + 0.25 * progress) * jnp.log(jnp.float32(target.shape[-1]))
    return {"target": target, "certain": jnp.where(entropy < threshold, 0, UNLABELED)}


def proposals(predict, images, key, progress, noise, passes) -> dict[str, jax.Array]:
    """The guide's most probable class at every pixel, used as a full mask: "proposal", int32 (groups, n, y, x)."""
    del progress, noise, passes
    return {"proposal": predict(images, key, train=False).argmax(-1).astype(jnp.int32)}


AVERAGE = Guide(average, target_names=("target", "certain"))
CERTAIN_AVERAGE = Guide(certain_average, target_names=("target", "certain"))
PROPOSALS = Guide(proposals, target_names=("proposal",))
