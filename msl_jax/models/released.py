"""The halves of the network that the papers' authors released, `UNet_Mixed` (josedolz/MSL-student-becomes-master).

A U-Net without padding: each 3x3 convolution takes a pixel off every side, skips are resized to the decoder's feature
maps, and the logits come out smaller than the images (`DualBranchUNet` resizes them). With their width of 64 and depth
of 5 it has their arrays, and in evaluation their outputs; import_weights.py says which is which. In training it differs
in two things: running variances take the batch's variance with 1 / n, PyTorch's with 1 / (n - 1), and transposed
convolutions begin as those of unet.py.
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
"""Share of the running statistics that a step keeps, PyTorch's default (there the share taken in, 0.1)."""


class Block(nn.Module):
    """(3x3 convolution without padding, batch norm, ReLU) twice: (n, y, x, c) -> (n, y - 4, x - 4, features)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Applies the block; with `train` by the batch's statistics, which move the running ones."""
        he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        for _ in range(2):
            x = nn.Conv(self.features, (3, 3), padding="VALID", kernel_init=he_normal, dtype=self.dtype)(x)
            x = BatchNorm(MOMENTUM, dtype=self.dtype)(x, train)
            x = nn.relu(x)
        return x


class Encoder(nn.Module):
    """Images (n, y, x, channels) -> the skips, finest first, at the size that decoders want them, and the centre.

    Dropout is behind the last block before the centre.
    """

    width: int
    depth: int
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """Encodes images of a size that `wrong_size` finds nothing wrong with."""
        skips = []
        for level in range(self.depth - 1):
            x = unet.remat_if(self.remat, Block)(self.width * 2**level, self.dtype, name=f"Block_{level}")(x, train)
            if level == self.depth - 2:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
            skips.append(x := unet.halve(x))
        x = unet.remat_if(self.remat, Block)(self.width * 2 ** (self.depth - 1), self.dtype, name="centre")(x, train)
        x = unet.Upsample(skips[-1].shape[-1], self.dtype)(x)
        sizes = _sizes(x.shape[1:3], self.depth - 1)
        return [*(resize(skip, size) for skip, size in zip(skips, reversed(sizes), strict=True)), x]


class Decoder(nn.Module):
    """What the encoder returns -> float32 logits (n, y', x', classes), smaller than the images."""

    classes: int
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[jax.Array], train: bool) -> jax.Array:
        """Decodes what the encoder returned: skips, finest first, then the centre."""
        *skips, x = levels
        for i, skip in enumerate(reversed(skips)):
            x = jnp.concatenate([x, skip], axis=-1)
            features = skip.shape[-1]
            x = unet.remat_if(self.remat, Block)(features, self.dtype, name=f"Block_{i}")(x, train)
            if i < len(skips) - 1:
                x = unet.Upsample(features // 2, self.dtype)(x)
        return nn.Conv(self.classes, (1, 1), dtype=self.dtype, name=unet.HEAD)(x).astype(jnp.float32)


def resize(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Linear interpolation of (n, y, x, c) to `size`, as PyTorch's with align_corners=False.

    Centres of pixels are half-way between their edges, and nothing is smoothed where the size shrinks.
    """
    n, _, _, c = x.shape
    return jax.image.resize(x, (n, *size, c), "linear", antialias=False)


def wrong_size(size: int, depth: int) -> str:
    """What to give in place of this image side; "" where it will do."""
    if depth < 2:
        return "with model.name=released give a model.depth from 2 up"
    smallest = next(side for side in itertools.count(1) if _logits_side(side, depth) > 0)
    return "" if size >= smallest else f"with model.name=released and model.depth={depth} give {smallest} or more"


def _logits_side(side: int, depth: int) -> int:
    """The side of the logits of images of this side; not above 0 where none are left."""
    for _ in range(depth - 1):
        side = (side - 4) // 2
    for _ in range(depth - 1):
        side = 2 * (side - 4)
    return side - 4


def _sizes(size: tuple[int, ...], levels: int) -> list[tuple[int, ...]]:
    """(y, x) of what a decoder's blocks take, coarsest first: each loses 4 pixels, an upsampling doubles the rest."""
    sizes = [size]
    for _ in range(levels - 1):
        sizes.append(tuple(2 * (side - 4) for side in sizes[-1]))
    return sizes
