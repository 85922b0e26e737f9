"""One encoder, two decoders of the same shape: the teacher and the student (arXiv 2012.08051, figure 1).

A network is a row of NETWORKS: an encoder and a decoder that fit each other.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from msl_jax.models import released, unet

BRANCHES = ("teacher", "student")


@dataclasses.dataclass(frozen=True)
class Network:
    """What a network is made of, and what it is like unless config.model says otherwise.

    Attributes:
      encoder: (width, depth, dropout, remat, dtype) -> module, images -> feature maps.
      decoder: (classes, remat, dtype) -> module, those -> logits, of whatever size.
      wrong_size: (side of the images, depth) -> what to give in place of that, "" where it will do.
      dropout: rate at the coarsest level, where the method has none of its own.
    """

    encoder: type[nn.Module]
    decoder: type[nn.Module]
    wrong_size: Callable[[int, int], str]
    dropout: float = 0.0


NETWORKS: Mapping[str, Network] = {
    "unet": Network(unet.Encoder, unet.Decoder, unet.wrong_size),
    "released": Network(released.Encoder, released.Decoder, released.wrong_size, dropout=0.5),
}


class DualBranchUNet(nn.Module):
    """A U-Net with a teacher and a student decoder, each run on those images alone whose output is wanted.

    Attributes:
      width: channels of the finest level; each level below has twice as many.
      depth: levels; which image sides fit says the network's `wrong_size`.
      classes: output channels, background included.
      dropout: rate at the coarsest level.
      remat: keep the blocks' inputs alone for the backward pass: less memory, a second forward pass.
      dtype: of the computation; parameters, statistics and logits are float32.
      network: a key of NETWORKS.
    """

    width: int = 64
    depth: int = 5
    classes: int = 2
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    network: str = "unet"

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
        groups, n, y, x, channels = images.shape
        halves = NETWORKS[self.network]
        encoder = halves.encoder(self.width, self.depth, self.dropout, self.remat, self.dtype, name="encoder")
        levels = encoder(images.reshape(groups * n, y, x, channels).astype(self.dtype), train)
        grouped = [level.reshape(groups, n, *level.shape[1:]) for level in levels]

        def decode(decoder, cut, train):
            seen = [level[:, cut] for level in grouped]
            out = decoder([level.reshape(-1, *level.shape[2:]) for level in seen], train)
            return released.resize(out, (y, x)).reshape(groups, -1, y, x, self.classes)

        logits = {}
        for branch in BRANCHES:
            decoder = halves.decoder(self.classes, self.remat, self.dtype, name=branch)
            parts = []
            if branch in rows:
                parts.append((rows[branch].start, decode(decoder, rows[branch], train)))
            if watched and branch in watched:
                opinion = jax.lax.stop_gradient(decode(decoder, watched[branch], train=False))
                parts.append((watched[branch].start, opinion))
            if parts:
                logits[branch] = jnp.concatenate([part for _, part in sorted(parts, key=lambda p: p[0] or 0)], axis=1)
        return logits
