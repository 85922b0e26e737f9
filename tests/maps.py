"""Logits and label maps for tests of losses, by hand and by hypothesis, and networks with many components."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax.numpy as jnp
import numpy as np

from msl_jax.labels import UNLABELED

SHAPE = (2, 2, 3)
"""(image, y, x) of all generated arrays: a single shape needs few compilations."""


def logits_of(*probabilities):
    """float32 (1, 1, pixels, classes) logits with these distributions as softmax, plus a constant."""
    return jnp.log(jnp.array(probabilities, jnp.float32))[None, None] + 0.7


def labels_of(*labels):
    return jnp.array(labels, jnp.int32)[None, None]


def label_maps(classes, unlabeled=True):
    values = [*range(classes), UNLABELED] if unlabeled else list(range(classes))
    return hnp.arrays(np.int32, SHAPE, elements=st.sampled_from(values))


def logit_maps(classes, size=20.0):
    return hnp.arrays(np.float32, (*SHAPE, classes), elements=st.floats(-size, size, width=32))


CLASSES = st.sampled_from((2, 4))
LABELLED = CLASSES.flatmap(lambda c: st.tuples(logit_maps(c), label_maps(c)))
PAIRS = CLASSES.flatmap(lambda c: st.tuples(logit_maps(c), logit_maps(c)))
QUICK = settings(max_examples=30)


def value(loss, *args, **settings):
    result = loss(*(jnp.asarray(a) for a in args), **settings)
    assert result.shape == () and result.dtype == jnp.float32
    return float(result)


def speckled_slabs(segmenter, variables, volume, spacing):
    """In place of Segmenter.slabs: classes follow noisy intensities, so each structure has many components.

    The branches order the intensities differently.
    """
    ranks = volume[..., 0].argsort(axis=None).argsort().reshape(volume.shape[:3]) / volume[..., 0].size
    classes = len(segmenter.preparation.values)
    labels = {"teacher": (ranks * classes).astype(int), "student": ((1 - ranks**2) * (classes - 1e-6)).astype(int)}
    yield (
        slice(0, len(volume)),
        {branch: np.eye(classes, dtype=np.float32)[labels[branch]] for branch in segmenter.branches},
    )
