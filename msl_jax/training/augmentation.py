"""temporary"""

import jax, jax.numpy as jnp


def source_size(size, strengths):
    return size


def make_augment(strengths, size, fill):
    def go(batch, key):
        return {
            s: {k: (v.astype(jnp.float32) if k == "image" else v.astype(jnp.int32)) for k, v in m.items()}
            for s, m in batch.items()
        }

    return go
