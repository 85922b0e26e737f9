"""Targets from a guide: a network, without gradient, that runs on the images of a batch before every step.

It is a moving average of the trained network (Mean Teacher, UA-MT, BCP), the network of an earlier stage (proposals),
or the trained network itself. Its targets are added to the label maps of its images under the names in `target_names`,
before images are mixed.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from msl_jax.labels import UNLABELED
from msl_jax.methods.components import largest_components
from msl_jax.methods.losses import union_label
from msl_jax.models.dual_branch import BRANCHES

Targets = Mapping[str, jax.Array]
GIVEN = ("noise", "passes", "confidence")
"""Settings of a method that a guide is given."""


class Predict(Protocol):
    """The guide's network: images (groups, n, y, x, channels) -> branch -> float32 logits (groups, n, y, x, classes).

    With `train`, batch norm uses the statistics of these images and dropout uses the key.
    """

    def __call__(
        self, images: jax.Array, key: jax.Array, train: bool = False, branches: Sequence[str] = ("teacher",)
    ) -> Mapping[str, jax.Array]:
        """Logits of these branches for these images."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a guide is given.

    Attributes:
      predict: its network.
      arrays: of one set of images "image", float32 (groups, n, y, x, channels), the guide's version; and "weak_label",
        int32 (groups, n, y, x). One group per device.
      key: PRNG key of the step and the set.
      progress: float32 scalar that rises from exp(-5) to 1.
      others: its other networks, if it has several.
      trained: the network that is trained.
      unions: the sets of classes that a weak label may stand for, as in losses.Classes.
      noise: standard deviation of the noise to add to images.
      passes: number of forward passes for uncertainty.
      confidence: least probability of a guess.
    """

    predict: Predict
    arrays: Targets
    key: jax.Array
    progress: jax.Array
    others: Sequence[Predict] = ()
    trained: Predict | None = None
    unions: Sequence[Sequence[int]] = ()
    noise: float = 0.0
    passes: int = 1
    confidence: float = 0.0


@dataclasses.dataclass(frozen=True)
class Guide:
    """How a guide computes targets.

    Attributes:
      targets: what it was given -> name -> array (groups, n, y, x, ...).
      target_names: the names of the targets.
      sets: the sets of images that it runs on.
      version: the version of their images, a key of VERSIONS in training/augmentation.py.
    """

    targets: Callable[[Asked], Targets]
    target_names: tuple[str, ...]
    sets: tuple[str, ...] = ("weak",)
    version: str = "image"


def _perturbed(images: jax.Array, key: jax.Array, noise: float) -> jax.Array:
    """Adds Gaussian noise of this standard deviation, clipped at two of them, as in the published code of UA-MT."""
    return images + noise * jnp.clip(jax.random.normal(key, images.shape), -2.0, 2.0)


def average(asked: Asked) -> Targets:
    """Mean Teacher (Tarvainen and Valpola, NeurIPS 2017): the guide's probabilities on noisy images, at every pixel.

    "target" is float32 (groups, n, y, x, classes), "certain" int32 (groups, n, y, x), all 0.
    """
    noise_key, dropout_key = jax.random.split(asked.key)
    noisy = _perturbed(asked.arrays["image"], noise_key, asked.noise)
    target = jax.nn.softmax(asked.predict(noisy, dropout_key)["teacher"])
    return {"target": target, "certain": jnp.zeros(target.shape[:-1], jnp.int32)}


def certain_average(asked: Asked) -> Targets:
    """UA-MT (Yu et al., MICCAI 2019): targets of `average`, used only where the guide is certain.

    Uncertainty is the entropy of the mean probabilities of several passes, each with its own noise and dropout
    (equation 2). Its threshold rises from 3/4 log(classes) to log(classes). "certain" is 0 below it, else UNLABELED.
    """
    average_key, noise_key, dropout_key = jax.random.split(asked.key, 3)
    target = average(dataclasses.replace(asked, key=average_key))["target"]
    images, passes = asked.arrays["image"], asked.passes
    groups, n, *plane = images.shape
    repeated = jnp.broadcast_to(images[:, None], (groups, passes, n, *plane)).reshape(groups, passes * n, *plane)
    logits = asked.predict(_perturbed(repeated, noise_key, asked.noise), dropout_key, train=True)["teacher"]
    mean = jax.nn.softmax(logits).reshape(groups, passes, *target.shape[1:]).mean(1)
    entropy = jax.scipy.special.entr(mean).sum(-1)
    threshold = (0.75 + 0.25 * asked.progress) * jnp.log(jnp.float32(target.shape[-1]))
    return {"target": target, "certain": jnp.where(entropy < threshold, 0, UNLABELED)}


def hard(logits: jax.Array) -> jax.Array:
    """The most probable class of logits or probabilities, int32 (groups, n, y, x)."""
    return logits.argmax(-1).astype(jnp.int32)


def overridden(guess: jax.Array, asked: Asked) -> jax.Array:
    """The guess, with the annotation in its place where there is one; of a union's classes, the guess selects one."""
    weak_label = asked.arrays["weak_label"]
    result = jnp.where(weak_label == UNLABELED, guess, weak_label)
    for k, union in enumerate(asked.unions):
        result = jnp.where((weak_label == union_label(k)) & jnp.isin(guess, jnp.array(union)), guess, result)
    return result


def proposals(asked: Asked) -> Targets:
    """The guide's most probable class at every pixel, used as a full mask: "proposal", int32 (groups, n, y, x)."""
    return {"proposal": hard(asked.predict(asked.arrays["image"], asked.key)["teacher"])}


def cleaned(asked: Asked) -> Targets:
    """BCP (Bai et al., CVPR 2023): the largest component of each structure of "proposal"; annotations override it."""
    logits = asked.predict(asked.arrays["image"], asked.key)["teacher"]
    guess = jax.vmap(lambda labels: largest_components(labels, logits.shape[-1]))(hard(logits))
    return {"proposal": overridden(guess, asked)}


def confident(asked: Asked) -> Targets:
    """UniMatch (Yang et al., CVPR 2023): the most probable class where its probability is at least `confidence`.

    "proposal" is UNLABELED elsewhere; annotations override it.
    """
    logits = asked.predict(asked.arrays["image"], asked.key)["teacher"]
    sure = jax.nn.softmax(logits).max(-1) >= asked.confidence
    guess = jnp.where(sure, hard(logits), UNLABELED)
    return {"proposal": overridden(guess, asked)}


def reliable(asked: Asked) -> Targets:
    """Second stage of DMSPS (Han et al., MedIA 2024): the mean of both branches' probabilities, where it is certain.

    "proposal" is its most probable class where its entropy is below 0.1 log(classes), of a structure only the largest
    component; UNLABELED elsewhere. Annotations override it.
    """
    logits = asked.predict(asked.arrays["image"], asked.key, branches=BRANCHES)
    mean = jnp.stack([jax.nn.softmax(logits[branch]) for branch in BRANCHES]).mean(0)
    classes = mean.shape[-1]
    certain = jax.scipy.special.entr(mean).sum(-1) < 0.1 * jnp.log(jnp.float32(classes))
    guess = jnp.where(certain, hard(mean), classes)  # the uncertain pixels are one class more
    kept = jax.vmap(lambda labels: largest_components(labels, classes + 1))(guess)
    guess = jnp.where(certain & (kept == guess), guess, UNLABELED)
    return {"proposal": overridden(guess, asked)}


def ensemble(asked: Asked) -> Targets:
    """AD-MT (Zhao et al., ECCV 2024): guesses of the mean of two networks, as in the published code.

    "proposal" is the most probable class of their mean probabilities. Where their own classes differ, the trained
    network's class replaces it if that is more probable. It is UNLABELED where its probability is below `confidence`;
    annotations override it.
    """
    (other,), trained, images = asked.others, asked.trained, asked.arrays["image"]
    assert trained is not None
    first, second, third = (
        jax.nn.softmax(network(images, asked.key)["teacher"]) for network in (asked.predict, other, trained)
    )
    mean = (first + second) / 2
    heard = (hard(first) != hard(second)) & (hard(third) != hard(mean)) & (third.max(-1) > mean.max(-1))
    probability = jnp.where(heard, third.max(-1), mean.max(-1))
    guess = jnp.where(probability >= asked.confidence, jnp.where(heard, hard(third), hard(mean)), UNLABELED)
    return {"proposal": overridden(guess, asked)}


AVERAGE = Guide(average, target_names=("target", "certain"))
CERTAIN_AVERAGE = Guide(certain_average, target_names=("target", "certain"))
PROPOSALS = Guide(proposals, target_names=("proposal",))
CLEANED = Guide(cleaned, target_names=("proposal",))
RELIABLE = Guide(reliable, target_names=("proposal",))
CONFIDENT = Guide(confident, target_names=("proposal",), version="plain")
ENSEMBLE = Guide(ensemble, target_names=("proposal",), version="plain")
