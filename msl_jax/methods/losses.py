"""The terms of mixed supervision, each a pure function of logits and labels.

Logits are float32 (..., y, x, classes) before the softmax, label maps int32 (..., y, x) with a class or UNLABELED = 255
for each pixel. Every term returns a float32 scalar, the mean over the pixels it speaks of, is stable for logits of
any size that float32 holds without overflow in their differences, and has finite gradients everywhere.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from msl_jax.labels import UNLABELED


def safe_divisor(divisor: jax.Array) -> jax.Array:
    """The divisor, or 1 where it is 0 and so is what it divides."""
    return jnp.where(divisor > 0, divisor, 1.0)


def _over_labelled(weights: jax.Array, labelled: jax.Array) -> tuple[jax.Array, jax.Array]:
    del labelled
    return weights, weights.sum()


def _over_pixels(weights: jax.Array, labelled: jax.Array) -> tuple[jax.Array, jax.Array]:
    return weights, jnp.float32(labelled.size) + (weights - labelled).sum()


def _over_images(weights: jax.Array, labelled: jax.Array) -> tuple[jax.Array, jax.Array]:
    del labelled
    in_image = weights.sum((-2, -1), keepdims=True)
    return weights / safe_divisor(in_image), (in_image > 0).sum().astype(jnp.float32)


MEANS: Mapping[str, Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]] = {
    "labelled": _over_labelled,
    "pixels": _over_pixels,
    "images": _over_images,
}
"""What a cross-entropy is a mean over: all labelled pixels of the batch; all its pixels, those without a label counting
as 0 with weight 1; or its images, each by the mean over its labelled pixels. (weights, labelled) -> the weight of every
pixel, and what their weighted sum is divided by; float32 (..., y, x), `weights` that of its class and `labelled` 1
where a pixel is labelled, both 0 elsewhere."""


def weigh(
    labels: jax.Array, mean: str = "labelled", class_weights: Sequence[float] = ()
) -> tuple[jax.Array, jax.Array]:
    """What makes a sum over pixels a mean.

    Args:
      labels: int32 (..., y, x); pixels that are UNLABELED weigh nothing.
      mean: a key of MEANS.
      class_weights: of every class, background first; none for 1 each.

    Returns:
      The weight of every pixel, float32 (..., y, x), and what their weighted sum is divided by, a scalar; that of a
      batch is the sum of those of its parts.
    """
    labelled = (labels != UNLABELED).astype(jnp.float32)
    if not class_weights:
        return MEANS[mean](labelled, labelled)
    weights = jnp.take(jnp.array(class_weights, jnp.float32), labels, mode="fill", fill_value=0)
    return MEANS[mean](weights, labelled)


def cross_entropy(
    logits: jax.Array, labels: jax.Array, mean: str = "labelled", class_weights: Sequence[float] = ()
) -> jax.Array:
    """Mean of -log softmax(logits)[label]: full or partial cross-entropy, as the labels are.

    The papers' L_s on full masks and L_w on weak labels (arXiv 2012.08051, equations 1 and 2). With class weights v it
    is sum v[label] (-log p[label]) / sum v[label], both over the labelled pixels.

    Args:
      logits: float32 (..., y, x, classes).
      labels: int32 (..., y, x); pixels that are UNLABELED do not count.
      mean: a key of MEANS.
      class_weights: of every class, background first; none for 1 each.

    Returns:
      Scalar in nats; 0 where no pixel is labelled, or none whose class has a weight.

    Of two pixels at probabilities of 1/2 and 3/4 for class 1, where the second alone is labelled:

    >>> logits = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75]]]))
    >>> print(f"{cross_entropy(logits, jnp.array([[UNLABELED, 1]])):.4f}, -log(3/4) = {-jnp.log(0.75):.4f}")
    0.2877, -log(3/4) = 0.2877
    """
    weights, divisor = weigh(labels, mean, class_weights)
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    total = -(one_hot * weights[..., None] * jax.nn.log_softmax(logits)).sum()
    return total / safe_divisor(divisor)


def holds_structure(labels: jax.Array) -> jax.Array:
    """Which images have a pixel that is labelled as a structure: int32 (..., y, x) -> bool (...)."""
    return ((labels != UNLABELED) & (labels != 0)).any((-2, -1))


def dice(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean of 1 - 2 sum p y / (sum p + sum y), the soft Dice loss of each structure of each image.

    Sums are over the labelled pixels of one image, p = softmax(logits), y the one-hot labels. The mean is one over the
    structures that an image holds, then over the images that hold any: the Dice loss (Milletari et al., 3DV 2016, here
    without its squares as in nnU-Net: Isensee et al., Nature Methods 2021) reduced within image and class, of which a
    batch is the mean of its parts. A structure that an image does not hold teaches nothing there, which is what a
    negligible smoothing term comes to (Tilborghs et al., MICCAI 2022); the cross-entropy teaches where it is not. One
    that it holds has a denominator of at least 1, so that no smoothing term is needed.

    Args:
      logits: float32 (..., y, x, classes).
      labels: int32 (..., y, x); pixels that are UNLABELED do not count.

    Returns:
      Scalar from 0 (every structure found, with full confidence) to 1; 0 where no image holds a structure.
    """
    labelled = (labels != UNLABELED).astype(logits.dtype)
    y = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)[..., 1:]
    p = jax.nn.softmax(logits)[..., 1:] * labelled[..., None]
    present = y.any((-3, -2)).astype(logits.dtype)
    overlap = 2.0 * (p * y).sum((-3, -2)) / safe_divisor(present * (p + y).sum((-3, -2)))
    of_image = (present - overlap).sum(-1) / safe_divisor(present.sum(-1))
    return of_image.sum() / safe_divisor(holds_structure(labels).sum().astype(logits.dtype))


def entropy(logits: jax.Array) -> jax.Array:
    """Mean Shannon entropy -sum_c p_c log p_c over all pixels, p = softmax(logits) (arXiv 2012.08051, equation 4).

    Args:
      logits: float32 (..., y, x, classes).

    Returns:
      Scalar in nats, from 0 (confident everywhere) to log(classes).

    >>> print(f"{entropy(jnp.zeros((8, 8, 2))):.4f}, {entropy(jnp.log(jnp.array([[[0.01, 0.99]]]))):.4f}")
    0.6931, 0.0560
    """
    log_p = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_p) * log_p).sum(-1).mean()


def pseudo_label(logits: jax.Array, of: jax.Array) -> jax.Array:
    """Mean of -log softmax(logits)[arg-max of `of`] over all pixels (Lee, ICML 2013 workshop).

    With `of` the logits themselves it is what the papers put in the entropy's place (arXiv 2109.10902). On a pixel that
    leans to no class it pulls hard to the one that leads by a hair, where the entropy hardly pulls at all.

    Args:
      logits: float32 (..., y, x, classes), those that learn.
      of: the same shape, those whose likeliest class is taken for the truth; no gradient reaches them that way.

    Returns:
      Scalar in nats.
    """
    return cross_entropy(logits, of.argmax(-1).astype(jnp.int32))


def consistency(logits: jax.Array, target: jax.Array, certain: jax.Array) -> jax.Array:
    """Mean squared difference of softmax(logits) and `target` over classes and over the pixels that are certain.

    The consistency cost of Mean Teacher (Tarvainen and Valpola, NeurIPS 2017) where every pixel is certain; with the
    mask of UA-MT its equation 3 (Yu et al., MICCAI 2019).

    Args:
      logits: float32 (..., y, x, classes), those that learn.
      target: float32, the same shape, probabilities; no gradient reaches them.
      certain: int32 (..., y, x); pixels that are UNLABELED do not count.

    Returns:
      Scalar from 0 to 1; 0 where no pixel is certain.
    """
    difference = jnp.square(jax.nn.softmax(logits) - jax.lax.stop_gradient(target)).mean(-1)
    weights, divisor = weigh(certain)
    return (difference * weights).sum() / safe_divisor(divisor)


def kl_divergence(teacher: jax.Array, student: jax.Array) -> jax.Array:
    """Mean KL(p_t || p_b) over all pixels, no gradient reaching the teacher (arXiv 2012.08051, equation 3).

    Args:
      teacher: float32 (..., y, x, classes), logits of p_t.
      student: the same shape, logits of p_b.

    Returns:
      Scalar in nats, 0 where both agree.

    >>> sure, unsure = jnp.array([[[0.0, 99.0]]]), jnp.array([[[0.0, 0.0]]])
    >>> print(f"{kl_divergence(sure, sure):.4f}, {kl_divergence(sure, unsure):.4f}")
    0.0000, 0.6931
    """
    log_t = jax.nn.log_softmax(jax.lax.stop_gradient(teacher))
    log_b = jax.nn.log_softmax(student)
    return (jnp.exp(log_t) * (log_t - log_b)).sum(-1).mean()
