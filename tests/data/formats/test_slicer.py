import dataclasses
import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from files import assert_input_error
from msl_jax.data.formats import slicer, volumes
from msl_jax.data.formats.orientation import Turn

IMAGE = np.arange(6 * 8 * 10, dtype=np.int16).reshape(6, 8, 10)  # (slice, y, x)
LABELS = np.zeros((6, 8, 10), np.uint8)
LABELS[1:4, 2:5, 3:9] = 1
LABELS[2:5, 5:7, 4:6] = 3
SIZES = np.array([1.5, 2.0, 5.0])
ORIGIN = np.array([90.5, -120, 7])
SPACES = {"left-posterior-superior": (1, 1, 1), "right-anterior-superior": (-1, -1, 1), "LAS": (1, -1, 1)}
"""Name of a space -> signs of its axes in LPS."""


def metadata(*segments, **more):
    """Slicer's fields for segments with these layers and values."""
    fields = {}
    for number, (layer, value) in enumerate(segments):
        named = {"ID": f"Segment_{number}", "Name": f"Größe {number}", "Layer": layer, "LabelValue": value}
        fields |= {f"Segment{number}_{key}": str(text) for key, text in named.items() if text is not None}
    return {**fields, "Segmentation_ContainedRepresentationNames": "Binary labelmap|"} | more


ONE = metadata((0, 1), (0, 3))


def save(path, voxels, fields, first=(0, 0, 0), space="left-posterior-superior", origin=ORIGIN):
    """Writes (slice, y, x[, layer]) as Slicer does; `first` is the first voxel's place in the image, (x, y, slice)."""
    layered = voxels.ndim == 4
    signs = np.array(SPACES[space])
    vectors = [f"({a},{b},{c})" for a, b, c in np.diag(SIZES * signs)]
    position = (origin + np.array(first) * SIZES) * signs
    sizes = (*voxels.shape[3:], *voxels.shape[2::-1])
    lines = [
        "NRRD0004",
        f"type: {'short' if voxels.dtype == np.int16 else 'uchar'}",
        f"dimension: {voxels.ndim}",
        f"space: {space}",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {'none ' * layered}{' '.join(vectors)}",
        f"kinds: {'list ' * layered}domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: ({','.join(map(str, position))})",
        *(f"{key}:={value}" for key, value in fields.items()),
    ]
    path.write_bytes("\n".join([*lines, "", ""]).encode() + gzip.compress(voxels.tobytes()))
    return path


@pytest.fixture
def image(tmp_path):
    return volumes.read_image(save(tmp_path / "image.nrrd", IMAGE, {}))


def read(image, *args, name="a.seg.nrrd", **kwargs):
    return volumes.labels_on_grid_of(image, volumes.read_labels(save(image.path.with_name(name), *args, **kwargs)))


@pytest.mark.parametrize("name", ["a.seg.nrrd", "a.nrrd", "a.SEG.nrrd"])
@pytest.mark.parametrize("space", SPACES)
def test_one_layer_is_a_label_map(image, name, space):
    labels = read(image, LABELS, ONE, name=name, space=space)
    assert labels.voxels.dtype == np.uint8
    np.testing.assert_array_equal(labels.voxels, LABELS)
    volumes.check_same_grid(image, labels)


def test_layers_with_different_values_are_one_label_map(image):
    layers = np.stack([np.where(LABELS == value, LABELS, 0) for value in (3, 1)], -1)
    np.testing.assert_array_equal(read(image, layers, metadata((1, 1), (0, 3))).voxels, LABELS)


ONES = np.stack([np.uint8(LABELS == value) for value in (1, 3)], -1)
REFUSED = {
    "overlapping": (np.stack([LABELS, LABELS // 3 * 2], -1), metadata((0, 1), (1, 2)), "2 layers that overlap"),
    "same value": (ONES, metadata((0, 1), (1, 1)), "2 layers with segments of the same value; in Slicer, export it as"),
    "same value, by default": (ONES, metadata((None, None), (None, None)), "2 layers with segments of the same value"),
    "same value, one not given": (ONES, metadata((0, 1)), "2 layers with segments of the same value"),
    "same value, one layer empty": (
        np.stack([LABELS, 0 * LABELS], -1),
        metadata((0, 1), (1, 1)),
        "segments of the same value",
    ),
    "fractions": (
        LABELS,
        ONE | {"Segmentation_SourceRepresentation": "Fractional labelmap"},
        "with fractions of voxels",
    ),
    "fractions, old field": (
        LABELS,
        ONE | {"Segmentation_MasterRepresentation": "Fractional labelmap"},
        "with fractions",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_overlapping_or_ambiguous_segments_are_errors(image, case):
    voxels, fields, message = REFUSED[case]
    assert_input_error(lambda: read(image, voxels, fields), message, image.path.with_name("a.seg.nrrd"))


def test_an_image_with_layers_is_not_a_label_map(image):
    assert_input_error(lambda: read(image, np.stack([LABELS, LABELS], -1), {}), "give a label map with three axes")


@pytest.mark.parametrize("space", SPACES)
def test_a_cropped_segmentation_is_uncropped(image, space):
    labels = read(image, LABELS[1:5, 2:7, 3:9], ONE, first=(3, 2, 1), space=space)
    np.testing.assert_array_equal(labels.voxels, LABELS)
    np.testing.assert_allclose(labels.affine, image.affine)


def test_a_cropped_segmentation_may_have_another_orientation(image):
    reoriented = dataclasses.replace(
        image,
        voxels=np.flip(np.moveaxis(image.voxels, 2, 0), 1),
        affine=Turn((2, 0, 1), (False, True, False)).affine(image.affine, image.voxels.shape[:3]),
    )
    labels = read(reoriented, LABELS[1:5, 2:7, 3:9], ONE, first=(3, 2, 1))
    np.testing.assert_array_equal(labels.voxels, np.flip(np.moveaxis(LABELS, 2, 0), 1))


def test_a_crop_may_exceed_the_image_without_labels(image):
    wider = np.pad(LABELS[1:], ((0, 2), (3, 0), (0, 1)))
    np.testing.assert_array_equal(read(image, wider, ONE, first=(0, -3, 1)).voxels, LABELS)
    assert not read(image, np.zeros_like(LABELS), ONE, first=(50, 0, 0)).voxels.any()


def test_one_empty_voxel_is_an_empty_segmentation(image):
    """Slicer writes this without segments; its position is arbitrary."""
    empty = {"Segmentation_ContainedRepresentationNames": "Binary labelmap|"}
    labels = read(image, np.zeros((1, 1, 1), np.uint8), empty, first=(-0.3, 99, 0))
    assert labels.voxels.shape == LABELS.shape and not labels.voxels.any()


@pytest.mark.parametrize("first", [(3.3, 2, 1), (5, 2, 1), (3, -1, 1), (30, 2, 1)])
def test_segments_off_the_voxel_grid_are_errors(image, first):
    path = image.path.with_name("a.seg.nrrd")
    message = f"its segments are not on the voxel grid of {image.path}; in Slicer, make that image"
    assert_input_error(lambda: read(image, LABELS[1:5, 2:7, 3:9], ONE, first=first), message, path)


def test_an_offset_below_a_tenth_of_a_voxel_is_rounding(image):
    labels = read(image, LABELS[1:5, 2:7, 3:9], ONE, first=(3.05, 1.95, 1.05))
    np.testing.assert_array_equal(labels.voxels, LABELS)


def test_a_cropped_label_map_of_another_program_is_an_error(image):
    message = r"its grid \(6, 5, 4\) differs from \(10, 8, 6\)"
    assert_input_error(lambda: read(image, LABELS[1:5, 2:7, 3:9], {}, first=(3, 2, 1)), message)


@pytest.mark.parametrize("name", ["a.seg.nrrd", "a.nrrd"])
def test_a_segmentation_is_not_an_image(tmp_path, name):
    path = save(tmp_path / name, LABELS, ONE)
    assert_input_error(lambda: volumes.read_image(path), "is a 3D Slicer segmentation, not an image", path)


def test_fields_are_only_those_of_slicer():
    assert slicer.fields({"Segment0_ID": "a", "Segmentation_x": "b", "Segments": "c", "NRRD_space": "d"}) == {
        "Segment0_ID": "a",
        "Segmentation_x": "b",
    }


def test_itk_reads_this_tests_files(image):
    """Origin and directions in LPS."""
    path = save(image.path.with_name("a.nrrd"), LABELS, ONE, first=(3, 2, 1), space="right-anterior-superior")
    read = sitk.ReadImage(str(path))
    assert read.GetOrigin() == pytest.approx((95, -116, 12)) and read.GetMetaData("Segment1_LabelValue") == "3"
