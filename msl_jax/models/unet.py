"""Encoder and decoder of a 2-D U-Net (Ronneberger et al., MICCAI 2015), NHWC, any number of levels.

Parameters and batch statistics are float32; `dtype` is that of the computation.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from msl_jax.models.batch_norm import BatchNorm

Norm = Callable[[jax.Array, bool], jax.Array]
"""(x, train) -> normalised x."""


def _instance_norm(dtype: Any) -> Norm:
    """Each channel of each image over its pixels (Ulyanov et al., arXiv 1607.08022), with nnU-Net's epsilon."""
    layer = nn.InstanceNorm(epsilon=1e-5, dtype=dtype)
    return lambda x, train: layer(x)


NORMS: Mapping[str, Callable[[Any], Norm]] = {
    "batch": lambda dtype: BatchNorm(dtype=dtype),
    "instance": _instance_norm,
}
"""Value of config.model.norm -> (dtype) -> its layer."""


class Block(nn.Module):
    """(3x3 convolution, normalisation, ReLU) twice: (n, y, x, c) -> (n, y, x, features)."""

    features: int
    dtype: Any = jnp.float32
    norm: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Applies the block; `train` uses the batch's statistics and updates the running ones."""
        for _ in range(2):
            x = nn.Conv(self.features, (3, 3), use_bias=False, dtype=self.dtype)(x)
            x = NORMS[self.norm](self.dtype)(x, train)
            x = nn.relu(x)
        return x


def remat_if(remat: bool, block: type[nn.Module]) -> type[nn.Module]:
    """The block; with `remat` it keeps only its input for the backward pass and recomputes the rest there."""
    return nn.remat(block, static_argnums=(2,)) if remat else block


class Upsample(nn.Module):
    """Learned 2x upsampling: (n, y, x, c) -> (n, 2y, 2x, features).

    A 2x2 transposed convolution with stride 2. Its windows do not overlap, so it is computed as one matrix product and
    a depth-to-space, at a fraction of the cost of `nn.ConvTranspose` on CPU.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Upsamples `x`."""
        n, h, w, _ = x.shape
        x = nn.DenseGeneral((2, 2, self.features), use_bias=False, dtype=self.dtype)(x)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x = jnp.einsum("nhwijc->nhiwjc", x).reshape(n, 2 * h, 2 * w, self.features)
        return x + bias.astype(self.dtype).reshape(1, 1, 1, -1)


def max_pool(x: jax.Array) -> jax.Array:
    """2x2 max pooling: (n, y, x, c) -> (n, y // 2, x // 2, c); drops an odd last row or column.

    Uses pairwise maxima, whose gradient XLA fuses; the gradient of `nn.max_pool`, a scatter, takes a few per cent of a
    training step on CPU. Pairwise maxima split the gradient between equal values; after a ReLU only zeros are equal,
    and the ReLU blocks their gradient. The gradient of `max` over two axes divides by the number of values equal to the
    maximum: if XLA recomputes the values with different rounding, none is equal and the gradient is NaN (seen on CPU
    without optimisations).
    """
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    x = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])


class Encoder(nn.Module):
    """Images (n, y, x, channels) -> one feature map per level, finest first: (n, y / 2^l, x / 2^l, width 2^l)."""

    width: int
    depth: int
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    norm: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """Encodes images whose sides are multiples of 2^(depth - 1)."""
        levels = []
        for level in range(self.depth):
            x = max_pool(x) if level else x
            block = remat_if(self.remat, Block)
            x = block(self.width * 2**level, self.dtype, self.norm, name=f"Block_{level}")(x, train)
            levels.append(x)
        levels[-1] = nn.Dropout(self.dropout, deterministic=not train)(x)
        return levels


HEAD = "Conv_0"
"""Name of a decoder's output convolution, followed by _1, _2, ... at the coarser levels with deep supervision.

Only their shapes depend on the classes.
"""


class Decoder(nn.Module):
    """The encoder's feature maps -> float32 logits (n, y, x, classes).

    With several `levels`, a list: logits (n, y / 2^l, x / 2^l, classes) of that many levels, finest first.
    """

    classes: int
    remat: bool = False
    dtype: Any = jnp.float32
    norm: str = "batch"
    levels: int = 1

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array], train: bool) -> jax.Array | list[jax.Array]:
        """Decodes the encoder's feature maps, finest level first."""
        *skips, x = levels
        coarser = []
        for i, skip in enumerate(reversed(skips)):
            features = skip.shape[-1]
            x = jnp.concatenate([skip, Upsample(features, self.dtype)(x)], axis=-1)
            x = remat_if(self.remat, Block)(features, self.dtype, self.norm, name=f"Block_{i}")(x, train)
            level = len(skips) - 1 - i
            if 0 < level < self.levels:
                coarser.append(self._logits(x, f"{HEAD}_{level}"))
        logits = self._logits(x, HEAD)
        return [logits, *reversed(coarser)] if coarser else logits

    def _logits(self, x: jax.Array, name: str) -> jax.Array:
        return nn.Conv(self.classes, (1, 1), dtype=self.dtype, name=name)(x).astype(jnp.float32)


def resize(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Linear interpolation of (n, y, x, c) to `size`, as in PyTorch with align_corners=False.

    Coordinates are those of pixel centres; shrinking applies no antialiasing.
    """
    n, _, _, c = x.shape
    return jax.image.resize(x, (n, *size, c), "linear", antialias=False)


def wrong_size(size: int, depth: int) -> str:
    """Which image side to use instead of this one; "" if the side is valid."""
    factor = 2 ** (depth - 1)
    return "" if size % factor == 0 else f"with model.depth={depth} give a multiple of {factor}"
