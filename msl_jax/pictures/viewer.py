"""A viewer for notebooks that scrolls through a volume: the image and label maps beside it, slice by slice.

It is self-contained HTML with every slice as a picture: it works in Colab, Jupyter and VS Code without an extension,
and in notebooks saved as HTML.
"""

import base64
from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import html
import io
import json
import pathlib
import string

from matplotlib.colors import to_rgb
import numpy as np
from PIL import Image

from msl_jax.pictures.plots import BACKGROUND, CLASS_COLORS, TEXT

TEMPLATE = string.Template((pathlib.Path(__file__).parent / "viewer.html").read_text(encoding="utf-8"))
OPACITY = 0.55


@dataclasses.dataclass(frozen=True)
class Viewer:
    """A notebook shows its `html` if it is the last value of a cell."""

    html: str = dataclasses.field(repr=False)

    def _repr_html_(self) -> str:
        return self.html


def scroll(
    image: np.ndarray,
    label_maps: Mapping[str, np.ndarray],
    classes: Mapping[str, int],
    spacing: Sequence[float],
    title: str = "",
    width: int = 960,
) -> Viewer:
    """Shows the slices of a volume with a slider; the mouse wheel scrolls, too.

    Args:
      image: float (slice, y, x), drawn with y downwards.
      label_maps: title of a panel ("reference", "teacher", "student") -> label map, int (slice, y, x).
      classes: structures and their values in the label maps; other values are not drawn.
      spacing: voxel size along (slice, y, x).
      title: the line above the panels.
      width: maximum width in pixels.

    Returns:
      The viewer; it starts at the slice with the most foreground in the first label map.

    Raises:
      ValueError: there is no label map, or one does not have the image's shape.
    """
    shapes = {name: label_map.shape for name, label_map in label_maps.items()}
    if not shapes or any(shape != image.shape for shape in shapes.values()):
        raise ValueError(f"an image of shape {image.shape} needs label maps of that shape, not {shapes}")
    colors = {name: CLASS_COLORS[i % len(CLASS_COLORS)] for i, name in enumerate(classes, 1)}
    low, high = np.percentile(image, (0.5, 99.5))
    grey = np.repeat(np.clip((image - low) / max(high - low, 1e-6), 0, 1)[..., None], 3, axis=-1)
    panels = {"image": grey}
    for panel, label_map in label_maps.items():
        panels[panel] = grey.copy()
        for name, value in classes.items():
            mask = label_map == value
            panels[panel][mask] = (1 - OPACITY) * grey[mask] + OPACITY * np.array(to_rgb(colors[name]))
    slices = [_png(pixels) for pixels in np.concatenate(list(panels.values()), axis=2)]
    foreground = np.isin(next(iter(label_maps.values())), list(classes.values())).sum((1, 2))
    first, text = int(foreground.argmax()), json.dumps(slices)
    _, rows, columns = image.shape
    return Viewer(
        TEMPLATE.substitute(
            name="viewer" + hashlib.sha256((title + text).encode()).hexdigest()[:12],
            title=html.escape(title),
            width=width,
            background=BACKGROUND,
            text=TEXT,
            panels="".join(f'<span style="flex: 1">{html.escape(panel)}</span>' for panel in panels),
            ratio=f"{len(panels) * columns * spacing[2]:.4g} / {rows * spacing[1]:.4g}",
            shown=slices[first],
            count=len(slices),
            first=first + 1,
            legend="".join(
                f'<span style="color: {color}">&#9632; {html.escape(name)}</span>' for name, color in colors.items()
            ),
            slices=text,
        )
    )


def _png(pixels: np.ndarray) -> str:
    """RGB values in [0, 1], (y, x, 3), as a PNG file in base64."""
    file = io.BytesIO()
    Image.fromarray(np.round(255 * pixels).astype(np.uint8)).save(file, format="png")
    return base64.b64encode(file.getvalue()).decode()
