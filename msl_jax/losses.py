"""The terms of mixed supervision, each a pure function of logits and labels.

Logits are float32 (..., y, x, classes) before the softmax, label maps int32 (..., y, x) with a class or UNLABELED = 255
for each pixel. Every function returns a float32 scalar, the mean over the pixels it speaks of, is stable for logits of
any size that float32 holds without overflow in their differences, and has finite gradients everywhere.
"""

import jax
import jax.numpy as jnp

UNLABELED = 255


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean of -log softmax(logits)[label] over the labelled pixels: full or partial cross-entropy, as the labels are.

    The papers' L_s on full masks and L_w on weak labels (arXiv 2012.08051, equations 1 and 2).

    Args:
      logits: float32 (..., y, x, classes).
      labels: int32 (..., y, x); pixels that are UNLABELED do not count.

    Returns:
      Scalar in nats; 0 where no pixel is labelled.
    """
    labelled = labels != UNLABELED
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    total = -(one_hot * jax.nn.log_softmax(logits)).sum()
    return total / jnp.maximum(labelled.sum(), 1).astype(logits.dtype)


def entropy(logits: jax.Array) -> jax.Array:
    """Mean Shannon entropy -sum_c p_c log p_c over all pixels, p = softmax(logits) (arXiv 2012.08051, equation 4).

    Args:
      logits: float32 (..., y, x, classes).

    Returns:
      Scalar in nats, from 0 (confident everywhere) to log(classes).
    """
    log_p = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_p) * log_p).sum(-1).mean()


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
