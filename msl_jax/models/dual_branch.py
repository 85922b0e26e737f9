"""One encoder and two decoders of the same shape: teacher and student (arXiv 2012.08051, figure 1).

Each row of NETWORKS is a matching pair of encoder and decoder.
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
"""Image set -> an array over its images."""
Sets = Mapping[str, Sequence[str]]
"""Branch -> image sets."""


@dataclasses.dataclass(frozen=True)
class Network:
    """The parts of a network and its defaults.

    Attributes:
      encoder: (width, depth, dropout, remat, dtype) -> module: images -> feature maps.
      decoder: (classes, remat, dtype) -> module: feature maps -> logits of any size.
      wrong_size: (image side, depth) -> which side to use instead; "" if the side is valid.
      dropout: default rate at the coarsest level, used if neither config.model nor the method sets one.
      norms: normalisation layers to choose from, the argument `norm` of encoder and decoder; empty if the network has
        only its own, batch norm.
      deep_supervision: whether the decoder has logits of several levels: it then takes their number, `levels`, and
        returns a list, finest first, if that is above 1.
    """

    encoder: type[nn.Module]
    decoder: type[nn.Module]
    wrong_size: Callable[[int, int], str]
    dropout: float = 0.0
    norms: tuple[str, ...] = ()
    deep_supervision: bool = False


NETWORKS: Mapping[str, Network] = {
    "unet": Network(unet.Encoder, unet.Decoder, unet.wrong_size, norms=tuple(unet.NORMS), deep_supervision=True),
    "released": Network(released.Encoder, released.Decoder, released.wrong_size, dropout=0.5),
}


class DualBranchUNet(nn.Module):
    """A U-Net with a teacher and a student decoder; each decoder runs only on the image sets it is needed for.

    Attributes:
      width: channels of the finest level; doubled at each coarser level.
      depth: number of levels; the network's `wrong_size` checks which image sides fit.
      classes: output channels, including background.
      dropout: rate at the coarsest level.
      remat: keep only the blocks' inputs for the backward pass: less memory, a second forward pass.
      dtype: dtype of the computation; parameters, statistics and logits are float32.
      network: a key of NETWORKS.
      norm: one of the network's `norms`, or "batch".
      levels: number of each decoder's levels with logits; above 1 only if the network has `deep_supervision`.
    """

    width: int = 64
    depth: int = 5
    classes: int = 2
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32
    network: str = "unet"
    norm: str = "batch"
    levels: int = 1

    @nn.compact
    def __call__(
        self,
        images: Arrays,
        trained: Sets,
        train: bool,
        watched: Sets | None = None,
        channel_dropout: Mapping[str, float] | None = None,
        feature_dropout: Mapping[str, float] | None = None,
    ) -> dict[str, dict[str, jax.Array]]:
        """Runs the encoder on all images and each decoder on the image sets requested for its branch.

        Args:
          images: set -> float (groups, n, y, x, channels), with its own n per set. A group is the part on one device:
            sets are joined and split within groups, so no image leaves its device. Batch norm of the encoder uses all
            sets of this call together.
          trained: branch -> the sets it is trained on. A branch that is not listed has no parameters.
          train: use dropout and the batch's statistics in batch norm instead of the running ones.
          watched: branch -> sets on which its output is only a target: its decoder (not the encoder)
            runs as in evaluation, with running statistics and without gradient. In its training batch these sets would
            shift the batch statistics, and the decoder would learn to tell the sets apart.
          channel_dropout: set -> rate at which channels of its feature maps are dropped in training, as in UniMatch.
          feature_dropout: branch -> rate at which single features of its decoder's input are dropped in training, as in
            the auxiliary decoder of DMPLS and DMSPS.

        Returns:
          Branch -> set -> float32 logits (groups, n, y, x, classes), for trained and watched sets. With several levels
          also those of level l, (groups, n, y / 2^l, x / 2^l, classes), under the name `at_level(branch, l)`.
        """
        rows = _rows_of(images)
        joined = jnp.concatenate(list(images.values()), axis=1)
        groups, n, y, x, channels = joined.shape
        network = NETWORKS[self.network]
        norm = {"norm": self.norm} if network.norms else {}
        levels = {"levels": self.levels} if network.deep_supervision else {}
        encoder = network.encoder(self.width, self.depth, self.dropout, self.remat, self.dtype, **norm, name="encoder")
        features = encoder(joined.reshape(groups * n, y, x, channels).astype(self.dtype), train)
        grouped = [level.reshape(groups, n, *level.shape[1:]) for level in features]
        decoders = {
            branch: network.decoder(self.classes, self.remat, self.dtype, **norm, **levels, name=branch)
            for branch in BRANCHES
        }

        def features_of(level: jax.Array, name: str) -> jax.Array:
            rate = (channel_dropout or {}).get(name, 0.0)
            return nn.Dropout(rate, broadcast_dims=(2, 3), deterministic=not train)(level[:, rows[name]])

        def decode(branch: str, sets: Sequence[str], train: bool) -> dict[str, dict[str, jax.Array]]:
            selected = [jnp.concatenate([features_of(level, name) for name in sets], axis=1) for level in grouped]
            drop = nn.Dropout((feature_dropout or {}).get(branch, 0.0), deterministic=not train)
            out = decoders[branch]([drop(level.reshape(-1, *level.shape[2:])) for level in selected], train)
            finest, *coarser = out if isinstance(out, list) else [out]
            outputs = [out.reshape(groups, -1, *out.shape[1:]) for out in (unet.resize(finest, (y, x)), *coarser)]
            spans = _rows_of({name: images[name] for name in sets})
            return {
                at_level(branch, level): {name: out[:, span] for name, span in spans.items()}
                for level, out in enumerate(outputs)
            }

        logits: dict[str, dict[str, jax.Array]] = {}
        for branch in BRANCHES:
            if trained.get(branch):
                logits |= decode(branch, trained[branch], train)
            if watched and watched.get(branch):
                targets = jax.lax.stop_gradient(decode(branch, watched[branch], train=False))
                logits |= {name: logits.get(name, {}) | by_set for name, by_set in targets.items()}
        return logits


def at_level(name: str, level: int) -> str:
    """The name of a branch's logits, or of a label map, at a level; the finest level, 0, has the plain name.

    >>> at_level("teacher", 0), at_level("teacher", 2)
    ('teacher', 'teacher 1/4')
    """
    return f"{name} 1/{2**level}" if level else name


def _rows_of(images: Arrays) -> dict[str, slice]:
    """Set -> its slice of the second axis after sets (groups, n, ...) are concatenated along that axis."""
    ends = itertools.accumulate(array.shape[1] for array in images.values())
    return {name: slice(end - array.shape[1], end) for (name, array), end in zip(images.items(), ends, strict=True)}
