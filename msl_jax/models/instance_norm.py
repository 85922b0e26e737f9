"""Instance normalisation (Ulyanov et al., arXiv 1607.08022), as in nnU-Net."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp


class InstanceNorm(nn.Module):
    """Normalises each channel of each image of (n, y, x, c) over its pixels; the same in training and evaluation.

    Parameters "scale" and "bias" and all arithmetic are float32.

    Attributes:
      epsilon: added to the variance.
      dtype: dtype of the result.
    """

    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises `x`; there are no running statistics, so `train` changes nothing."""
        del train
        features = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, features, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, features, jnp.float32)
        x = x.astype(jnp.float32)
        mean = x.mean((1, 2), keepdims=True)
        var = jnp.square(x - mean).mean((1, 2), keepdims=True)
        factor = jax.lax.rsqrt(var + self.epsilon) * scale.reshape(1, 1, 1, -1)
        return ((x - mean) * factor + bias.reshape(1, 1, 1, -1)).astype(self.dtype)
