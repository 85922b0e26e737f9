"""On which grid a test case is scored. A protocol is a row of PROTOCOLS."""

from collections.abc import Callable, Mapping
import dataclasses

from msl_jax.data import transforms
from msl_jax.data.case import Case

Protocol = Callable[[Case, tuple[int, int]], Case]
"""(case on its original grid, (y, x) of the network's images) -> the case as it is segmented and scored."""


def papers(case: Case, size: tuple[int, int]) -> Case:
    """Slices at the network's size and voxels of 1 x 1 x 1, as in arXiv 2012.08051 and 2109.10902.

    The authors made 256 x 256 PNGs of the volumes once, and evaluated volumes of these. In their published script every
    volume lacks its last slice, in prediction and reference alike; here it is there.
    """
    mask = None if case.mask is None else transforms.resize_labels(case.mask[..., None], size)[..., 0].numpy()
    image = transforms.resize_image(case.image, size).numpy()
    return dataclasses.replace(case, image=image, mask=mask, spacing=(1.0, 1.0, 1.0), units="voxel")


PROTOCOLS: Mapping[str, Protocol] = {"native": lambda case, size: case, "papers": papers}
