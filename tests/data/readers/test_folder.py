import numpy as np
import pytest
import SimpleITK as sitk

from files import SIZES, arrays, assert_case, assert_input_error, at, save
from msl_jax.data.readers import folder

LABELS = {"LV": 3, "RV": 1, "Größe": 2}
NAMES = ("a", "b.c", "ü")


@pytest.fixture
def root(tmp_path):
    """Three cases in three formats: with mask and annotation, with an annotation, and with neither."""
    image, mask, annotation = arrays("a")
    save(tmp_path / "images" / "a.nii.gz", image)
    save(tmp_path / "masks" / "a.mha", mask)
    save(tmp_path / "annotations" / "a.nii.gz", annotation)
    image, _, annotation = arrays("b.c")
    save(tmp_path / "images" / "b.c.nrrd", image)
    save(tmp_path / "annotations" / "b.c.nii", annotation)
    save(tmp_path / "images" / "ü.mha", arrays("ü")[0])
    (tmp_path / "images" / ".DS_Store").touch()
    return tmp_path


def read(root, labels=LABELS, **settings):
    return [load() for load in folder.read(at("folder", root, labels=labels, **settings))]


def test_written_cases_are_read_in_the_order_of_names(root):
    a, b, u = read(root)
    assert_case(a, "a", *arrays("a"))
    image, _, annotation = arrays("b.c")
    assert_case(b, "b.c", image, None, annotation)
    assert_case(u, "ü", arrays("ü")[0])
    for case, name in zip((a, b, u), NAMES, strict=True):
        assert case.spacing == SIZES[::-1] and (case.units, case.patient, case.role) == ("mm", name, "")
    assert folder.labels(at("folder", root, labels=LABELS)) == LABELS


def test_a_fourth_axis_or_components_are_channels(root):
    voxels = np.stack([arrays("a")[0], arrays("ü")[0]], -1)
    save(root / "images" / "a.nii.gz", voxels)
    save(root / "images" / "ü.mha", voxels)
    a, _, u = read(root)
    assert_case(a, "a", voxels, *arrays("a")[1:])
    assert_case(u, "ü", voxels)


def test_the_unlabelled_value_applies_to_masks_and_annotations(root):
    image, mask, annotation = arrays("a", values=(0, 1, 3, 9), unlabeled=9)
    for kind, voxels in (("images/a.nii.gz", image), ("masks/a.mha", mask), ("annotations/a.nii.gz", annotation)):
        save(root / kind, voxels)
    for path in root.glob("annotations/b*"):
        path.unlink()
    case = read(root, {"RV": 1, "LV": 3}, unlabeled=9)[0]
    assert_case(case, "a", image, np.where(mask == 9, 255, mask), np.where(annotation == 9, 255, annotation))


def test_a_pattern_maps_cases_to_patients(root):
    assert [case.patient for case in read(root, patient="^(a|b|ü)")] == ["a", "b", "ü"]


def test_a_structure_may_be_255_if_unlabelled_voxels_are_not(root):
    image, mask, annotation = arrays("a", values=(0, 1, 255), unlabeled=9)
    for kind, voxels in (("images/a.nii.gz", image), ("masks/a.mha", mask), ("annotations/a.nii.gz", annotation)):
        save(root / kind, voxels)
    for path in root.glob("annotations/b*"):
        path.unlink()
    case = read(root, {"RV": 1, "LV": 255}, unlabeled=9)[0]
    stored = np.array([0, 1, *range(2, 9), 255, *range(10, 255), 254])
    assert_case(case, "a", image, stored[mask], stored[annotation])


def test_masks_may_be_slicer_segmentations(root):
    """One layer, cropped from (1, 2, 1) on, written by ITK."""
    image, mask, annotation = arrays("a")
    labels = sitk.GetImageFromArray(mask[1:, 2:, 1:])
    labels.SetSpacing(SIZES)
    labels.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    labels.SetOrigin((-SIZES[0], -2 * SIZES[1], SIZES[2]))
    labels.SetMetaData("Segment0_ID", "Segment_1")
    sitk.WriteImage(labels, str(root / "masks" / "a.seg.nrrd"))
    (root / "masks" / "a.mha").unlink()
    whole = np.zeros_like(mask)
    whole[1:, 2:, 1:] = mask[1:, 2:, 1:]
    assert_case(read(root)[0], "a", image, whole, annotation)
    labels.SetMetaData("Segmentation_SourceRepresentation", "Fractional labelmap")
    sitk.WriteImage(labels, str(root / "masks" / "a.seg.nrrd"))
    assert_input_error(lambda: read(root), "with fractions of voxels", root / "masks" / "a.seg.nrrd")


def test_notes_and_system_files_are_ignored(root):
    for name in ("a.json", "README.md", "list.CSV", "b.c.txt", "Thumbs.db", "desktop.ini", "t.tsv", "x.xml", "y.yaml"):
        for kind in ("images", "masks", "annotations"):
            (root / kind / name).write_text("no volume")
    assert [case.name for case in read(root)] == list(NAMES)


def test_endings_may_be_in_capitals(root):
    for file in ("images/a.nii.gz", "masks/a.mha", "images/b.c.nrrd", "annotations/b.c.nii"):
        path = root / file
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.gz").replace(".mha", ".MHA").replace("n", "N")))
    a, b, _ = read(root)
    assert_case(a, "a", *arrays("a"))
    assert_case(b, "b.c", arrays("b.c")[0], None, arrays("b.c")[2])


MASKED = arrays("a")[1]


def write(file, voxels=MASKED, sizes=SIZES):
    return lambda root: save(root / file, voxels, sizes)


MASK, ANNOTATION = "masks/a.mha", "annotations/a.nii.gz"
FAULTS = {
    "no images": (lambda root: (root / "images").rename(root / "imgs"), "", "contains no images"),
    "mask without image": (write("masks/c.nii.gz"), "masks/c.nii.gz", "has no image of the same name"),
    "annotation without image": (write("annotations/c.mha"), "annotations/c.mha", "has no image of the same name"),
    "image twice": (write("images/a.nrrd"), "images/a.nrrd", "has the same name as a.nii.gz"),
    "mask twice": (write("masks/a.nii"), "masks/a.nii", "has the same name as a.mha"),
    "folder in a folder": (write("images/more/c.nii.gz"), "images/more", "is not a file that ends in"),
    "detached header": (
        lambda root: (root / "images" / "c.nhdr").touch(),
        "images/c.nhdr",
        "is not a file that ends in",
    ),
    **{
        f"a file {name}": (
            lambda root, name=name: (root / "masks" / name).touch(),
            f"masks/{name}",
            "is not a file that ends",
        )
        for name in ("a.png", "a.dcm", "a.JPG", "a.mat", "a.npy", "a.ini", "data.db", "a")
    },
    "notes in a folder": (
        lambda root: (root / "images" / "a.json").mkdir(),
        "images/a.json",
        "is not a file that ends",
    ),
    "segmentation among images": (
        lambda root: (root / "images" / "a.seg.nrrd").touch(),
        "images/a.seg.nrrd",
        "is not a file that ends in",
    ),
    "unknown label": (
        write(MASK, MASKED + 2),
        MASK,
        r"unknown label values \[4, 5\], not among \[0, 1, 2, 3, 255",
    ),
    "unknown annotation label": (write(ANNOTATION, MASKED + 9), ANNOTATION, r"unknown label values \[9, 10, 11, 12\]"),
    "mask of another shape": (write(MASK, MASKED[:2]), MASK, "its grid"),
    "mask of another spacing": (write(MASK, sizes=(1, 1, 1)), MASK, "its affine"),
    "annotation with another spacing": (write(ANNOTATION, sizes=(1, 1, 1)), ANNOTATION, "its affine"),
    "damaged image": (lambda root: (root / "images/a.nii.gz").write_bytes(b"x"), "images/a.nii.gz", "cannot be read"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_invalid_data_set_is_an_error_that_names_the_file(root, fault):
    spoil, file, message = FAULTS[fault]
    spoil(root)
    assert_input_error(lambda: read(root), message, root / file)


@pytest.mark.parametrize(
    "labels, settings, message",
    [
        ({}, {}, "is empty, and layout 'folder' .* --config.data.labels=LV=3,MYO=2"),
        ({"LV": 0}, {}, "LV is 0; give a whole number from 1 to 255"),
        ({"LV": 255}, {}, "LV has the value 255 of unlabelled pixels; .* --config.data.unlabeled=VALUE"),
        ({"LV": 1.0}, {}, "LV is 1.0; give a whole number"),
        ({"LV": True}, {}, "LV is True; give a whole number"),
        ({"LV": 1, "RV": 1}, {}, "two structures have the same value"),
        ({"LV": 256}, {}, "LV is 256; give a whole number from 1 to 255"),
        ({"LV": 254, "RV": 255}, {"unlabeled": 0}, "have the values 254 and 255, but a data set may use only one"),
        ({"LV": 4}, {"unlabeled": 4}, "LV has the value 4 of unlabelled pixels"),
    ],
)
def test_missing_or_invalid_labels_are_errors(root, labels, settings, message):
    for call in (folder.labels, lambda source: [load() for load in folder.read(source)]):
        assert_input_error(
            lambda call=call: call(at("folder", root, labels=labels, **settings)), message, "config.data.labels: "
        )


def test_an_empty_folder_of_images_is_an_error(tmp_path):
    (tmp_path / "images").mkdir()
    assert_input_error(lambda: folder.fingerprint(at("folder", tmp_path)), "contains no images", tmp_path / "images")


def test_the_fingerprint_depends_on_every_file(root):
    prints = [folder.fingerprint(at("folder", root))]
    for file in ("images/b.c.nrrd", MASK, ANNOTATION):
        (root / file).write_bytes((root / file).read_bytes() + b" ")
        prints.append(folder.fingerprint(at("folder", root)))
    (root / ANNOTATION).rename(root / "masks" / "ü.nii.gz")
    assert len({*prints, folder.fingerprint(at("folder", root))}) == 5


def test_images_to_predict_exclude_masks_and_annotations(root):
    assert list(folder.images(root)) == [f"images/{name}" for name in NAMES]
    assert list(folder.images(root / "images")) == list(NAMES)
