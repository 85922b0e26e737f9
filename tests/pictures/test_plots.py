from etils import epath
from matplotlib.image import imread
import numpy as np
import pytest

from msl_jax.methods.table import METHODS
from msl_jax.pictures import charts, plots

SPACING = (10.0, 1.5, 1.5)


def volume(slices=8, height=40, width=32):
    """An image, a reference without structure in the first and last slice, a shifted prediction, and a probability."""
    image = np.random.default_rng(0).random((slices, height, width), dtype=np.float32)
    reference = np.zeros(image.shape, dtype=np.int32)
    reference[slice(1, -1) if slices > 2 else slice(None), 10:20, 8:18] = 3
    return image, reference, np.roll(reference, 2, axis=1), np.where(reference == 3, 0.9, 0.1)


def drawn(figure):
    figure.canvas.draw()
    return figure


def titles(figure):
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("branches", [("teacher",), ("student",), ("teacher", "student")])
def test_overlay_names_the_branches_it_shows(branches):
    image, reference, prediction, probability = volume()
    predictions = dict.fromkeys(branches, prediction)
    figure = drawn(plots.overlay(image, reference, predictions, probability, "a case", SPACING))
    assert legend(figure) == ["reference", *branches]
    assert figure.axes[-1].get_ylabel() == f"{branches[-1]} probability"
    assert figure.get_suptitle() == "a case"
    assert titles(figure) == [f"slice {number} of 8" for number in range(2, 8)]


@pytest.mark.parametrize("title", ["$x_{$", "a$\\frac{$b", "a\nb"])
def test_a_case_may_be_called_anything(title, tmp_path):
    """matplotlib must not parse text between dollars as a formula."""
    image, reference, prediction, probability = volume()
    plots.save(
        plots.overlay(image, reference, {"teacher": prediction}, probability, title, SPACING), tmp_path / "a.png"
    )
    assert imread(tmp_path / "a.png").ndim == 3


def test_overlay_crops_to_a_square_around_all_structures():
    """Rows 10..21 of reference and shifted prediction, 12 of 1.5 mm: 18 by 18 voxels, centred on them."""
    image, reference, prediction, probability = volume()
    figure = plots.overlay(image, reference, {"teacher": prediction}, probability, "", SPACING)
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, image[1, 7:25, 4:22])
    np.testing.assert_array_equal(figure.axes[6].images[0].get_array(), probability[1, 7:25, 4:22])


def test_overlay_draws_voxels_in_their_shape():
    image, reference, prediction, probability = volume()
    figure = plots.overlay(image, reference, {"teacher": prediction}, probability, "", (10, 3.0, 1.5))
    rows, columns = figure.axes[0].images[0].get_array().shape
    assert (rows, columns) == (18, 32)
    assert figure.axes[0].get_aspect() == 2


def test_overlay_outlines_are_on_the_boundary_of_the_labels():
    image, reference, _, probability = volume()
    axis = plots.overlay(image, reference, {"teacher": reference}, probability, "", SPACING).axes[0]
    for outline in axis.collections:
        vertices = np.concatenate([path.vertices for path in outline.get_paths()])
        # Ten voxels of a window of fifteen that starts three before them: half a voxel outside the outermost centres.
        np.testing.assert_allclose(vertices.min(axis=0), [2.5, 2.5])
        np.testing.assert_allclose(vertices.max(axis=0), [12.5, 12.5])
    assert len(axis.collections) == 2


@pytest.mark.parametrize("slices", [1, 2, 30])
def test_overlay_shows_at_most_six_slices(slices):
    image, reference, prediction, probability = volume(slices)
    figure = drawn(plots.overlay(image, reference, {"student": prediction}, probability, "t" * 80, SPACING))
    assert len(titles(figure)) == min(slices, 6)


def test_overlay_spreads_slices_from_first_to_last_structure():
    image, reference, prediction, probability = volume(30)
    figure = plots.overlay(image, reference, {"student": prediction}, probability, "", SPACING)
    numbers = [int(title.split()[1]) for title in titles(figure)]
    assert (numbers[0], numbers[-1]) == (2, 29)
    assert set(np.diff(numbers)) <= {5, 6}


def test_overlay_of_nothing_shows_the_middle_slices_whole():
    image, reference, _, probability = volume(10)
    empty = np.zeros_like(reference)
    figure = drawn(plots.overlay(image, empty, {"teacher": empty, "student": empty}, probability, "", SPACING))
    assert titles(figure) == [f"slice {number} of 10" for number in range(3, 9)]
    assert figure.axes[0].images[0].get_array().shape == image.shape[1:]


def test_overlay_shows_what_only_the_prediction_contains():
    image, reference, prediction, probability = volume()
    empty = np.zeros_like(reference)
    figure = drawn(plots.overlay(image, empty, {"student": prediction}, probability, "", SPACING))
    assert len(titles(figure)) == 6


def test_overlay_of_structures_that_fill_the_image():
    image, reference, _, probability = volume()
    full = np.ones_like(reference)
    figure = drawn(plots.overlay(np.zeros_like(image), full, {"teacher": full}, probability, "", SPACING))
    assert figure.axes[0].images[0].get_array().shape == image.shape[1:]


def test_curves_skip_what_is_missing():
    rows = [
        {"step": 10.0, "learning_rate": 1e-3, "loss": 1.0, "s": 0.7, "w": None, "validation_dice_teacher": None},
        {"step": 20.0, "learning_rate": 1e-3, "loss": 0.5, "s": 0.4, "w": 0.2, "validation_dice_teacher": 0.6},
        {"step": 30.0, "learning_rate": 1e-3, "loss": 0.4, "s": 0.0, "w": None, "validation_dice_teacher": 0.7},
    ]
    losses, dice = drawn(charts.curves(rows)).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in losses.lines}
    assert lines == {
        "loss": [[10, 1.0], [20, 0.5], [30, 0.4]],
        "s": [[10, 0.7], [20, 0.4], [30, 0.0]],
        "w": [[20, 0.2]],
    }
    assert losses.get_yscale() == "log"
    assert {"0.1", "1"} <= {label.get_text() for label in losses.get_yticklabels()}  # no formulas
    assert {line.get_label(): line.get_xydata().tolist() for line in dice.lines} == {"teacher": [[20, 0.6], [30, 0.7]]}


def test_gradients_have_a_line_per_term():
    p = np.array([0.25, 0.75])
    (axis,) = drawn(charts.gradients(p, {"entropy": p - 0.5, "pseudo-masks": p})).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axis.lines[:2]}
    assert lines == {"entropy": [[0.25, -0.25], [0.75, 0.25]], "pseudo-masks": [[0.25, 0.25], [0.75, 0.75]]}


def test_curves_of_no_reports():
    losses, dice = drawn(charts.curves([])).axes
    assert not losses.lines and not dice.lines


def calibrated(**changes):
    """A result of calibration.summarise with three bins; the first bin of all voxels is empty."""
    curves = {
        "all": {"count": [0, 10, 990], "confidence": [None, 0.5, 0.9], "accuracy": [None, 0.6, 0.8]},
        "predicted": {"count": [0, 8, 24], "confidence": [None, 0.5, 0.9], "accuracy": [None, 0.25, 0.75]},
    }
    entropy = {"foreground": 0.25, "background": 0.0125}
    return {"ece": 0.1, "ece_predicted": 0.175, "entropy": entropy, "reliability": curves} | changes


def points(line):
    xy = line.get_xydata()
    return xy[~np.isnan(xy).any(axis=1)].tolist()


@pytest.mark.parametrize("branches", [("teacher",), ("teacher", "student")])
def test_reliability_has_a_panel_per_branch_in_its_colour(branches):
    figure = drawn(charts.reliability(dict.fromkeys(branches, calibrated())))
    panels = figure.axes[: len(branches)]
    assert len(figure.axes) == 2 * len(branches)
    for branch, panel in zip(branches, panels, strict=True):
        assert panel.get_title() == f"{branch}\nentropy, nats: 0.250 on foreground\n0.013 on background"
        labels = [text.get_text() for text in panel.get_legend().get_texts()]
        assert labels == ["all voxels: ECE 10.00 %", "labelled as structure: ECE 17.50 %"]
        assert panel.lines[1].get_color() == plots.OUTLINES[branch] != panel.lines[0].get_color()


def test_reliability_draws_the_bins_with_voxels():
    diagram, shares = drawn(charts.reliability({"student": calibrated()})).axes
    whole, predicted, diagonal = diagram.lines
    assert points(whole) == [[0.5, 0.6], [0.9, 0.8]] and points(predicted) == [[0.5, 0.25], [0.9, 0.75]]
    assert points(diagonal) == [[0.2, 0.2], [1, 1]] and diagram.get_xlim() == diagram.get_ylim() == (0.2, 1)
    assert [points(line) for line in shares.lines] == [[[0.5, 0.01], [0.9, 0.99]], [[0.5, 0.25], [0.9, 0.75]]]
    assert shares.get_yscale() == "log" and shares.get_ylim()[0] < 0.01


def test_reliability_of_a_branch_that_never_sees_structure():
    none = {"count": [0, 0, 0], "confidence": [None] * 3, "accuracy": [None] * 3}
    one = {"count": [0, 0, 9], "confidence": [None, None, 1.0], "accuracy": [None, None, 1.0]}
    entropy = {"foreground": None, "background": 0.0}
    blind = calibrated(ece=0.0, ece_predicted=None, entropy=entropy, reliability={"all": one, "predicted": none})
    diagram = drawn(charts.reliability({"teacher": blind})).axes[0]
    assert diagram.get_title() == "teacher\nentropy, nats: - on foreground\n0.000 on background"
    assert [text.get_text() for text in diagram.get_legend().get_texts()][1] == "labelled as structure: ECE -"
    assert points(diagram.lines[0]) == [[1, 1]] and not points(diagram.lines[1])


def result(method, strong, branch, dice, std=None):
    row = {"method": method, "strong": strong, "branch": branch, "structure": "LV"}
    return row | {"dice_mean": dice, "dice_std": std}


def test_dice_by_strong_draws_a_line_per_branch_and_all_masks_horizontally():
    rows = [
        result("lower_bound", 3, "teacher", 0.5, 0.1),
        result("kl", 3, "teacher", 0.6),
        result("kl", 3, "student", 0.7),
        result("lower_bound", 10, "teacher", 0.6, 0.2),
        result("kl", 10, "teacher", 0.7),
        result("kl", 10, "student", 0.8),
        result("upper_bound", None, "teacher", 0.9, 0.05),
    ]
    figure = drawn(charts.dice_by_strong(rows))
    (axis,) = figure.axes
    assert axis.get_title() == "LV" and legend(figure) == ["lower_bound", "kl", "upper_bound"]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["3", "10"]
    lower, teacher, student = (bars.lines[0] for bars in axis.containers)
    np.testing.assert_allclose([line.get_ydata() for line in (lower, teacher, student)], [[50, 60], [60, 70], [70, 80]])
    assert (lower.get_linestyle(), teacher.get_linestyle(), student.get_linestyle()) == ("-", "--", "-")
    assert teacher.get_color() == student.get_color() != lower.get_color()
    bars = axis.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[40, 60], [40, 80]])
    (across,) = [line for line in axis.lines if np.allclose(line.get_ydata(), 90)]
    assert across.get_xdata() == [0, 1] and across.get_transform() == axis.get_yaxis_transform(which="grid")
    assert axis.patches[0].get_extents().transformed(axis.transData.inverted()).intervaly == pytest.approx([85, 95])


def test_all_methods_look_different():
    rows = [result(name, 3, "teacher", 0.5) for name in METHODS]
    lines = charts.dice_by_strong(rows).legends[0].get_lines()
    styles = [(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in lines]
    assert len(set(styles)) == len(styles) == len(METHODS)
    assert len({style[0] for style in styles[:7]}) == len({style[1] for style in styles[:7]}) == 7


def test_terms_are_means_over_seeds_of_the_methods_that_have_them():
    none = {"kd": None, "ent": None, "validation_dice_teacher": None, "validation_dice_student": None}
    kl = [
        [none | {"step": 10, "kd": 0.2}, none | {"step": 20, "kd": 0.1, "validation_dice_student": 0.4}],
        [none | {"step": 10, "kd": 0.4}],
    ]
    single = [[{"step": 20, "s": 1.0, "validation_dice_teacher": 0.3}]]
    figure = drawn(charts.terms({"kl": kl, "single": single}))
    assert titles(figure) == ["KL, teacher to student", "Entropy of the student", "Validation Dice"]
    lines = [[line.get_xydata().tolist() for line in axis.lines if len(line.get_xdata())] for axis in figure.axes]
    np.testing.assert_allclose(lines[0], [[[10, 0.3], [20, 0.1]]])
    assert lines[1:] == [[], [[[20, 0.4]], [[20, 0.3]]]]
    assert titles(charts.terms({"single": single})) == ["Validation Dice"]


def test_methods_are_shown_below_each_other():
    """Two rows, four slices of outlines and the same four of probability, cropped to 15 x 15 around the reference."""
    image, reference, prediction, probability = volume()
    predictions = {"single": {"teacher": prediction}, "kl": {"teacher": prediction, "student": reference}}
    figure = drawn(plots.methods(image, reference, predictions, dict.fromkeys(predictions, probability), "t", SPACING))
    assert legend(figure) == ["reference", "teacher", "student"]
    assert titles(figure) == [f"slice {number} of 8" for number in (2, 4, 5, 7)] * 2
    panels = np.reshape(figure.axes[:16], (2, 8))
    assert [row[0].texts[0].get_text() for row in panels] == ["single", "kl"]
    for row, outlines in zip(panels, (2, 3), strict=True):
        assert [len(axis.collections) for axis in row] == [outlines] * 4 + [1] * 4
        for axis, index in zip(row, (1, 3, 4, 6) * 2, strict=True):
            expected = (probability if axis in row[4:] else image)[index, 7:22, 5:20]
            np.testing.assert_array_equal(axis.images[0].get_array(), expected)


def figures():
    image, reference, prediction, probability = volume(3)
    yield plots.overlay(image, reference, {"teacher": prediction, "student": reference}, probability, "case", SPACING)
    yield charts.reliability({"teacher": calibrated(), "student": calibrated()})
    reports = [{"step": step, "loss": 1 / step, "validation_dice_student": 0.5} for step in (1, 2, 3)]
    yield charts.curves(reports)
    yield charts.terms({"kl": [reports]})
    yield charts.dice_by_strong([result("kl", 3, "student", 0.5, 0.1)])
    yield plots.methods(image, reference, {"kl": {"student": prediction}}, {"kl": probability}, "case", SPACING)


def test_equal_inputs_are_equal_bytes(tmp_path):
    for index, (first, second) in enumerate(zip(figures(), figures(), strict=True)):
        plots.save(first, tmp_path / f"{index}_first.png")
        plots.save(second, tmp_path / f"{index}_second.png")
        written = (tmp_path / f"{index}_first.png").read_bytes()
        assert written == (tmp_path / f"{index}_second.png").read_bytes()
        assert b"Software" not in written and b"tIME" not in written


def test_save_writes_a_readable_png_over_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")
    plots.save(charts.curves([{"step": 1, "loss": 1.0}]), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]
    height, width, _ = imread(path).shape
    assert height > 400 and width > 800


def test_save_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    def break_off(self, target):
        raise OSError("disk full")

    path = tmp_path / "curves.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(type(epath.Path(path)), "replace", break_off)
    with pytest.raises(OSError, match="disk full"):
        plots.save(charts.curves([]), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]
    assert path.read_bytes() == b"old"
