"""Settings that follow from the data set and the machine: what "auto" stands for.

The rules are nnU-Net's (Isensee et al., Nature Methods 2021) where it has one: pixels of the median size; patches of
the median slice's shape, smaller if they do not fit; as many levels as leave MIN_SIDE pixels at the coarsest; batches
from what is left; CT clipped at the 0.5 and 99.5 % percentiles of the structures, other images by their own
percentiles. BUDGETS, the limits of a kind of machine, and COVERED are this project's.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
from typing import Any

from ml_collections import ConfigDict

from msl_jax.data.builder import FOREGROUND, Dataset
from msl_jax.data.case import shared_unit
from msl_jax.data.preparation import AUTO, NATIVE, STRETCH
from msl_jax.experiments.fingerprint import Fingerprint, fingerprint_of
from msl_jax.models.dual_branch import NETWORKS
from msl_jax.settings.auto import unsettled, with_values
from msl_jax.settings.objects import pair
from msl_jax.system.machine import Machine
from msl_jax.system.text import gibibytes

MIN_SIDE = 4
"""Smallest side of the coarsest feature map in pixels (nnU-Net)."""
MAX_DEPTH = 5
"""Most levels: channels double at each, and 32 become nnU-Net's largest number of a 2-D network, 512."""
COVERED = 0.5
"""Share of the median slice that the largest patch covers; if it covers less, pixels are made larger. On ACDC, patches
of 96 x 96 with pixels 1.667 times as large, which cover 0.46, gave good results on a CPU."""
BATCH = (4, 8)
"""Images of a set in a batch, those of configs/acdc.py and configs/hippocampus.py: the second for patches of at most
half of the budget's pixels, if they fit the memory."""
MEMORY = 0.8
"""Share of the memory that a step may take."""
STEPS = (1_000, 20_000)
"""Fewest and most training steps; the most is that of configs/acdc.py, the papers' experiment."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """What training may cost.

    Attributes:
      pixels: most pixels of a patch.
      width: channels of the finest level; twice as many for patches of at most half of these pixels.
      work: pixels of all steps' patches times `width`.
    """

    pixels: int
    width: int
    work: float


BUDGETS: Mapping[bool, Budget] = {False: Budget(128 * 128, 8, 4e9), True: Budget(512 * 512, 32, 1.4e12)}
"""Whether there is an accelerator -> its budget. A CPU's is for two cores (AMD EPYC), which take 14 minutes for
its work with kl on ACDC and on the hippocampus; more of them only train faster."""


@dataclasses.dataclass(frozen=True)
class Settled:
    """A setting that was "auto": its name, its value and the reason for it."""

    name: str
    value: Any
    reason: str


Rule = Callable[[ConfigDict, Fingerprint, Machine], Iterator[Settled]]
"""A config whose earlier settings are settled, and all a rule may know -> what it settles."""


def planned(config: ConfigDict, data: Dataset, machine: Machine) -> tuple[ConfigDict, tuple[Settled, ...]]:
    """A copy of the config with values in place of "auto", and what was settled.

    Args:
      config: a checked config.
      data: its data set; all cases count, so that folds and seeds get the same values.
      machine: that which trains.

    Raises:
      InputError: slices are to be resampled, but some cases have voxel sizes and some do not.
    """
    units_of(config, data)
    fingerprint = fingerprint_of(data)
    axis = [Settled("data.axis", data.axis, _axis_reason(fingerprint))] if config.data.axis == AUTO else []
    config, settled = settle(with_values(config, {"data.axis": data.axis}), fingerprint, machine)
    return config, (*axis, *settled)


def units_of(config: ConfigDict, data: Dataset) -> str | None:
    """The unit of the data set's voxel sizes, "mm" or "voxel"; None if slices are not resampled.

    Raises:
      InputError: slices are to be resampled, but some cases have voxel sizes and some do not.
    """
    return None if config.data.spacing in (NATIVE, STRETCH) else shared_unit(data.entries)


def settle(config: ConfigDict, fingerprint: Fingerprint, machine: Machine) -> tuple[ConfigDict, list[Settled]]:
    """As `planned`, for all settings but data.axis and from a data set's fingerprint."""
    settled: list[Settled] = []
    for key, rule in RULES.items():
        if key in unsettled(config):
            found = list(rule(config, fingerprint, machine))
            config = with_values(config, {one.name: one.value for one in found})
            settled += found
    return config, settled


def lines(settled: tuple[Settled, ...]) -> list[str]:
    """A line for each setting: name, value and reason."""
    texts = [(one.name, _text(one.value), one.reason) for one in settled]
    widths = [max((len(text[i]) for text in texts), default=0) for i in range(2)]
    return [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {reason}" for name, value, reason in texts]


def step_memory(images: int, pixels: int, width: int, depth: int) -> float:
    """Bytes of a training step of kl_ent in float32 on one device.

    Every pixel keeps about 98 bytes for each channel of the finest level, and 144 for augmentation and logits; every
    parameter 16, with its gradient and Adam's means. XLA's own number (compiled for CPU by jaxlib 0.10.2, widths 8 to
    64, patches of 40 x 56 to 512 x 512, 8 or 16 images) differs by at most 4 %. It was not compared on a GPU.

    Args:
      images: on the device, of both sets.
      pixels: of a patch.
      width: channels of the finest level.
      depth: number of levels.
    """
    return images * pixels * (98 * width + 144) + 16 * 41 * width**2 * 4 ** (depth - 1)


def grid_of(fingerprint: Fingerprint, spacing: Any) -> tuple[float, float]:
    """(y, x) of the median slice in pixels after resampling."""
    if isinstance(spacing, str):  # NATIVE or STRETCH
        return fingerprint.shape
    y, x = (length / size for length, size in zip(fingerprint.extent, pair(spacing), strict=True))
    return y, x


def sides_of(grid: tuple[float, float], pixels: float, depth: int) -> tuple[int, int]:
    """(y, x) of a patch: the grid, or its shape with this many pixels if it has more; multiples of 2^(depth - 1).

    >>> sides_of((50, 35), 128 * 128, 4), sides_of((256, 216), 128 * 128, 5)
    ((56, 40), (128, 112))
    """
    factor, shrink = 2 ** (depth - 1), min(1.0, math.sqrt(pixels / math.prod(grid)))
    rounded = math.ceil if shrink == 1 else math.floor
    y, x = (factor * max(1, rounded(round(side * shrink / factor, 6))) for side in grid)
    return y, x


def _axis_reason(fingerprint: Fingerprint) -> str:
    return f"voxels are {_text(fingerprint.spacing)} (slice, y, x): the coarsest axis, or 2 if none is clearly coarser"


def _spacing(config: ConfigDict, fingerprint: Fingerprint, machine: Machine) -> Iterator[Settled]:
    median, reason = fingerprint.spacing[1:], "median pixel size of all cases"
    pixels = BUDGETS[machine.accelerator].pixels
    coarser = math.sqrt(math.prod(grid_of(fingerprint, median)) * COVERED / pixels)
    if config.data.size != AUTO or coarser <= 1:
        yield Settled("data.spacing", median, reason)
        return
    value = tuple(float(f"{coarser * size:.4g}") for size in median)
    yield Settled(
        "data.spacing", value, f"{reason}, {coarser:.3g} times as large, for a patch to cover {COVERED:g} of a slice"
    )


def _size(config: ConfigDict, fingerprint: Fingerprint, machine: Machine) -> Iterator[Settled]:
    grid, budget = grid_of(fingerprint, config.data.spacing), BUDGETS[machine.accelerator]
    slices = f"median slice of {grid[0]:.0f} x {grid[1]:.0f} pixels"
    reason = slices if math.prod(grid) <= budget.pixels else f"{slices}, at most {budget.pixels} on {machine.kind()}"
    largest, *smaller = _shrinking(config, grid, budget.pixels)
    if _fits(config, machine, largest, BATCH[0]):
        yield Settled("data.size", largest, reason)
        return
    size = next((size for size in smaller if _fits(config, machine, size, BATCH[0])), smaller[-1])
    yield Settled("data.size", size, f"{slices}, shrunk to fit {gibibytes(machine.memory)} of memory")


def _shrinking(config: ConfigDict, grid: tuple[float, float], pixels: float) -> Iterator[tuple[int, int]]:
    """Patches from the largest on, each of a tenth fewer pixels than the one before; at least two."""
    pixels = max(min(pixels, math.prod(grid)), 2 * MIN_SIDE**2)
    while pixels >= MIN_SIDE**2:
        yield _fitting_sides(config, grid, pixels)
        pixels *= 0.9


def _fitting_sides(config: ConfigDict, grid: tuple[float, float], pixels: float) -> tuple[int, int]:
    """The patch for the config's depth, or for the most levels that leave MIN_SIDE pixels."""
    depths = range(MAX_DEPTH, 0, -1) if config.model.depth == AUTO else (config.model.depth,)
    candidates = {depth: sides_of(grid, pixels, depth) for depth in depths}
    return next((s for depth, s in candidates.items() if _coarsest(s, depth) >= MIN_SIDE), candidates[min(depths)])


def _depth(config: ConfigDict, fingerprint: Fingerprint, machine: Machine) -> Iterator[Settled]:
    size, wrong = pair(config.data.size), NETWORKS[config.model.name].wrong_size
    depth = depth_of(size, lambda side, depth: not wrong(side, depth))
    yield Settled("model.depth", depth, f"{_text(_coarsest_sides(size, depth))} pixels at the coarsest level")


def depth_of(size: tuple[int, int], is_right: Callable[[int, int], bool]) -> int:
    """The most levels, up to MAX_DEPTH, that leave MIN_SIDE pixels and whose sides `is_right` accepts; at least 1."""
    fitting = [
        depth
        for depth in range(1, MAX_DEPTH + 1)
        if _coarsest(size, depth) >= MIN_SIDE and all(is_right(side, depth) for side in size)
    ]
    return max(fitting, default=1)


def _coarsest_sides(size: tuple[int, int], depth: int) -> tuple[int, int]:
    y, x = (side // 2 ** (depth - 1) for side in size)
    return y, x


def _coarsest(size: tuple[int, int], depth: int) -> int:
    return min(_coarsest_sides(size, depth))


def _width(config: ConfigDict, fingerprint: Fingerprint, machine: Machine) -> Iterator[Settled]:
    pixels = math.prod(pair(config.data.size))
    width = width_of(pixels, machine)
    yield Settled("model.width", width, f"for patches of {pixels} pixels on {machine.kind()}")


def width_of(pixels: int, machine: Machine) -> int:
    """Channels of the finest level, for patches of this many pixels."""
    return BUDGETS[machine.accelerator].width * (2 if _are_small(pixels, machine) else 1)


def _are_small(pixels: int, machine: Machine) -> bool:
    """Whether patches of this many pixels leave room for a larger network and batch."""
    return 2 * pixels <= BUDGETS[machine.accelerator].pixels


def _batch(name: str) -> Rule:
    def rule(config: ConfigDict, fingerprint: Fingerprint, machine: Machine) -> Iterator[Settled]:
        size = pair(config.data.size)
        large = _are_small(math.prod(size), machine) and _fits(config, machine, size, BATCH[1])
        unit = machine.devices * config.train.accumulate
        reason = f"{BATCH[large]} images for patches of {math.prod(size)} pixels on {machine.kind()}"
        shared = f", a multiple of {unit} for devices and parts" if BATCH[large] % unit else ""
        yield Settled(name, unit * math.ceil(BATCH[large] / unit), reason + shared)

    return rule


def _steps(config: ConfigDict, fingerprint: Fingerprint, machine: Machine) -> Iterator[Settled]:
    images, pixels = config.train.strong_batch + config.train.weak_batch, math.prod(pair(config.data.size))
    fewest, most = STEPS
    steps = min(max(BUDGETS[machine.accelerator].work / (images * pixels * config.model.width), fewest), most)
    reason = f"for {images} patches of {pixels} pixels a step on {machine.kind()}"
    yield Settled("train.steps", 1_000 * round(steps / 1_000), reason)


def _fits(config: ConfigDict, machine: Machine, size: tuple[int, int], images: int) -> bool:
    """Whether a step fits the machine's memory, with this many images of each set whose batch is not given."""
    pixels = math.prod(size)
    width = width_of(pixels, machine) if config.model.width == AUTO else config.model.width
    depth = config.model.depth
    depth = depth_of(size, lambda side, depth: side % 2 ** (depth - 1) == 0) if depth == AUTO else depth
    batches = (config.train.strong_batch, config.train.weak_batch)
    total = sum(images if batch == AUTO else batch for batch in batches)
    on_device = math.ceil(total / (machine.devices * config.train.accumulate))
    return step_memory(on_device, pixels, width, depth) <= MEMORY * machine.memory


def _normalization(config: ConfigDict, fingerprint: Fingerprint, machine: Machine) -> Iterator[Settled]:
    if fingerprint.ct and fingerprint.foreground:
        yield Settled("data.normalization", "window", f"CT: {fingerprint.ct}")
        low, high = (float(f"{limit:.5g}") for limit in fingerprint.foreground)
        low_percent, high_percent = FOREGROUND
        yield Settled(
            "data.window", (low, high), f"{low_percent} and {high_percent} % percentiles of the structures, median case"
        )
        return
    reason = "CT, but no case has a structure to clip at" if fingerprint.ct else "intensities have no unit (not CT)"
    yield Settled("data.normalization", "percentiles", reason)


def _text(value: Any) -> str:
    return f"({', '.join(f'{number:.4g}' for number in value)})" if isinstance(value, tuple) else str(value)


RULES: Mapping[str, Rule] = {
    "data.spacing": _spacing,
    "data.size": _size,
    "model.depth": _depth,
    "model.width": _width,
    "train.strong_batch": _batch("train.strong_batch"),
    "train.weak_batch": _batch("train.weak_batch"),
    "train.steps": _steps,
    "data.normalization": _normalization,
}
"""Setting -> its rule, in the order in which they are settled: each needs the settings before it."""
