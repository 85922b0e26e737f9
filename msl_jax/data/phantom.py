"""Short-axis cardiac cine phantoms made from a seed: a data set that needs no download.

A source is text, `patients=40,seed=0`. Every patient has an end-diastolic and an end-systolic volume, belongs to one of
four groups of heart shape (`GROUPS`), and depends on the seed and its own number alone: the first ten of forty
patients are the ten patients of a smaller set.

How a volume is made: a grid of positions in mm seen from the heart (`_view`); the body around it painted tissue over
tissue, each with a soft edge (`_paint_body`, `ORGANS`); the heart on top, averaged through each slice's thickness
(`_heart`); a scanner (`_acquire`) that adds coil shading, limited resolution and noise. In the body's own frame the
chest is at -x, the head at -y, the apex at +z, and the left ventricle's axis is x = y = 0.
"""

from collections.abc import Iterator
import dataclasses
import re

import numpy as np
from scipy import fft

from msl_jax.checks import Refused
from msl_jax.data.case import Case, Reader

LABELS = {"RV": 1, "MYO": 2, "LV": 3}
PHASES = ("ED", "ES")
BASE_TO_APEX_MM = (68.0, 88.0)
SLICES = (6, 12)
LONG_SIDE = (140, 160)
SLAB = (-1 / 3, 0.0, 1 / 3)
"""Positions within a slice's thickness that are averaged."""

TISSUES = {"air": 0.0, "lung": 0.05, "muscle": 0.17, "myocardium": 0.22, "liver": 0.2, "organ": 0.3, "blood": 0.65}
TISSUES |= {"fat": 0.85, "gas": 0.03, "bone": 0.3, "fluid": 1.0}
"""Relative brightness in a balanced steady-state free precession cine."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """A group's mean heart at end-diastole (mm) and what end-systole makes of it (ratios)."""

    endo: float
    wall: float
    rv_depth: float
    es_endo: float
    es_wall: float
    es_rv_depth: float


GROUPS = {
    "NOR": Shape(endo=24, wall=8.5, rv_depth=27, es_endo=0.68, es_wall=1.4, es_rv_depth=0.7),
    "DCM": Shape(endo=32, wall=7, rv_depth=27, es_endo=0.88, es_wall=1.1, es_rv_depth=0.85),
    "HCM": Shape(endo=21, wall=14, rv_depth=25, es_endo=0.55, es_wall=1.3, es_rv_depth=0.65),
    "RV": Shape(endo=22, wall=8.5, rv_depth=38, es_endo=0.7, es_wall=1.35, es_rv_depth=0.85),
}


@dataclasses.dataclass(frozen=True)
class Organ:
    """An ellipsoid around the heart: tissue, centre (x, y, z) and radii (x, y, z) in mm."""

    tissue: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]


ORGANS = (
    Organ("liver", (-45, 92, 20), (75, 50, 120)),
    Organ("fat", (35, 95, 40), (60, 45, 120)),
    Organ("organ", (60, 62, 65), (36, 28, 60)),
    Organ("organ", (95, 75, 40), (24, 30, 60)),
    Organ("fluid", (65, 95, 40), (22, 14, 40)),
    Organ("gas", (75, 50, 80), (14, 9, 30)),
    Organ("muscle", (120, 60, 0), (30, 60, 400)),
    Organ("bone", (92, 30, 0), (19, 18, 400)),
    Organ("fluid", (108, 34, 0), (5, 6, 400)),
    Organ("blood", (70, 22, 0), (12, 12, 400)),
    Organ("blood", (8, 58, 0), (11, 9, 60)),
    Organ("blood", (-10, 80, 20), (6, 5, 30)),
    Organ("blood", (-50, 70, 30), (4, 9, 30)),
    Organ("fat", (5, 0, -25), (50, 48, 35)),
    Organ("blood", (28, 6, -24), (28, 24, 32)),
    Organ("blood", (-14, 36, -18), (20, 18, 28)),
    Organ("blood", (-12, -38, -20), (14, 13, 30)),
    Organ("blood", (22, -30, -24), (8, 16, 28)),
)


@dataclasses.dataclass(frozen=True)
class View:
    """Where every voxel is in the body's frame, in mm.

    Attributes:
      x, y: (slice, y, x).
      z: (slice, 1, 1).
      spacing: of the voxels, along (slice, y, x).
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    spacing: tuple[float, float, float]


def _view(rng, length):
    """Draws a scan of a heart of `length` mm: its slices, field of view, position and rotation."""
    gap = rng.uniform(5.5, 10)
    slices = int(np.clip(round(length / gap), *SLICES))
    gap = float(np.clip(round(length / slices, 1), 5, 10))
    pixel = round(rng.uniform(1.8, 2.2), 3)
    turn = np.radians(rng.normal(0, 12) if rng.random() < 0.6 else rng.normal(65, 15))
    height = int(rng.integers(LONG_SIDE[0], LONG_SIDE[1] + 1))
    width = int(height * rng.uniform(0.78, 0.92))
    if abs(np.sin(turn)) > abs(np.cos(turn)):
        height, width = width, height
    centre = rng.normal(0.485, 0.035, 2) * (height, width)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    rows, columns = (rows - centre[0]) * pixel, (columns - centre[1]) * pixel
    x = np.cos(turn) * columns + np.sin(turn) * rows
    y = -np.sin(turn) * columns + np.cos(turn) * rows
    z = (rng.uniform(2, 7) + gap * np.arange(slices)).astype(np.float32)[:, None, None]
    full = (slices, height, width)
    x, y = (np.broadcast_to(v.astype(np.float32), full) for v in (x, y))
    return View(x, y, z, (gap, pixel, pixel))


def _noise(rng, shape, sigma):
    """Smooth periodic noise of unit variance per slice; `sigma` in pixels."""
    h, w = shape[1:]
    ky, kx = fft.fftfreq(h)[:, None], fft.rfftfreq(w)
    spectrum = fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    smooth = fft.irfft2(spectrum * np.exp(-2 * (np.pi * sigma) ** 2 * (ky**2 + kx**2)).astype(np.float32), s=(h, w))
    return smooth / smooth.std()


def _inside(distance, softness):
    """Share of a voxel inside a surface, from its signed distance (negative inside) and the edge's width."""
    return np.clip(0.5 - distance / softness, 0, 1)


def _paint(image, share, value):
    """Covers `image` by `value` in place, as far as `share` (0 to 1) says."""
    image += share * (value - image)


def _warped(rng, view):
    """`view` bent by a few long waves, so that no outline is an ellipse."""
    x, y = view.x.copy(), view.y.copy()
    for _ in range(4):
        kx, ky, kz = 2 * np.pi * rng.normal(0, 1, 3) / (110, 110, 200)
        wave = np.sin(kx * view.x[:1] + ky * view.y[:1] + (kz * view.z + rng.uniform(0, 6.3))).astype(np.float32)
        x += rng.normal(0, 3.5) * wave
        y += rng.normal(0, 3.5) * wave
    return dataclasses.replace(view, x=x, y=y)


def _paint_body(rng, view):
    """The body without its heart, relative brightness, float32 (slice, y, x)."""
    shape = view.x.shape
    pixel = view.spacing[1]
    fine, medium, coarse = (_noise(rng, shape, s / pixel) for s in (1.8, 4.5, 10))
    view = _warped(rng, view)
    tissue = {name: np.float32(value * rng.uniform(0.85, 1.15)) for name, value in TISSUES.items()}
    x, y, z = view.x, view.y, view.z

    image = np.zeros(shape, np.float32)
    radii = np.array([rng.uniform(112, 128), rng.uniform(145, 170)])
    centre = (rng.uniform(30, 40), 15)
    narrowing = 1 + 0.0016 * (y - 20)
    rho = (np.abs((x - centre[0]) / (radii[0] * narrowing)) ** 2.6 + np.abs((y - centre[1]) / radii[1]) ** 2.6) ** (
        1 / 2.6
    )
    depth = (1 - rho) * radii[0]
    fat_depth = rng.uniform(8, 26) + 3 * coarse
    _paint(image, _inside(-depth, pixel), tissue["fat"] * (1 + 0.05 * medium))
    chest_wall = tissue["muscle"] + 0.5 * tissue["fat"] * np.clip(medium - 0.7, 0, 1)
    _paint(image, _inside(fat_depth - depth, 2 * pixel), chest_wall)
    lung = tissue["lung"] * (1 + 0.2 * fine) + 0.4 * tissue["blood"] * np.clip(fine - 2.1, 0, 1)
    chest = _inside(fat_depth + rng.uniform(10, 16) - depth, 2 * pixel)
    _paint(image, chest, lung)

    diaphragm = 42 + (x - 35) ** 2 / 350 - 0.25 * z
    entrails = tissue["organ"] * (0.7 + 0.25 * coarse) + tissue["fat"] * np.clip(1 - (medium / 0.35) ** 2, 0, 1) * 0.7
    _paint(image, chest * _inside(diaphragm - y, pixel), np.abs(entrails))
    for organ in ORGANS:
        centre = np.array(organ.centre) + rng.normal(0, 4, 3)
        radii = np.array(organ.radii) * rng.uniform(0.8, 1.2, 3)
        rho = np.sqrt(
            ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + ((z - centre[2]) / radii[2]) ** 2
        )
        value = tissue[organ.tissue] * rng.uniform(0.85, 1.15)
        _paint(image, _inside((rho - 1) * min(radii[:2]), 1.5 * pixel), value * (1 + 0.08 * medium + 0.06 * fine))
    return image, tissue


@dataclasses.dataclass(frozen=True)
class Heart:
    """One heart in one phase: lengths in mm, angles in radians in the body's frame."""

    endo: float
    wall: float
    rv_depth: float
    base: float
    apex: float
    rv_angle: float
    rv_width: float
    waves: np.ndarray
    thickening: float
    thick_at: float


def _hearts(rng, group, length):
    """Draws a patient's heart, at end-diastole and at end-systole."""
    shape = GROUPS[group]
    size = rng.uniform(0.88, 1.12)
    orders = np.arange(2, 5)
    waves = np.stack([rng.normal(0, 0.07, 3) / (orders - 1), rng.uniform(0, 2 * np.pi, 3)])
    ed = Heart(
        endo=shape.endo * size * rng.uniform(0.94, 1.06),
        wall=shape.wall * size * rng.uniform(0.88, 1.12),
        rv_depth=shape.rv_depth * size * rng.uniform(0.85, 1.15),
        base=-4.0,
        apex=length,
        rv_angle=np.pi + rng.normal(-0.25, 0.25),
        rv_width=rng.uniform(1.15, 1.4),
        waves=waves,
        thickening=rng.uniform(0.05, 0.25),
        thick_at=rng.uniform(0, 2 * np.pi),
    )
    es = dataclasses.replace(
        ed,
        endo=ed.endo * shape.es_endo * rng.uniform(0.95, 1.05),
        wall=ed.wall * shape.es_wall,
        rv_depth=ed.rv_depth * shape.es_rv_depth,
        base=ed.base + rng.uniform(3, 11),
        apex=length - rng.uniform(0, 3),
    )
    return ed, es


CAVITY_END = 0.92
RV_END = 0.82


def _profile(s):
    """Relative radius of a ventricle at the relative height `s`: 1 at the base, 0 from s = 1 on."""
    return np.sqrt(np.clip(1 - np.clip(s, 0, 1) ** 2.4, 0, 1))


def _contours(heart, radius, theta, z):
    """Signed distances in mm (negative inside) to the cavity, the epicardium and the right ventricle's free wall."""
    s = (z - heart.base) / (heart.apex - heart.base)
    amplitude, phase = heart.waves
    wave = sum(a * np.cos(k * theta + p) for k, a, p in zip((2, 3, 4), amplitude, phase, strict=True))
    endo = heart.endo * _profile(s / CAVITY_END)
    wall = (heart.endo + heart.wall) * _profile(s) - endo
    endo_contour = endo * (1 + wave)
    epi_contour = endo_contour + wall * (1 + heart.thickening * np.cos(theta - heart.thick_at))
    offset = np.abs((theta - heart.rv_angle + np.pi) % (2 * np.pi) - np.pi)
    taper = _profile(s / RV_END)
    crescent = np.clip(np.cos(np.clip(offset / (heart.rv_width * (0.6 + 0.4 * taper)), 0, 1) * np.pi / 2), 0, 1)
    rv_contour = epi_contour + heart.rv_depth * taper * crescent
    present = np.where(s >= 0, 0, np.float32(1e3))
    return radius - endo_contour + present, radius - epi_contour + present, radius - rv_contour + present


def _paint_heart(rng, image, view, heart, tissue):
    """Paints a heart over `image` and returns both image and mask."""
    pixel = view.spacing[1]
    gap = view.spacing[0]
    radius, theta = np.hypot(view.x[0], view.y[0]), np.arctan2(view.y[0], view.x[0])
    endo, epi, rv = _contours(heart, radius, theta, view.z)
    mask = np.select([endo < 0, epi < 0, rv < -0.5 * pixel], [LABELS[k] for k in ("LV", "MYO", "RV")]).astype(np.uint8)

    medium, coarse = (_noise(rng, image.shape, s / pixel) for s in (3.5, 12))
    painted = np.zeros_like(image)
    for offset in SLAB:
        one = image.copy()
        endo, epi, rv = _contours(heart, radius, theta, view.z + offset * gap)
        _paint(one, _inside(rv - 5 - 3 * coarse, 2 * pixel), tissue["fat"] * 0.8)
        _paint(one, _inside(np.minimum(rv - 2.5, epi), pixel), tissue["myocardium"] * (1 + 0.08 * medium))
        blood = tissue["blood"] * (1 + 0.06 * coarse + 0.04 * medium)
        _paint(one, _inside(np.maximum(rv + 1.5 * np.clip(medium, 0, 3), 1 - epi), pixel), 0.92 * blood)
        _paint(one, _inside(endo + 1.2 * np.clip(medium, 0, 3), pixel), blood)
        for side in (-0.9, 0.9):
            angle = heart.rv_angle + np.pi + side
            reach = 0.66 * heart.endo
            s = (view.z + offset * gap - heart.base) / (heart.apex - heart.base)
            size = 0.24 * heart.endo * np.sqrt(np.clip(1 - ((s - 0.5) / 0.3) ** 2, 0, 1))
            d = np.hypot(view.x - reach * np.cos(angle), view.y - reach * np.sin(angle)) - size
            _paint(one, _inside(d, pixel) * (size > 0), tissue["myocardium"])
        painted += one / len(SLAB)
    return painted, mask


def _acquire(rng, image, view, shading, scale, noise):
    """What the scanner stores of relative brightnesses `image`: shaded, of limited resolution, noisy."""
    n, h, w = image.shape
    signal = image * shading * rng.normal(1, 0.03, (n, 1, 1)).astype(np.float32)
    signal = signal + noise * (
        rng.standard_normal(image.shape, np.float32) + 1j * rng.standard_normal(image.shape, np.float32)
    )
    ky, kx = np.abs(fft.fftfreq(h))[:, None], np.abs(fft.fftfreq(w))
    window = np.exp(-((ky / 0.42) ** 6) - (kx / 0.46) ** 6).astype(np.float32)
    return (scale * np.abs(fft.ifft2(fft.fft2(signal.astype(np.complex64)) * window))).astype(np.float32)


def patient_cases(seed, number):
    """Both cases of patient `number` (from 1), which depend on `seed` and `number` alone."""
    rng = np.random.default_rng([seed, number])
    group = list(GROUPS)[(number - 1) % len(GROUPS)]
    length = rng.uniform(*BASE_TO_APEX_MM)
    view = _view(rng, length)
    hearts = _hearts(rng, group, length)
    body, tissue = _paint_body(rng, view)
    shading = np.exp(-view.x * rng.uniform(0.0, 0.005) + view.y * rng.normal(0, 0.0015)).astype(np.float32)
    scale, noise = rng.uniform(300, 900), rng.uniform(0.012, 0.035)
    frames = (1, int(rng.integers(9, 13)))
    for phase, frame, heart in zip(PHASES, frames, hearts, strict=True):
        image, mask = _paint_heart(rng, body, view, heart, tissue)
        image = _acquire(rng, image, view, shading, scale, noise)
        patient = f"phantom{number:03d}"
        name = f"{patient}_frame{frame:02d}"
        yield Case(name, patient, group, phase, frame, image, mask, None, view.spacing, "mm")


def _parse(source):
    """`patients=40,seed=0` -> (40, 0)."""
    keys = dict(re.findall(r"(?:^|,)\s*(patients|seed)\s*=\s*(\d+)\s*(?=,|$)", source))
    if len(keys) != 2 or source.count("=") != 2 or source.count(",") != 1 or int(keys["patients"]) < 1:
        raise Refused(f"the phantom's source is {source!r}; it must read like 'patients=40,seed=0'")
    return int(keys["patients"]), int(keys["seed"])


def fingerprint(source: str) -> str:
    """The source in its normal form."""
    patients, seed = _parse(source)
    return f"patients={patients},seed={seed}"


def read(source: str) -> Iterator[Case]:
    """Every case that `source` names, patient by patient, end-diastole first."""
    patients, seed = _parse(source)
    for number in range(1, patients + 1):
        yield from patient_cases(seed, number)


READER = Reader(labels=LABELS, fingerprint=fingerprint, read=read)
