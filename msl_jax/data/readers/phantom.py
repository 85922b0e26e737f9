"""Synthetic short-axis cardiac cine phantoms: a data set without a download.

The source is text, `patients=40,seed=0`. Every patient has an end-diastolic and an end-systolic volume, belongs to one
of four groups of heart shape (`GROUPS`), and depends only on the seed and its number: the first ten of forty patients
are the ten patients of a smaller set.

Steps for a volume: sample a grid of positions in mm relative to the heart (`_view`); paint the body, tissue over tissue
with soft edges (`_paint_body`); paint the heart on top, averaged through each slice's thickness (`_paint_heart`); add
coil shading, limited resolution and noise of a scanner (`_acquire`). In the body's coordinates the chest is at -x, the
head at -y, the apex at +z, and the left ventricle's axis is x = y = 0. Relative brightness is that of a balanced
steady-state free precession cine: blood and fat are bright, muscle is dark, air is 0.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math
import re

import numpy as np
from scipy import fft, ndimage

from msl_jax.data.case import Case, Load, Reader, Source
from msl_jax.data.formats import volumes
from msl_jax.errors import InputError

LABELS = {"RV": 1, "MYO": 2, "LV": 3}
PHASES = ("ED", "ES")
BASE_TO_APEX_MM = (68, 88)
COVERED = 0.95
"""Fraction of the heart's length that the slices cover."""
SLICES = (6, 12)
SLICE_GAP_MM = (5.5, 9.2)
PIXEL_MM = (1.9, 2.2)
LONG_SIDE = (140, 160)
ASPECT = (0.78, 0.92)
SLAB = (-1 / 3, 0, 1 / 3)
"""Positions within a slice's thickness to average, in slice gaps."""
CAVITY_END, RV_END = 0.92, 0.82
"""Relative heights, 0 at the base and 1 at the apex, where the left cavity and the right ventricle end."""
TISSUES = {"gas": 0.03, "lung": 0.09, "muscle": 0.17, "liver": 0.2, "myocardium": 0.23, "organ": 0.28, "bone": 0.3}
TISSUES |= {"fat": 0.75, "blood": 0.85, "fluid": 1.1}
"""Relative brightness; it varies by up to 15 % between patients."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """The mean heart of a group: radii and thicknesses in mm at end-diastole, and their ratios ES / ED."""

    endo: float
    wall: float
    rv_depth: float
    es_endo: float
    es_wall: float
    es_rv_depth: float


GROUPS = {
    "NOR": Shape(endo=25.5, wall=8.5, rv_depth=27, es_endo=0.68, es_wall=1.4, es_rv_depth=0.7),
    "DCM": Shape(endo=34, wall=7, rv_depth=27, es_endo=0.88, es_wall=1.1, es_rv_depth=0.85),
    "HCM": Shape(endo=22, wall=14, rv_depth=25, es_endo=0.55, es_wall=1.3, es_rv_depth=0.65),
    "RV": Shape(endo=24, wall=8.5, rv_depth=38, es_endo=0.7, es_wall=1.35, es_rv_depth=0.85),
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
    Organ("fat", (72, 24, 0), (17, 17, 400)),
    Organ("blood", (72, 24, 0), (12, 12, 400)),
    Organ("blood", (12, 58, 0), (11, 9, 60)),
    Organ("fat", (5, 0, -25), (46, 44, 33)),
    Organ("blood", (12, 3, -12), (25, 22, 28)),
    Organ("blood", (-24, 12, -12), (17, 22, 26)),
    Organ("blood", (-12, -36, -20), (13, 12, 30)),
    Organ("blood", (22, -28, -24), (8, 15, 28)),
)
"""Liver, stomach, spleen, back, spine, descending aorta, caval vein; atria and great vessels beyond the base."""
ARM = (Organ("fat", (130, -125, 0), (45, 38, 400)), Organ("muscle", (135, -130, 0), (30, 24, 400)))
BOWEL = ("organ", "organ", "muscle", "muscle", "liver", "fat", "blood", "blood", "fluid", "gas", "organ", "muscle") * 2
"""Tissues of the bowel loops at random positions below the diaphragm."""


@dataclasses.dataclass(frozen=True)
class View:
    """Body coordinates of each voxel in mm: x and y (slice, y, x), z (slice, 1, 1); `spacing` is (z, y, x)."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    spacing: tuple[float, float, float]


def _view(rng, length):
    """Samples slices, field of view, position and rotation of a scan of a heart of `length` mm."""
    covered = COVERED * length
    slices = int(np.clip(round(covered / rng.uniform(*SLICE_GAP_MM)), *SLICES))
    gap, pixel = round(covered / slices, 2), round(rng.uniform(*PIXEL_MM), 3)
    rotation = np.radians(rng.normal(0, 12) if rng.random() < 0.6 else rng.normal(65, 15))
    height = int(rng.integers(*LONG_SIDE, endpoint=True))
    width = int(height * rng.uniform(*ASPECT))
    if abs(np.sin(rotation)) > abs(np.cos(rotation)):
        height, width = width, height
    row, column = rng.normal(0.485, 0.035, 2) * (height, width)
    down, right = np.mgrid[:height, :width] - np.array([row, column]).reshape(2, 1, 1)
    x = pixel * (np.cos(rotation) * right + np.sin(rotation) * down)
    y = pixel * (np.cos(rotation) * down - np.sin(rotation) * right)
    z = rng.uniform(2, 7) + gap * np.arange(slices).reshape(-1, 1, 1)
    x, y, z = (v.astype(np.float32) for v in (x, y, z))
    x, y, _ = np.broadcast_arrays(x, y, z)
    return View(x, y, z, (gap, pixel, pixel))


def _noise(rng, shape, sigma):
    """Smooth periodic noise of unit variance per slice; `sigma` in pixels."""
    h, w = shape[1:]
    ky, kx = fft.fftfreq(h)[:, None], fft.rfftfreq(w)
    spectrum = fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    smooth = fft.irfft2(spectrum * np.exp(-2 * (np.pi * sigma) ** 2 * (ky**2 + kx**2)).astype(np.float32), s=(h, w))
    return smooth / smooth.std()


def _inside(distance, softness):
    """Fraction of a voxel inside a surface, from its signed distance (negative inside) and the edge's width."""
    return np.clip(0.5 - distance / softness, 0, 1)


def _paint(image, share, value):
    """Blends `value` into `image` in place, with weight `share` (0 to 1)."""
    image += share * (value - image)


def _warped(rng, view):
    """`view` deformed by a few long waves, so that outlines are not ellipses."""
    x, y = view.x.copy(), view.y.copy()
    for _ in range(4):
        kx, ky, kz = (2 * np.pi * rng.uniform(-1, 1, 3) / (90, 90, 150)).tolist()
        wave = np.sin(kx * view.x[:1] + ky * view.y[:1] + (kz * view.z + rng.uniform(0, 2 * np.pi)))
        x += rng.normal(0, 3.5) * wave
        y += rng.normal(0, 3.5) * wave
    return dataclasses.replace(view, x=x, y=y)


def _bowel(rng):
    """Bowel loops below the diaphragm, each surrounded by fat."""
    for tissue in BOWEL:
        centre = rng.uniform((-60, 70, -10), (130, 160, 110))
        radii = rng.uniform((6, 5, 15), (20, 15, 50))
        yield Organ("fat", tuple(centre), tuple(radii + 4))
        yield Organ(tissue, tuple(centre), tuple(radii))


def _paint_organs(rng, image, view, organs, tissue, texture, within):
    """Paints randomly shifted and scaled ellipsoids over `image`, with the weight `within` of each voxel."""
    grain, twigs = texture
    for organ in organs:
        centre = (organ.centre + rng.normal(0, 4, 3)).tolist()
        radii = (organ.radii * rng.uniform(0.8, 1.2, 3)).tolist()
        axes = zip((view.x, view.y, view.z), centre, radii, strict=True)
        rho = np.sqrt(sum(((position - c) / r) ** 2 for position, c, r in axes))
        brightness = tissue[organ.tissue] * rng.uniform(0.75, 1.25) * grain + twigs
        _paint(image, within * _inside((rho - 1) * min(radii[:2]), view.spacing[1]), brightness)


def _paint_trunk(rng, image, view, reach, tissue, noises):
    """Paints chest wall (outside of a heart of `reach` mm), lungs and bowels; returns each voxel's fraction inside."""
    fine, medium, coarse, broad = noises
    x, y, z, pixel = view.x, view.y, view.z, view.spacing[1]
    half_width, half_height = rng.uniform(118, 135), rng.uniform(150, 175)
    centre = half_width - reach - rng.uniform(22, 34)
    u = (x - centre) / (half_width * (1 + 0.0018 * (y - 30)))
    v = (y - 20) / half_height
    depth = half_width * (1 - (np.abs(u) ** 2.6 + np.abs(v) ** 2.6) ** (1 / 2.6))
    fat_depth = rng.uniform(4, 17) + 5 * broad[:1] + rng.uniform(0, 0.3) * z + 0.3 * np.clip(-50 - y, 0, None)
    rib_depth = fat_depth + rng.uniform(12, 22) + 2 * coarse
    diaphragm = 40 + (x - 40) ** 2 / 350 - 0.3 * z

    _paint(image, _inside(-depth, pixel), tissue["fat"] * (1 + 0.06 * medium - 0.25 * np.clip(fine - 1.8, 0, 1)))
    layers = np.clip(np.sin(0.6 * depth + 2.5 * broad + coarse) + 0.7 * coarse - 0.5, 0, 1)
    _paint(image, _inside(fat_depth - depth, pixel), tissue["muscle"] + 0.7 * tissue["fat"] * layers)
    near_hilum = np.exp(-((x - 30) ** 2 + (y + 10) ** 2) / 3500)
    vessels = np.clip(1.2 * fine + 0.5 * broad - 2.9 + 1.2 * near_hilum, 0, 1)
    within = _inside(rib_depth - depth, pixel)
    _paint(image, within, tissue["lung"] * (1 + 0.15 * medium) + 0.7 * tissue["blood"] * vessels)
    fat_share = np.clip(0.8 * (0.3 * fine + medium + coarse + rng.uniform(-1, 0.6)), 0, 1)
    bowels = tissue["organ"] + (tissue["fat"] - tissue["organ"]) * fat_share
    _paint(image, within * _inside(diaphragm - y, pixel), bowels * (0.85 + 0.08 * fine))
    return within


def _paint_body(rng, view, reach, tissue):
    """Relative brightness of the body without the heart, float32 (slice, y, x)."""
    fine, medium, *_ = noises = [_noise(rng, view.x.shape, sigma / view.spacing[1]) for sigma in (1.6, 4, 9, 25)]
    texture = (1 + 0.06 * fine + 0.07 * medium, 0.5 * tissue["blood"] * np.clip(fine + 0.6 * medium - 2.1, 0, 1))
    view = _warped(rng, view)
    image = np.zeros_like(view.x)
    _paint_organs(rng, image, view, ARM, tissue, texture, within=1)
    within = _paint_trunk(rng, image, view, reach, tissue, noises)
    _paint_organs(rng, image, view, (*ORGANS, *_bowel(rng)), tissue, texture, within)
    off_resonance = np.clip(np.hypot(view.x + 20, view.y) - rng.uniform(120, 190), 0, None) / rng.uniform(7, 12)
    return image * np.clip(np.cos(np.pi * off_resonance) + 1.3, 0.1, 1)


@dataclasses.dataclass(frozen=True)
class Heart:
    """One heart in one phase: lengths at the base in mm, angles in radians, heights z of base and apex.

    `waves` are amplitudes and phases of the contours' harmonics 2, 3 and 4. The wall is thickest at `thick_at`, by the
    fraction `thickening`. The right ventricle is at `rv_angle`, widened by `rv_width` and sheared by `rv_skew`; its
    blood has the brightness `rv_gain` relative to the left. `papillary` are the angles of the papillary muscles.
    """

    endo: float
    wall: float
    rv_depth: float
    base: float
    apex: float
    waves: np.ndarray
    thickening: float
    thick_at: float
    rv_angle: float
    rv_width: float
    rv_skew: float
    rv_gain: float
    papillary: list[float]

    def height(self, z):
        """Relative height of `z`: 0 at the base, 1 at the apex."""
        return (z - self.base) / (self.apex - self.base)


def _hearts(rng, shape, length):
    """Samples a patient's heart of `length` mm at end-diastole and end-systole."""
    size = rng.uniform(0.86, 1.06)
    rv_angle = np.pi + rng.normal(-0.35, 0.3)
    ed = Heart(
        endo=shape.endo * size * rng.uniform(0.94, 1.06),
        wall=shape.wall * size * rng.uniform(0.88, 1.12),
        rv_depth=shape.rv_depth * size * rng.uniform(0.85, 1.15),
        base=-4,
        apex=length,
        waves=np.stack([rng.normal(0, (0.07, 0.035, 0.023)), rng.uniform(0, 2 * np.pi, 3)]),
        thickening=rng.uniform(0.05, 0.25),
        thick_at=rng.uniform(0, 2 * np.pi),
        rv_angle=rv_angle,
        rv_width=rng.uniform(0.25, 0.45),
        rv_skew=rng.uniform(-0.15, 0.45),
        rv_gain=rng.uniform(0.75, 1),
        papillary=(rv_angle + np.pi + rng.normal((-0.9, 0.9), 0.25)).tolist(),
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


def _profile(height):
    """A ventricle's radius relative to that at its base; 0 at relative heights from 1 on."""
    return np.sqrt(1 - np.clip(height, 0, 1) ** 2.4)


def _contours(heart, view, z):
    """Signed distances in mm (negative inside) to the cavity, the epicardium and the right ventricle's free wall."""
    height = heart.height(z)
    radius, theta = np.hypot(view.x[0], view.y[0]), np.arctan2(view.y[0], view.x[0])
    wave = sum(a * np.cos(k * theta + phase) for k, a, phase in zip((2, 3, 4), *heart.waves.tolist(), strict=True))
    endo, epi = heart.endo * _profile(height / CAVITY_END), (heart.endo + heart.wall) * _profile(height)
    endo_contour = endo * (1 + wave)
    epi_contour = endo_contour + (epi - endo) * (1 + heart.thickening * np.cos(theta - heart.thick_at))

    taper = _profile(height / RV_END)
    forward, across = radius * np.cos(theta - heart.rv_angle), radius * np.sin(theta - heart.rv_angle)
    forward, across = forward - 0.6 * epi, across + heart.rv_skew * (forward - epi)
    long, wide = 0.3 * epi + (heart.rv_depth + 0.1 * epi) * taper + 0.1, (0.65 + heart.rv_width * taper) * epi + 0.1
    free_wall = np.hypot(forward, across) * (1 - 1 / np.maximum(np.hypot(forward / long, across / wide), 1e-3))
    absent = np.where(height < 0, np.float32(1e3), 0)
    absent_rv = np.where(height > RV_END, np.float32(1e3), absent)
    return radius - endo_contour + absent, radius - epi_contour + absent, free_wall + absent_rv


def _largest(inside):
    """The largest connected component of a slice's bool (y, x); removes slivers next to the septum."""
    parts, count = ndimage.label(inside)
    return parts == 1 + np.argmax(np.bincount(parts.ravel(), minlength=2)[1:]) if count else inside


def _mask(heart, view):
    """Label map of the slices' central planes."""
    endo, epi, rv = _contours(heart, view, view.z)
    rv = np.stack([_largest(inside) for inside in (rv < -0.5 * view.spacing[1]) & (epi >= 0)])
    return np.select([endo < 0, epi < 0, rv], [LABELS[name] for name in ("LV", "MYO", "RV")]).astype(np.uint8)


def _paint_heart(rng, image, view, heart, tissue):
    """`image` with the heart on top, averaged over planes through each slice's thickness."""
    gap, pixel, _ = view.spacing
    trabeculae, flow = (_noise(rng, image.shape, sigma / pixel) for sigma in (2.6, 12))
    blood = tissue["blood"] * (1 + 0.1 * flow + 0.06 * trabeculae)
    muscle = tissue["myocardium"] * (1 + 0.1 * trabeculae)
    rough = np.clip(trabeculae, 0, None)

    def plane(z):
        endo, epi, rv = _contours(heart, view, z)
        papillary = 0.2 * heart.endo * np.sqrt(np.clip(1 - ((heart.height(z) - 0.5) / 0.32) ** 2, 0, 1))
        painted = image.copy()
        _paint(painted, _inside(np.minimum(rv, epi + 2) - 3 - 3 * flow, pixel), 0.85 * tissue["fat"])
        _paint(painted, _inside(np.minimum(rv - 2, epi), pixel), muscle)
        _paint(painted, _inside(np.maximum(rv + 2.5 * rough, 0.5 - epi), pixel), heart.rv_gain * blood)
        _paint(painted, _inside(endo + 2 * rough, pixel), blood)
        for angle in heart.papillary:
            x, y = 0.68 * heart.endo * math.cos(angle), 0.68 * heart.endo * math.sin(angle)
            distance = np.hypot(view.x - x, view.y - y) - papillary * (1 + 0.35 * trabeculae)
            _paint(painted, _inside(distance, pixel) * (papillary > 0), tissue["myocardium"])
        return painted

    return sum(plane(view.z + offset * gap) for offset in SLAB) / len(SLAB)


def _coils(rng, view):
    """Sensitivity of coil arrays on chest and back, about 1 at the heart."""
    chest = np.exp(-((view.x + 90) ** 2 + (view.y - rng.uniform(-70, 50)) ** 2) / (2 * rng.uniform(55, 85) ** 2))
    back = np.exp(-((view.x - 130) ** 2 + (view.y - rng.uniform(0, 90)) ** 2) / (2 * rng.uniform(50, 80) ** 2))
    return rng.uniform(0.45, 0.75) + rng.uniform(0.7, 1.3) * chest + rng.uniform(0, 0.5) * back


def _acquire(rng, image, shading, scale, noise):
    """The scanner's image: relative brightness with shading, limited resolution and Rician noise."""
    n, h, w = image.shape
    real, imaginary = noise * rng.standard_normal((2, n, h, w), np.float32)
    signal = image * shading * rng.normal(1, 0.03, (n, 1, 1)).astype(np.float32) + real + 1j * imaginary
    window = np.exp(-((fft.fftfreq(h)[:, None] / 0.45) ** 12) - (fft.fftfreq(w) / 0.48) ** 12).astype(np.float32)
    return scale * np.abs(fft.ifft2(fft.fft2(signal) * window))


def _patient(seed, number):
    """Both cases of patient `number`, counted from 1."""
    rng = np.random.default_rng([seed, number])
    name = f"phantom{number:03d}"
    group = list(GROUPS)[(number - 1) % len(GROUPS)]
    length = rng.uniform(*BASE_TO_APEX_MM)
    view = _view(rng, length)
    hearts = _hearts(rng, GROUPS[group], length)
    tissue = {kind: brightness * rng.uniform(0.85, 1.15) for kind, brightness in TISSUES.items()}
    reach = hearts[0].endo + hearts[0].wall + hearts[0].rv_depth
    body, shading = _paint_body(rng, view, reach, tissue), _coils(rng, view)
    scale, noise = rng.uniform(300, 900), rng.uniform(0.008, 0.025)
    frames = (1, int(rng.integers(9, 12, endpoint=True)))
    for phase, frame, heart in zip(PHASES, frames, hearts, strict=True):
        image = _acquire(rng, _paint_heart(rng, body, view, heart, tissue), shading, scale, noise)
        mask = _mask(heart, view)
        case = f"{name}_frame{frame:02d}"
        yield Case(case, name, image[..., None], mask, None, view.spacing, "mm", group=group, phase=phase, frame=frame)


def _parse(source):
    """`patients=40,seed=0`, in either order -> (40, 0)."""
    pairs = sorted(re.split(r"\s*,\s*", source.strip()))
    match = re.fullmatch(r"patients\s*=\s*0*([1-9]\d*),seed\s*=\s*(\d+)", ",".join(pairs), re.ASCII)
    if not match:
        raise InputError(f"config.data.source: is {source!r}; give both numbers, as in patients=40,seed=0.")
    return int(match[1]), int(match[2])


def fingerprint(source: Source) -> str:
    """The source's path in its normal form."""
    patients, seed = _parse(source.path)
    return f"patients={patients},seed={seed}"


def read(source: Source) -> Iterator[Load]:
    """Yields a loader for each case, patient by patient, end-diastole first."""
    patients, seed = _parse(source.path)
    for number in range(1, patients + 1):
        for case in _patient(seed, number):
            yield functools.partial(dataclasses.replace, case)


READER = Reader(labels=lambda source: LABELS, fingerprint=fingerprint, read=read, images=volumes.single_files)
