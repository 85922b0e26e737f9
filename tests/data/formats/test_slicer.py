import dataclasses
import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from files import refused
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


def said(*segments, **more):
    """Slicer's fields of segments with these layers and values."""
    fields = {}
    for number, (layer, value) in enumerate(segments):
        named = {"ID": f"Segment_{number}", "Name": f"Größe {number}", "Layer": layer, "LabelValue": value}
        fields |= {f"Segment{number}_{key}": str(text) for key, text in named.items() if text is not None}
    return {**fields, "Segmentation_ContainedRepresentationNames": "Binary labelmap|"} | more


ONE = said((0, 1), (0, 3))


def save(path, voxels, fields, first=(0, 0, 0), space="left-posterior-superior", origin=ORIGIN):
    """Writes (slice, y, x[, layer]) as Slicer does, its first voxel on this one, (x, y, slice), of the image."""
    layered = voxels.ndim == 4
    signs = np.array(SPACES[space])
    vectors = [f"({a},{b},{c})" for a, b, c in np.diag(SIZES * signs)]
    place = (origin + np.array(first) * SIZES) * signs
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
        f"space origin: ({','.join(map(str, place))})",
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


def test_layers_of_other_values_are_one_label_map(image):
    layers = np.stack([np.where(LABELS == value, LABELS, 0) for value in (3, 1)], -1)
    np.testing.assert_array_equal(read(image, layers, said((1, 1), (0, 3))).voxels, LABELS)


ONES = np.stack([np.uint8(LABELS == value) for value in (1, 3)], -1)
REFUSED = {
    "overlapping": (np.stack([LABELS, LABELS // 3 * 2], -1), said((0, 1), (1, 2)), "2 layers that overlap"),
    "of one value": (ONES, said((0, 1), (1, 1)), "2 layers with segments of one value; in Slicer, export it as"),
    "of one value, unsaid": (ONES, said((None, None), (None, None)), "2 layers with segments of one value"),
    "of one value, not all said": (ONES, said((0, 1)), "2 layers with segments of one value"),
    "of values said alike": (np.stack([LABELS, 0 * LABELS], -1), said((0, 1), (1, 1)), "segments of one value"),
    "fractions": (LABELS, ONE | {"Segmentation_SourceRepresentation": "Fractional labelmap"}, "by fractions of voxels"),
    "fractions of old": (LABELS, ONE | {"Segmentation_MasterRepresentation": "Fractional labelmap"}, "by fractions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_one_label_map_is_refused(image, case):
    voxels, fields, says = REFUSED[case]
    refused(lambda: read(image, voxels, fields), says, image.path.with_name("a.seg.nrrd"))


def test_an_image_with_layers_is_no_label_map(image):
    refused(lambda: read(image, np.stack([LABELS, LABELS], -1), {}), "give a label map with three axes")


@pytest.mark.parametrize("space", SPACES)
def test_what_is_cut_to_its_extent_is_put_in_its_place(image, space):
    labels = read(image, LABELS[1:5, 2:7, 3:9], ONE, first=(3, 2, 1), space=space)
    np.testing.assert_array_equal(labels.voxels, LABELS)
    np.testing.assert_allclose(labels.affine, image.affine)


def test_a_cut_may_be_stored_otherwise_than_its_image(image):
    lying = dataclasses.replace(
        image,
        voxels=np.flip(np.moveaxis(image.voxels, 2, 0), 1),
        affine=Turn((2, 0, 1), (False, True, False)).affine(image.affine, image.voxels.shape[:3]),
    )
    labels = read(lying, LABELS[1:5, 2:7, 3:9], ONE, first=(3, 2, 1))
    np.testing.assert_array_equal(labels.voxels, np.flip(np.moveaxis(LABELS, 2, 0), 1))


def test_an_extent_may_reach_beyond_the_image_where_nothing_is(image):
    wider = np.pad(LABELS[1:], ((0, 2), (3, 0), (0, 1)))
    np.testing.assert_array_equal(read(image, wider, ONE, first=(0, -3, 1)).voxels, LABELS)
    assert not read(image, np.zeros_like(LABELS), ONE, first=(50, 0, 0)).voxels.any()


def test_one_empty_voxel_is_an_empty_segmentation(image):
    """Slicer's own way to write one without segments: its place means nothing."""
    empty = {"Segmentation_ContainedRepresentationNames": "Binary labelmap|"}
    labels = read(image, np.zeros((1, 1, 1), np.uint8), empty, first=(-0.3, 99, 0))
    assert labels.voxels.shape == LABELS.shape and not labels.voxels.any()


@pytest.mark.parametrize("first", [(3.3, 2, 1), (5, 2, 1), (3, -1, 1), (30, 2, 1)])
def test_what_does_not_lie_on_the_images_voxels_is_refused(image, first):
    path = image.path.with_name("a.seg.nrrd")
    says = f"its segments do not lie on the voxels of {image.path}; in Slicer, make that image"
    refused(lambda: read(image, LABELS[1:5, 2:7, 3:9], ONE, first=first), says, path)


def test_less_than_a_tenth_of_a_voxel_is_rounding(image):
    labels = read(image, LABELS[1:5, 2:7, 3:9], ONE, first=(3.05, 1.95, 1.05))
    np.testing.assert_array_equal(labels.voxels, LABELS)


def test_a_cut_label_map_of_anybody_else_is_refused(image):
    says = r"its grid \(6, 5, 4\) is not the \(10, 8, 6\)"
    refused(lambda: read(image, LABELS[1:5, 2:7, 3:9], {}, first=(3, 2, 1)), says)


@pytest.mark.parametrize("name", ["a.seg.nrrd", "a.nrrd"])
def test_a_segmentation_is_no_image(tmp_path, name):
    path = save(tmp_path / name, LABELS, ONE)
    refused(lambda: volumes.read_image(path), "is a segmentation by 3D Slicer and no image", path)


def test_fields_are_those_of_slicer_alone():
    assert slicer.fields({"Segment0_ID": "a", "Segmentation_x": "b", "Segments": "c", "NRRD_space": "d"}) == {
        "Segment0_ID": "a",
        "Segmentation_x": "b",
    }


def test_itk_reads_what_is_written_here(image):
    """The test's own writer, by ITK's reader: origin and directions in LPS."""
    path = save(image.path.with_name("a.nrrd"), LABELS, ONE, first=(3, 2, 1), space="right-anterior-superior")
    read = sitk.ReadImage(str(path))
    assert read.GetOrigin() == pytest.approx((95, -116, 12)) and read.GetMetaData("Segment1_LabelValue") == "3"
