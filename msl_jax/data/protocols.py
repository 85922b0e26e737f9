"""The grid on which test cases are scored. A protocol is a row of PROTOCOLS."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from msl_jax.data import resampling
from msl_jax.data.case import Case
from msl_jax.data.preparation import STRETCH
from msl_jax.errors import InputError

Protocol = Callable[[Case, tuple[int, int]], Case]
"""(case on its original grid, (y, x) of the network's images) -> the case to segment and score."""


def papers(case: Case, size: tuple[int, int]) -> Case:
    """Slices at the network's size and voxels of 1 x 1 x 1, as in arXiv 2012.08051 and 2109.10902.

    The authors evaluated volumes of 256 x 256 PNGs. Their published script omits the last slice of every volume, in
    prediction and reference; here it is included.
    """
    mask = None if case.mask is None else resampling.resize_nearest(case.mask, size)
    image = resampling.resize_image(case.image, size, antialias=False)
    return dataclasses.replace(case, image=image, mask=mask, spacing=(1.0, 1.0, 1.0), units="voxel")


def check_protocol(protocol: str, spacing: Any) -> None:
    """Raises InputError if a run whose config.data.spacing this is cannot be scored by the protocol."""
    if protocol == "papers" and spacing != STRETCH:
        raise InputError(
            f"config.eval.protocol: is papers, which stretches slices, but the run resamples them (data.spacing is "
            f"{spacing}); give native, or train with config.data.spacing={STRETCH}."
        )


PROTOCOLS: Mapping[str, Protocol] = {"native": lambda case, size: case, "papers": papers}
