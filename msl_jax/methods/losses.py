"""The losses of mixed supervision, each a pure function of logits and labels.

Logits are float32 (..., y, x, classes) before the softmax; label maps are int32 (..., y, x) with a class, UNLABELED =
255, or a value of Classes.unions per pixel. Every loss returns a float32 scalar, a mean over pixels or images. Values
and gradients are finite for all logits whose differences do not overflow float32.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from msl_jax.labels import UNLABELED


class Classes(NamedTuple):
    """What the classes and values of label maps mean.

    Attributes:
      weights: weight of each class in a cross-entropy, background first; empty for 1 each.
      unions: sets of classes with background. The label `union_label(k)` means one of the classes unions[k], as where
        nobody annotated some structures: what looks like background may be one of them.
    """

    weights: Sequence[float] = ()
    unions: Sequence[Sequence[int]] = ()


PLAIN = Classes()
"""Every class has weight 1 and there are no unions."""


def union_label(k: int) -> int:
    """The label that stands for set number k of Classes.unions: 254, 253, ..."""
    return UNLABELED - 1 - k


def safe_divisor(divisor: jax.Array) -> jax.Array:
    """The divisor, or 1 where it is 0 (and so is the dividend)."""
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
"""What a cross-entropy averages over: the labelled pixels of the batch; all its pixels (unlabelled ones add 0 with
weight 1); or its images, each as the mean over its labelled pixels. Each function maps (weights, labelled) to the
pixels' weights and the divisor of their weighted sum. Arrays are float32 (..., y, x); `weights` is the class weight and
`labelled` is 1 at labelled pixels, both are 0 elsewhere."""


def weigh(labels: jax.Array, mean: str = "labelled", classes: Classes = PLAIN) -> tuple[jax.Array, jax.Array]:
    """Weights and divisor that turn a sum over pixels into a mean.

    Args:
      labels: int32 (..., y, x); UNLABELED pixels have weight 0.
      mean: a key of MEANS.
      classes: weights of the classes, and unions, which have the weight of background.

    Returns:
      The weight of every pixel, float32 (..., y, x), and the scalar divisor of the weighted sum. The divisor of a batch
      is the sum of the divisors of its parts.
    """
    labelled = (labels != UNLABELED).astype(jnp.float32)
    if not classes.weights:
        return MEANS[mean](labelled, labelled)
    background = (labels == 0) | _of_a_union(labels, classes)
    values = jnp.where(background, 0, labels)
    weights = jnp.take(jnp.array(classes.weights, jnp.float32), values, mode="fill", fill_value=0)
    return MEANS[mean](weights, labelled)


def cross_entropy(logits: jax.Array, labels: jax.Array, mean: str = "labelled", classes: Classes = PLAIN) -> jax.Array:
    """Mean of -log softmax(logits)[label]: full cross-entropy on full masks, partial cross-entropy on weak labels.

    These are the papers' L_s and L_w (arXiv 2012.08051, equations 1 and 2). With class weights v it is
    sum v[label] (-log p[label]) / sum v[label], both over the labelled pixels. The probability of a union is the sum of
    those of its classes, as in the marginal loss of Shi et al. (MedIA 2021).

    Args:
      logits: float32 (..., y, x, classes).
      labels: int32 (..., y, x); UNLABELED pixels are ignored.
      mean: a key of MEANS.
      classes: weights of the classes, and unions.

    Returns:
      Scalar in nats; 0 if no pixel with a class weight above 0 is labelled.

    Two pixels with probabilities 1/2 and 3/4 for class 1; only the second is labelled:

    >>> logits = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75]]]))
    >>> print(f"{cross_entropy(logits, jnp.array([[UNLABELED, 1]])):.4f}, -log(3/4) = {-jnp.log(0.75):.4f}")
    0.2877, -log(3/4) = 0.2877
    """
    weights, divisor = weigh(labels, mean, classes)
    one_hot, log_p = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), jax.nn.log_softmax(logits)
    total = -(one_hot * weights[..., None] * log_p).sum()
    for k, union in enumerate(classes.unions):
        of_union = jax.nn.logsumexp(log_p[..., np.array(union)], -1)
        total -= jnp.where(labels == union_label(k), weights * of_union, 0.0).sum()
    return total / safe_divisor(divisor)


DICE_SUMS: Mapping[str, Callable[[int], tuple[int, ...]]] = {
    "batch": lambda rank: tuple(range(rank)),
    "images": lambda rank: (rank - 2, rank - 1),
}
"""What the sums of a Dice loss run over: the batch as if it were one image, or each image. Each function maps the rank
of the labels to the axes of the sums."""


def has_structure(labels: jax.Array, sums: str = "batch", classes: Classes = PLAIN) -> jax.Array:
    """Whether the batch has a pixel labelled as a structure, or which images: int32 (..., y, x) -> bool () or (...)."""
    structure = (labels != UNLABELED) & (labels != 0) & ~_of_a_union(labels, classes)
    return structure.any(DICE_SUMS[sums](labels.ndim))


def _of_a_union(labels: jax.Array, classes: Classes) -> jax.Array:
    return (labels < UNLABELED) & (labels >= UNLABELED - len(classes.unions))


def dice(logits: jax.Array, labels: jax.Array, sums: str = "batch", classes: Classes = PLAIN) -> jax.Array:
    """Mean of 1 - 2 sum p y / (sum p + sum y), the soft Dice loss, over the structures.

    Sums are over the labelled pixels of the batch, or of each image; p = softmax(logits), y the one-hot labels. For
    images, the mean is first over the structures present in one, then over the images with any structure. This is the
    Dice loss of Milletari et al. (3DV 2016), without squares as in nnU-Net (Isensee et al., Nature Methods 2021), whose
    2-D networks sum over the batch, too.

    A structure that is absent has no loss, the limit of a negligible smoothing term (Tilborghs et al., MICCAI 2022);
    the cross-entropy covers absent structures. In an image without a structure that others of the batch have, its
    probabilities still count in the sum over the batch. A present structure has a denominator of at least 1, so no
    smoothing term is needed.

    Args:
      logits: float32 (..., y, x, classes).
      labels: int32 (..., y, x); UNLABELED pixels are ignored, and those of a union for the structures in it.
      sums: a key of DICE_SUMS.
      classes: unions.

    Returns:
      Scalar from 0 (every structure found with full confidence) to 1; 0 if no image has a structure.
    """
    axes = DICE_SUMS[sums](labels.ndim)
    known = (labels != UNLABELED)[..., None]
    structures = jnp.broadcast_to(jnp.arange(1, logits.shape[-1]), (*labels.shape, logits.shape[-1] - 1))
    for k, union in enumerate(classes.unions):
        known = known & ~((labels == union_label(k))[..., None] & jnp.isin(structures, jnp.array(union)))
    y = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)[..., 1:]
    p = jax.nn.softmax(logits)[..., 1:] * known.astype(logits.dtype)
    present = y.any(axes).astype(logits.dtype)
    overlap = 2.0 * (p * y).sum(axes) / safe_divisor(present * (p + y).sum(axes))
    of_each = (present - overlap).sum(-1) / safe_divisor(present.sum(-1))
    return of_each.sum() / safe_divisor(has_structure(labels, sums, classes).sum().astype(logits.dtype))


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

    With `of` equal to `logits` it is the papers' alternative to the entropy (arXiv 2109.10902). Its gradient is large
    on undecided pixels, where the entropy's vanishes.

    Args:
      logits: float32 (..., y, x, classes), the trained logits.
      of: the same shape; their most probable class is the label. No gradient flows through the arg-max.

    Returns:
      Scalar in nats.
    """
    return cross_entropy(logits, of.argmax(-1).astype(jnp.int32))


def consistency(logits: jax.Array, target: jax.Array, certain: jax.Array) -> jax.Array:
    """Mean squared difference of softmax(logits) and `target` over classes and certain pixels.

    The consistency cost of Mean Teacher (Tarvainen and Valpola, NeurIPS 2017) if every pixel is certain; equation 3 of
    UA-MT (Yu et al., MICCAI 2019) with its mask.

    Args:
      logits: float32 (..., y, x, classes), the trained logits.
      target: float32, the same shape, probabilities; they get no gradient.
      certain: int32 (..., y, x); UNLABELED pixels are ignored.

    Returns:
      Scalar from 0 to 1; 0 if no pixel is certain.
    """
    difference = jnp.square(jax.nn.softmax(logits) - jax.lax.stop_gradient(target)).mean(-1)
    weights, divisor = weigh(certain)
    return (difference * weights).sum() / safe_divisor(divisor)


def mixture(first: jax.Array, second: jax.Array, share: jax.Array) -> jax.Array:
    """Probabilities of two branches in a random convex mixture, without gradient (Luo et al., MICCAI 2022).

    Args:
      first: float32 (..., y, x, classes), logits.
      second: the same shape.
      share: float32 scalar from 0 to 1, the weight of the first.

    Returns:
      float32, the same shape.
    """
    first, second = (jax.lax.stop_gradient(jax.nn.softmax(logits)) for logits in (first, second))
    return share * first + (1 - share) * second


def soft_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Mean of -sum_c target_c log softmax(logits)_c over all pixels.

    Args:
      logits: float32 (..., y, x, classes).
      target: the same shape, probabilities.

    Returns:
      Scalar in nats.
    """
    return -(target * jax.nn.log_softmax(logits)).sum(-1).mean()


def kl_divergence(teacher: jax.Array, student: jax.Array) -> jax.Array:
    """Mean KL(p_t || p_b) over all pixels, without gradient to the teacher (arXiv 2012.08051, equation 3).

    Args:
      teacher: float32 (..., y, x, classes), logits of p_t.
      student: the same shape, logits of p_b.

    Returns:
      Scalar in nats; 0 if both are equal.

    >>> sure, unsure = jnp.array([[[0.0, 99.0]]]), jnp.array([[[0.0, 0.0]]])
    >>> print(f"{kl_divergence(sure, sure):.4f}, {kl_divergence(sure, unsure):.4f}")
    0.0000, 0.6931
    """
    log_t = jax.nn.log_softmax(jax.lax.stop_gradient(teacher))
    log_b = jax.nn.log_softmax(student)
    return (jnp.exp(log_t) * (log_t - log_b)).sum(-1).mean()
