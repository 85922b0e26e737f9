"""The terms of mixed supervision, each a pure function of logits and labels.

Logits are float32 (..., y, x, classes) before the softmax, label maps int32 (..., y, x) with a class or UNLABELED = 255
for each pixel. Every function returns a float32 scalar, the mean over the pixels it speaks of, is stable for logits of
any size that float32 holds without overflow in their differences, and has finite gradients everywhere.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

UNLABELED = 255


def _over_labelled(labelled: jax.Array) -> tuple[jax.Array, jax.Array]:
    return labelled, labelled.sum()


def _over_pixels(labelled: jax.Array) -> tuple[jax.Array, jax.Array]:
    return labelled, jnp.float32(labelled.size)


def _over_images(labelled: jax.Array) -> tuple[jax.Array, jax.Array]:
    in_image = labelled.sum((-2, -1), keepdims=True)
    return labelled / jnp.maximum(in_image, 1.0), (in_image > 0).sum().astype(jnp.float32)


MEANS: Mapping[str, Callable[[jax.Array], tuple[jax.Array, jax.Array]]] = {
    "labelled": _over_labelled,
    "pixels": _over_pixels,
    "images": _over_images,
}
"""What a cross-entropy is a mean over: all labelled pixels of the batch; all its pixels, those without a label counting
as 0; or its images, each by the mean over its labelled pixels. float32 (..., y, x), 1 where a pixel is labelled and 0
elsewhere -> the weight of every pixel, and what their weighted sum is divided by."""


def cross_entropy(logits: jax.Array, labels: jax.Array, mean: str = "labelled") -> jax.Array:
    """Mean of -log softmax(logits)[label]: full or partial cross-entropy, as the labels are.

    The papers' L_s on full masks and L_w on weak labels (arXiv 2012.08051, equations 1 and 2).

    Args:
      logits: float32 (..., y, x, classes).
      labels: int32 (..., y, x); pixels that are UNLABELED do not count.
      mean: a key of MEANS.

    Returns:
      Scalar in nats; 0 where no pixel is labelled.
    """
    weights, divisor = MEANS[mean]((labels != UNLABELED).astype(logits.dtype))
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    total = -(one_hot * weights[..., None] * jax.nn.log_softmax(logits)).sum()
    return total / jnp.maximum(divisor, 1.0)


def entropy(logits: jax.Array) -> jax.Array:
    """Mean Shannon entropy -sum_c p_c log p_c over all pixels, p = softmax(logits) (arXiv 2012.08051, equation 4).

    Args:
      logits: float32 (..., y, x, classes).

    Returns:
      Scalar in nats, from 0 (confident everywhere) to log(classes).
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
    weights, divisor = MEANS["labelled"]((certain != UNLABELED).astype(logits.dtype))
    return (difference * weights).sum() / jnp.maximum(divisor, 1.0)


def kl_divergence(teacher: jax.Array, student: jax.Array) -> jax.Array:
    """Mean KL(p_t || p_b) over all pixels, no gradient reaching the teacher (arXiv 2012.08051, equation 3).

    Args:
      teacher: float32 (..., y, x, classes), logits of p_t.
      student: the same shape, logits of p_b.

    Returns:
      Scalar in nats, 0 where both agree.
    """
    log_t = jax.nn.log_softmax(jax.lax.stop_gradient(teacher))
    log_b = jax.nn.log_softmax(student)
    return (jnp.exp(log_t) * (log_t - log_b)).sum(-1).mean()
