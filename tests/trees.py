"""Compares trees of arrays."""

import jax
import numpy as np


def unequal(before, after):
    """The paths of the leaves that differ."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    return {jax.tree_util.keystr(path) for (path, a), b in pairs if not np.array_equal(a, b)}


def paths(tree):
    """The paths of all leaves."""
    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}
