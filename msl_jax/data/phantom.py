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

TISSUES = {
    "lung": 0.09,
    "muscle": 0.17,
    "myocardium": 0.23,
    "liver": 0.2,
    "organ": 0.28,
    "bone": 0.3,
    "blood": 0.85,
    "fat": 0.75,
    "fluid": 1.1,
    "gas": 0.03,
}
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
    Organ("liver", (-55, 92, 10), (62, 46, 120)),
    Organ("blood", (-20, 82, 20), (5, 8, 40)),
    Organ("blood", (-50, 75, 30), (9, 4, 30)),
    Organ("fat", (48, 66, 65), (40, 32, 60)),
    Organ("organ", (48, 68, 65), (34, 26, 55)),
    Organ("fat", (92, 78, 40), (29, 34, 65)),
    Organ("organ", (92, 78, 40), (23, 28, 60)),
    Organ("muscle", (125, 50, 0), (32, 70, 400)),
    Organ("bone", (96, 36, 0), (18, 17, 400)),
    Organ("fluid", (112, 40, 0), (5, 6, 400)),
    Organ("fat", (130, -125, 0), (45, 38, 400)),
    Organ("muscle", (135, -130, 0), (30, 24, 400)),
    Organ("fat", (72, 24, 0), (17, 17, 400)),
    Organ("blood", (72, 24, 0), (12, 12, 400)),
    Organ("blood", (12, 58, 0), (11, 9, 60)),
    Organ("fat", (5, 0, -25), (46, 44, 33)),
    Organ("blood", (12, 3, -12), (25, 22, 28)),
    Organ("blood", (-24, 12, -12), (17, 22, 26)),
    Organ("blood", (-12, -36, -20), (13, 12, 30)),
    Organ("blood", (22, -28, -24), (8, 15, 28)),
)
BOWEL = ("organ", "organ", "muscle", "muscle", "liver", "fat", "blood", "blood", "fluid", "gas", "organ", "muscle")
"""Tissues of the loops that lie anywhere below the diaphragm."""


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
    pixel = round(rng.uniform(1.9, 2.2), 3)
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
        kx, ky, kz = (2 * np.pi * rng.uniform(-1, 1, 3) / (90, 90, 150)).tolist()
        wave = np.sin(kx * view.x[:1] + ky * view.y[:1] + (kz * view.z + rng.uniform(0, 6.3))).astype(np.float32)
        x += rng.normal(0, 3.5) * wave
        y += rng.normal(0, 3.5) * wave
    return dataclasses.replace(view, x=x, y=y)


def _bowel(rng):
    """Loops below the diaphragm, each in a coat of fat."""
    for tissue in BOWEL:
        centre = rng.uniform((-60, 70, -10), (130, 160, 110))
        radii = rng.uniform((8, 6, 20), (24, 18, 60))
        yield Organ("fat", tuple(centre), tuple(radii + 5))
        yield Organ(tissue, tuple(centre), tuple(radii))


def _paint_body(rng, view):
    """The body without its heart, relative brightness, float32 (slice, y, x)."""
    shape = view.x.shape
    pixel = view.spacing[1]
    fine, medium, coarse, broad = (_noise(rng, shape, s / pixel) for s in (1.6, 4.0, 9, 25))
    view = _warped(rng, view)
    tissue = {name: np.float32(value * rng.uniform(0.85, 1.15)) for name, value in TISSUES.items()}
    x, y, z = view.x, view.y, view.z

    image = np.zeros(shape, np.float32)
    half_width, half_height = rng.uniform(118, 135), rng.uniform(150, 175)
    u = (x - rng.uniform(38, 48)) / (half_width * (1 + 0.0018 * (y - 30)))
    v = (y - 20) / half_height
    depth = (1 - (np.abs(u) ** 2.6 + np.abs(v) ** 2.6) ** (1 / 2.6)) * half_width
    fat_depth = rng.uniform(6, 22) + 5 * broad[:1] + rng.uniform(0, 0.3) * z + 0.3 * np.clip(-50 - y, 0, None)
    _paint(image, _inside(-depth, pixel), tissue["fat"] * (1 + 0.06 * medium - 0.25 * np.clip(fine - 1.8, 0, 1)))
    layers = np.clip(np.sin(0.7 * depth + 2.5 * broad + coarse) - 0.1, 0, 1)
    chest_wall = tissue["muscle"] + 0.7 * tissue["fat"] * layers
    _paint(image, _inside(fat_depth - depth, pixel), chest_wall)
    chest = _inside(fat_depth + rng.uniform(12, 22) + 2 * coarse - depth, pixel)
    vessels = np.clip(1.2 * fine + 0.5 * broad - 2.9 + 1.2 * np.exp(-((x - 30) ** 2 + (y + 10) ** 2) / 3500), 0, 1)
    _paint(image, chest, tissue["lung"] * (1 + 0.15 * medium) + 0.7 * tissue["blood"] * vessels)

    diaphragm = 40 + (x - 40) ** 2 / 350 - 0.3 * z
    fatness = rng.uniform(-1, 0.6)
    entrails = tissue["organ"] + (tissue["fat"] - tissue["organ"]) * np.clip(0.8 * (0.3 * fine + medium + coarse + fatness), 0, 1)
    _paint(image, chest * _inside(diaphragm - y, pixel), entrails * (0.85 + 0.08 * fine))
    grain = 1 + 0.07 * medium + 0.06 * fine + 0.6 * np.clip(fine + 0.5 * medium - 2, 0, 1)
    for organ in (*ORGANS[:6], *_bowel(rng), *ORGANS[6:]):
        shift, swell = rng.normal(0, 4, 3), rng.uniform(0.8, 1.2, 3)
        (cx, cy, cz), (rx, ry, rz) = (organ.centre + shift).tolist(), (organ.radii * swell).tolist()
        rho = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2)
        value = tissue[organ.tissue] * rng.uniform(0.8, 1.2)
        _paint(image, _inside((rho - 1) * min(rx, ry), pixel), value * grain)

    bands = np.clip(np.hypot(x + 20, y) - rng.uniform(120, 190), 0, None) / rng.uniform(7, 12)
    return image * np.clip(np.cos(bands * np.pi) + 1.3, 0.1, 1), tissue


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
    rv_skew: float
    waves: np.ndarray
    thickening: float
    thick_at: float
    papillary: tuple[float, float]
    rv_gain: float


def _hearts(rng, group, length):
    """Draws a patient's heart, at end-diastole and at end-systole."""
    shape = GROUPS[group]
    size = rng.uniform(0.86, 1.06)
    rv_angle = np.pi + rng.normal(-0.35, 0.3)
    orders = np.arange(2, 5)
    waves = np.stack([rng.normal(0, 0.07, 3) / (orders - 1), rng.uniform(0, 2 * np.pi, 3)])
    ed = Heart(
        endo=shape.endo * size * rng.uniform(0.94, 1.06),
        wall=shape.wall * size * rng.uniform(0.88, 1.12),
        rv_depth=shape.rv_depth * size * rng.uniform(0.85, 1.15),
        base=-4.0,
        apex=length,
        rv_angle=rv_angle,
        rv_width=rng.uniform(0.25, 0.5),
        rv_skew=rng.uniform(-0.15, 0.45),
        waves=waves,
        thickening=rng.uniform(0.05, 0.25),
        thick_at=rng.uniform(0, 2 * np.pi),
        papillary=tuple((rv_angle + np.pi + rng.normal((-0.9, 0.9), 0.25)).tolist()),
        rv_gain=rng.uniform(0.75, 1.0),
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
    epi = (heart.endo + heart.wall) * _profile(s)
    taper = _profile(s / RV_END)
    forward, across = radius * np.cos(theta - heart.rv_angle), radius * np.sin(theta - heart.rv_angle)
    forward, across = forward - 0.6 * epi, across + heart.rv_skew * (forward - epi)
    long, wide = 0.4 * epi + heart.rv_depth * taper + 0.1, (0.7 + heart.rv_width * taper) * epi + 0.1
    free_wall = np.hypot(forward, across) * (1 - 1 / np.maximum(np.hypot(forward / long, across / wide), 1e-3))
    present = np.where(s >= 0, 0, np.float32(1e3))
    return radius - endo_contour + present, radius - epi_contour + present, free_wall + present


def _paint_heart(rng, image, view, heart, tissue):
    """Paints a heart over `image` and returns both image and mask."""
    gap, pixel, _ = view.spacing
    radius, theta = np.hypot(view.x[0], view.y[0]), np.arctan2(view.y[0], view.x[0])
    endo, epi, rv = _contours(heart, radius, theta, view.z)
    mask = np.select([endo < 0, epi < 0, rv < -0.5 * pixel], [LABELS[k] for k in ("LV", "MYO", "RV")]).astype(np.uint8)

    medium, coarse = (_noise(rng, image.shape, s / pixel) for s in (3.5, 12))
    painted = np.zeros_like(image)
    for offset in SLAB:
        one = image.copy()
        endo, epi, rv = _contours(heart, radius, theta, view.z + offset * gap)
        _paint(one, _inside(np.minimum(rv, epi + 2) - 3 - 5 * coarse, pixel), tissue["fat"] * 0.85)
        _paint(one, _inside(np.minimum(rv - 2, epi), pixel), tissue["myocardium"] * (1 + 0.1 * medium))
        blood = tissue["blood"] * (1 + 0.1 * coarse + 0.06 * medium)
        trabeculae = np.clip(medium - 0.2, 0, 3)
        _paint(one, _inside(np.maximum(rv + 2.5 * trabeculae, 0.5 - epi), pixel), heart.rv_gain * blood)
        _paint(one, _inside(endo + 2 * trabeculae, pixel), blood)
        s = (view.z + offset * gap - heart.base) / (heart.apex - heart.base)
        size = 0.2 * heart.endo * np.sqrt(np.clip(1 - ((s - 0.5) / 0.32) ** 2, 0, 1))
        for angle in heart.papillary:
            reach = 0.68 * heart.endo * np.exp(1j * angle)
            d = np.hypot(view.x - float(reach.real), view.y - float(reach.imag)) - size * (1 + 0.35 * medium)
            _paint(one, _inside(d, pixel) * (size > 0), tissue["myocardium"])
        painted += one / len(SLAB)
    return painted, mask


def _coils(rng, view):
    """Sensitivity of a coil array on the chest and on the back, about 1 at the heart."""
    chest = np.exp(-((view.x + 90) ** 2 + (view.y - rng.uniform(-70, 50)) ** 2) / (2 * rng.uniform(55, 85) ** 2))
    back = np.exp(-((view.x - 130) ** 2 + (view.y - rng.uniform(0, 90)) ** 2) / (2 * rng.uniform(50, 80) ** 2))
    return rng.uniform(0.45, 0.75) + rng.uniform(0.7, 1.3) * chest + rng.uniform(0, 0.5) * back


def _acquire(rng, image, view, shading, scale, noise):
    """What the scanner stores of relative brightnesses `image`: shaded, of limited resolution, noisy."""
    n, h, w = image.shape
    signal = image * shading * rng.normal(1, 0.03, (n, 1, 1)).astype(np.float32)
    signal = signal + noise * (
        rng.standard_normal(image.shape, np.float32) + 1j * rng.standard_normal(image.shape, np.float32)
    )
    ky, kx = np.abs(fft.fftfreq(h))[:, None], np.abs(fft.fftfreq(w))
    window = np.exp(-((ky / 0.45) ** 12) - (kx / 0.48) ** 12).astype(np.float32)
    return (scale * np.abs(fft.ifft2(fft.fft2(signal.astype(np.complex64)) * window))).astype(np.float32)


def patient_cases(seed, number):
    """Both cases of patient `number` (from 1), which depend on `seed` and `number` alone."""
    rng = np.random.default_rng([seed, number])
    group = list(GROUPS)[(number - 1) % len(GROUPS)]
    length = rng.uniform(*BASE_TO_APEX_MM)
    view = _view(rng, length)
    hearts = _hearts(rng, group, length)
    body, tissue = _paint_body(rng, view)
    shading = _coils(rng, view)
    scale, noise = rng.uniform(300, 900), rng.uniform(0.008, 0.025)
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
