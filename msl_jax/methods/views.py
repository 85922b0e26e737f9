"""Views: further versions of a set's images, which are trained on as sets of their own, with the same labels."""

from collections.abc import Mapping
import dataclasses


@dataclasses.dataclass(frozen=True)
class View:
    """How a view is made.

    Attributes:
      of: the set whose images and labels it has.
      version: which version of its images, a key of VERSIONS in training/augmentation.py.
      channel_dropout: rate at which the encoder's channels are dropped before the decoders.
    """

    of: str
    version: str
    channel_dropout: float = 0.0


VIEWS: Mapping[str, View] = {
    # UniMatch (Yang et al., CVPR 2023): a second strongly augmented view, and perturbed features of the plain images.
    "again": View("weak", "again"),
    "perturbed": View("weak", "plain", channel_dropout=0.5),
}
SETS: Mapping[str, tuple[str, ...]] = {
    "strong": ("strong",),
    "weak": ("weak",),
    "both": ("strong", "weak"),
}
"""Value of a setting like `kd_on` -> sets of images."""
IMAGES = {**SETS, **{name: (name,) for name in VIEWS}}
"""What a term may have as `images` -> sets."""
ORDER = ("strong", "weak", *VIEWS)
"""All sets, in the order of forward passes."""
