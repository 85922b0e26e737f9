"""One encoder, two decoders of the same shape: the teacher and the student (arXiv 2012.08051, figure 1)."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from msl_jax.models.unet import Decoder, Encoder

BRANCHES = ("teacher", "student")


class DualBranchUNet(nn.Module):
    """A U-Net with a teacher and a student decoder, each run on those images alone whose output is wanted.

    Attributes:
      width: channels of the finest level; each level below has twice as many.
      depth: levels; image sides must be multiples of 2^(depth - 1).
      classes: output channels, background included.
      dropout: rate at the coarsest level.
      remat: keep the blocks' inputs alone for the backward pass: less memory, a second forward pass.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    width: int = 64
    depth: int = 5
    classes: int = 2
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, rows: Mapping[str, slice], train: bool, watched: Mapping[str, slice] | None = None
    ) -> dict[str, jax.Array]:
        """Runs the encoder on all images and each branch on its rows.

        Args:
          images: float (groups, n, y, x, channels). A group is what lies on one device: rows are cut within groups,
            so that no image leaves its device.
          rows: branch -> which of the n images of every group it sees. A branch that is not named has no parameters.
          train: batch norm with the statistics of this batch (and dropout) instead of the running ones.
          watched: branch -> rows beside its own, if any, on which it is only asked for its opinion: its decoder works
            as at test time, with running statistics and without a gradient. Were they part of its batch, they would
            shift the statistics under which it learns from the others, and it would learn to tell the two apart.

        Returns:
          Branch -> float32 logits (groups, rows and watched rows, y, x, classes).
        """
        groups, n, *plane = images.shape
        encoder = Encoder(self.width, self.depth, self.dropout, self.remat, self.dtype, name="encoder")
        levels = encoder(images.reshape(groups * n, *plane).astype(self.dtype), train)
        grouped = [level.reshape(groups, n, *level.shape[1:]) for level in levels]

        def decode(decoder, cut, train):
            seen = [level[:, cut] for level in grouped]
            out = decoder([level.reshape(-1, *level.shape[2:]) for level in seen], train)
            return out.reshape(*seen[0].shape[:-1], self.classes)

        logits = {}
        for branch in BRANCHES:
            decoder = Decoder(self.classes, self.remat, self.dtype, name=branch)
            parts = []
            if branch in rows:
                parts.append((rows[branch].start, decode(decoder, rows[branch], train)))
            if watched and branch in watched:
                opinion = jax.lax.stop_gradient(decode(decoder, watched[branch], train=False))
                parts.append((watched[branch].start, opinion))
            if parts:
                logits[branch] = jnp.concatenate([part for _, part in sorted(parts, key=lambda p: p[0] or 0)], axis=1)
        return logits
