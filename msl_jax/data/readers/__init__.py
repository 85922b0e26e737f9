"""Layouts of data sets: one module and one row of READERS for each layout."""

from collections.abc import Mapping

from msl_jax.data.case import Reader
from msl_jax.data.readers import acdc, folder, msd, nnunet, phantom, png_tree, wsl4mis

READERS: Mapping[str, Reader] = {
    "acdc": acdc.READER,
    "folder": folder.READER,
    "msd": msd.READER,
    "nnunet": nnunet.READER,
    "phantom": phantom.READER,
    "png_tree": png_tree.READER,
    "wsl4mis": wsl4mis.READER,
}
