"""The viewer's slices and its slider."""

import base64
import io
import json
import re

from matplotlib.colors import to_rgb
import numpy as np
from PIL import Image
import pytest

from browser import needs_chromium, run_in_browser
from msl_jax.pictures import viewer
from msl_jax.pictures.plots import CLASS_COLORS

CLASSES = {"<b>MYO": 2, "LV": 3}


@pytest.fixture
def volume():
    """(3, 4, 5), a ramp; a label map with most structure in the second slice; and one with an unknown value."""
    image = np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5)
    reference, student = (np.zeros((3, 4, 5), np.int32) for _ in range(2))
    reference[1, :2], reference[2, 0, 0], student[1, 0], student[2, 0, 0] = 3, 2, 3, 7
    return image, {"reference": reference, "student": student}


def slices_of(shown):
    """The slices' colours, (slice, y, 3 x, 3)."""
    files = json.loads(re.search(r"slices = (\[.*?\])", shown.html)[1])
    return np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(file)))) for file in files])


def test_slices_show_the_image_and_every_label_map_beside_it(volume):
    image, label_maps = volume
    plain, reference, student = np.split(slices_of(viewer.scroll(image, label_maps, CLASSES, (8, 1, 1))), 3, axis=2)
    low, high = np.percentile(image, (0.5, 99.5))
    grey = np.clip((image - low) / (high - low), 0, 1)[..., None]
    np.testing.assert_array_equal(plain, np.round(255 * grey).astype(np.uint8).repeat(3, -1))
    for panel, label_map in ((reference, label_maps["reference"]), (student, label_maps["student"])):
        for color, value in zip(CLASS_COLORS[1:], CLASSES.values(), strict=False):
            painted = 0.45 * grey + 0.55 * np.array(to_rgb(color))
            there = label_map == value
            np.testing.assert_allclose(panel[there], 255 * painted[there], atol=0.51)
        nothing = ~np.isin(label_map, list(CLASSES.values()))
        np.testing.assert_array_equal(panel[nothing], plain[nothing])


def test_it_starts_at_the_largest_structure_and_keeps_the_voxel_shape(volume):
    viewed = viewer.scroll(*volume, CLASSES, (8, 1.5, 1), title="anna & <i>bert")
    shown = viewed.html
    assert 'min="1" max="3" value="2"' in shown and "aspect-ratio: 15 / 6" in shown
    assert "anna &amp; &lt;i&gt;bert" in shown and "&lt;b&gt;MYO" in shown and "<b>MYO" not in shown
    assert viewed._repr_html_() == shown and repr(viewed) == "Viewer()"
    assert not re.search(r"https?://|src=\"(?!data:)", shown)


def test_a_label_map_of_another_shape_or_none_is_an_error(volume):
    image, label_maps = volume
    for wrong in ({}, {"student": label_maps["student"][:2]}):
        with pytest.raises(ValueError, match="label maps of that shape"):
            viewer.scroll(image, wrong, CLASSES, (1, 1, 1))


@needs_chromium
def test_the_slider_changes_the_slice(volume, tmp_path):
    viewers = [viewer.scroll(*volume, classes, (8, 1, 1)) for classes in (CLASSES, {"LV": 3})]
    probe = """
      const [first, second] = document.querySelectorAll("figure");
      const range = first.querySelector("input"), at = figure => figure.querySelector("img").src.split(",")[1];
      const before = at(second);
      range.value = 3;
      range.dispatchEvent(new Event("input"));
      result = {third: at(first), text: first.querySelector("output").textContent, untouched: at(second) === before};
    """
    result = run_in_browser(f"<html><body>{viewers[0].html}{viewers[1].html}</body></html>", probe, tmp_path)
    third = np.asarray(Image.open(io.BytesIO(base64.b64decode(result.pop("third")))))
    np.testing.assert_array_equal(third, slices_of(viewers[0])[2])
    assert result == {"text": "3", "untouched": True}
