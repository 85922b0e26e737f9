"""One encoder, two decoders of the same shape: the teacher and the student (arXiv 2012.08051, figure 1).

A network is a row of NETWORKS: an encoder and a decoder that fit each other.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import itertools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from msl_jax.models import released, unet

BRANCHES = ("teacher", "student")
Arrays = Mapping[str, jax.Array]
"""Name of a set of images -> an array of each of its images."""
Sets = Mapping[str, Sequence[str]]
"""Branch -> names of sets of images."""


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
        self, images: Arrays, trained: Sets, train: bool, watched: Sets | None = None
    ) -> dict[str, dict[str, jax.Array]]:
        """Runs the encoder on all images and each branch on the sets of images it is asked about.

        Args:
          images: set -> float (groups, n, y, x, channels), n of each set. A group is what lies on one device: sets are
            joined and cut within groups, so that no image leaves its device. Batch norm takes all sets together.
          trained: branch -> the sets it sees. A branch that is not named has no parameters.
          train: batch norm with the statistics of this batch (and dropout) instead of the running ones.
          watched: branch -> further sets, if any, on which it is only read as a target: its decoder works as at test
            time, with running statistics and without a gradient. Were they part of its batch, they would shift the
            statistics under which it learns from the others, and it would learn to tell the two apart.

        Returns:
          Branch -> set -> float32 logits (groups, n, y, x, classes), of trained and watched sets.
        """
        rows = _rows_of(images)
        joined = jnp.concatenate(list(images.values()), axis=1)
        groups, n, y, x, channels = joined.shape
        halves = NETWORKS[self.network]
        encoder = halves.encoder(self.width, self.depth, self.dropout, self.remat, self.dtype, name="encoder")
        levels = encoder(joined.reshape(groups * n, y, x, channels).astype(self.dtype), train)
        grouped = [level.reshape(groups, n, *level.shape[1:]) for level in levels]

        def decode(decoder: nn.Module, sets: Sequence[str], train: bool) -> dict[str, jax.Array]:
            seen = [jnp.concatenate([level[:, rows[name]] for name in sets], axis=1) for level in grouped]
            out = decoder([level.reshape(-1, *level.shape[2:]) for level in seen], train)
            out = released.resize(out, (y, x)).reshape(groups, -1, y, x, self.classes)
            return {name: out[:, cut] for name, cut in _rows_of({name: images[name] for name in sets}).items()}

        logits: dict[str, dict[str, jax.Array]] = {}
        for branch in BRANCHES:
            decoder = halves.decoder(self.classes, self.remat, self.dtype, name=branch)
            if trained.get(branch):
                logits[branch] = decode(decoder, trained[branch], train)
            if watched and watched.get(branch):
                targets = decode(decoder, watched[branch], train=False)
                logits[branch] = logits.get(branch, {}) | jax.lax.stop_gradient(targets)
        return logits


def _rows_of(images: Arrays) -> dict[str, slice]:
    """Which rows each set takes where sets (groups, n, ...) are joined along their second axis."""
    ends = itertools.accumulate(array.shape[1] for array in images.values())
    return {name: slice(end - array.shape[1], end) for (name, array), end in zip(images.items(), ends, strict=True)}
