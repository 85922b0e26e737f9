"""Encoder and decoder of the papers' authors' released network, `UNet_Mixed` (josedolz/MSL-student-becomes-master).

A U-Net without padding: each 3x3 convolution removes one pixel from every side, skips are resized to the decoder's
feature maps, and the logits are smaller than the images (`DualBranchUNet` resizes them). With width 64 and depth 5 it
has the released arrays and, in evaluation, the released outputs; import_weights.py maps the arrays. Training differs in
two ways: running variances use the batch variance with 1 / n (PyTorch: 1 / (n - 1)), and transposed convolutions are
initialised as in unet.py.
"""

from collections.abc import Sequence
import itertools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from msl_jax.models import unet
from msl_jax.models.batch_norm import BatchNorm

MOMENTUM = 0.9
"""Decay of the running statistics per forward pass: PyTorch's default (its momentum of 0.1 is 1 - 0.9)."""


class Block(nn.Module):
    """(3x3 convolution without padding, batch norm, ReLU) twice: (n, y, x, c) -> (n, y - 4, x - 4, features)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Applies the block; `train` uses the batch's statistics and updates the running ones."""
        he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        for _ in range(2):
            x = nn.Conv(self.features, (3, 3), padding="VALID", kernel_init=he_normal, dtype=self.dtype)(x)
            x = BatchNorm(MOMENTUM, dtype=self.dtype)(x, train)
            x = nn.relu(x)
        return x


class Encoder(nn.Module):
    """Images (n, y, x, channels) -> skips, finest first, at the decoder's sizes, then the upsampled centre.

    Dropout follows the last block before the centre.
    """

    width: int
    depth: int
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """Encodes images of a size that `wrong_size` accepts."""
        skips = []
        for level in range(self.depth - 1):
            x = unet.remat_if(self.remat, Block)(self.width * 2**level, self.dtype, name=f"Block_{level}")(x, train)
            if level == self.depth - 2:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            skips.append(x := unet.max_pool(x))
        x = unet.remat_if(self.remat, Block)(self.width * 2 ** (self.depth - 1), self.dtype, name="centre")(x, train)
        x = unet.Upsample(skips[-1].shape[-1], self.dtype)(x)
        sizes = _sizes(x.shape[1:3], self.depth - 1)
        return [*(unet.resize(skip, size) for skip, size in zip(skips, reversed(sizes), strict=True)), x]


class Decoder(nn.Module):
    """The encoder's feature maps -> float32 logits (n, y', x', classes), smaller than the images."""

    classes: int
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array], train: bool) -> jax.Array:
        """Decodes the encoder's feature maps: skips, finest first, then the centre."""
        *skips, x = levels
        for i, skip in enumerate(reversed(skips)):
            x = jnp.concatenate([x, skip], axis=-1)
            features = skip.shape[-1]
            x = unet.remat_if(self.remat, Block)(features, self.dtype, name=f"Block_{i}")(x, train)
            if i < len(skips) - 1:
                x = unet.Upsample(features // 2, self.dtype)(x)
        return nn.Conv(self.classes, (1, 1), dtype=self.dtype, name=unet.HEAD)(x).astype(jnp.float32)


def wrong_size(size: int, depth: int) -> str:
    """Which image side to use instead of this one; "" if the side is valid."""
    if depth < 2:
        return "with model.name=released give a model.depth of at least 2"
    smallest = next(side for side in itertools.count(1) if _logits_side(side, depth) > 0)
    return "" if size >= smallest else f"with model.name=released and model.depth={depth} give {smallest} or more"


def _logits_side(side: int, depth: int) -> int:
    """The side of the logits for images of this side; 0 or less if no pixels are left."""
    for _ in range(depth - 1):
        side = (side - 4) // 2
    for _ in range(depth - 1):
        side = 2 * (side - 4)
    return side - 4


def _sizes(size: tuple[int, ...], levels: int) -> list[tuple[int, ...]]:
    """(y, x) of the inputs of the decoder's blocks, coarsest first: a block removes 4 pixels, upsampling doubles."""
    sizes = [size]
    for _ in range(levels - 1):
        sizes.append(tuple(2 * (side - 4) for side in sizes[-1]))
    return sizes
