import numpy as np
import pytest
import SimpleITK as sitk

from files import SIZES, arrays, assert_case, at, refused, save
from msl_jax.data.readers import folder

LABELS = {"LV": 3, "RV": 1, "Größe": 2}
NAMES = ("a", "b.c", "ü")


@pytest.fixture
def root(tmp_path):
    """Three cases in three formats: with mask and annotation, with an annotation, and bare."""
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


def read(root, labels=LABELS, **known):
    return [load() for load in folder.read(at("folder", root, labels=labels, **known))]


def test_what_was_written_is_read_in_the_order_of_the_names(root):
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


def test_the_open_value_holds_for_masks_and_annotations(root):
    image, mask, annotation = arrays("a", values=(0, 1, 3, 9), unlabeled=9)
    for kind, voxels in (("images/a.nii.gz", image), ("masks/a.mha", mask), ("annotations/a.nii.gz", annotation)):
        save(root / kind, voxels)
    for path in root.glob("annotations/b*"):
        path.unlink()
    case = read(root, {"RV": 1, "LV": 3}, unlabeled=9)[0]
    assert_case(case, "a", image, np.where(mask == 9, 255, mask), np.where(annotation == 9, 255, annotation))


def test_a_pattern_says_whose_an_image_is(root):
    assert [case.patient for case in read(root, patient="^(a|b|ü)")] == ["a", "b", "ü"]


def test_a_structure_may_be_255_where_open_voxels_are_not(root):
    image, mask, annotation = arrays("a", values=(0, 1, 255), unlabeled=9)
    for kind, voxels in (("images/a.nii.gz", image), ("masks/a.mha", mask), ("annotations/a.nii.gz", annotation)):
        save(root / kind, voxels)
    for path in root.glob("annotations/b*"):
        path.unlink()
    case = read(root, {"RV": 1, "LV": 255}, unlabeled=9)[0]
    stored = np.array([0, 1, *range(2, 9), 255, *range(10, 255), 254])
    assert_case(case, "a", image, stored[mask], stored[annotation])


def test_masks_may_be_segmentations_of_slicer(root):
    """Of one layer, cut to an extent from (1, 2, 1) on, by ITK's own writer."""
    image, mask, annotation = arrays("a")
    made = sitk.GetImageFromArray(mask[1:, 2:, 1:])
    made.SetSpacing(SIZES)
    made.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    made.SetOrigin((-SIZES[0], -2 * SIZES[1], SIZES[2]))
    made.SetMetaData("Segment0_ID", "Segment_1")
    sitk.WriteImage(made, str(root / "masks" / "a.seg.nrrd"))
    (root / "masks" / "a.mha").unlink()
    whole = np.zeros_like(mask)
    whole[1:, 2:, 1:] = mask[1:, 2:, 1:]
    assert_case(read(root)[0], "a", image, whole, annotation)
    made.SetMetaData("Segmentation_SourceRepresentation", "Fractional labelmap")
    sitk.WriteImage(made, str(root / "masks" / "a.seg.nrrd"))
    refused(lambda: read(root), "by fractions of voxels", root / "masks" / "a.seg.nrrd")


def test_notes_and_what_systems_leave_are_passed_over(root):
    for name in ("a.json", "README.md", "list.CSV", "b.c.txt", "Thumbs.db", "desktop.ini", "t.tsv", "x.xml", "y.yaml"):
        for kind in ("images", "masks", "annotations"):
            (root / kind / name).write_text("no volume")
    assert [case.name for case in read(root)] == list(NAMES)


def test_endings_are_known_in_capitals(root):
    for file in ("images/a.nii.gz", "masks/a.mha", "images/b.c.nrrd", "annotations/b.c.nii"):
        path = root / file
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.gz").replace(".mha", ".MHA").replace("n", "N")))
    a, b, _ = read(root)
    assert_case(a, "a", *arrays("a"))
    assert_case(b, "b.c", arrays("b.c")[0], None, arrays("b.c")[2])


MASKED = arrays("a")[1]


def write(file, voxels=MASKED, sizes=SIZES):
    return lambda root: save(root / file, voxels, sizes)


MASK, DRAWN = "masks/a.mha", "annotations/a.nii.gz"
FAULTS = {
    "no images": (lambda root: (root / "images").rename(root / "imgs"), "", "holds no images"),
    "mask without image": (write("masks/c.nii.gz"), "masks/c.nii.gz", "has no image of that name"),
    "annotation without image": (write("annotations/c.mha"), "annotations/c.mha", "has no image of that name"),
    "image twice": (write("images/a.nrrd"), "images/a.nrrd", "lies beside a.nii.gz"),
    "mask twice": (write("masks/a.nii"), "masks/a.nii", "lies beside a.mha"),
    "folder in a folder": (write("images/more/c.nii.gz"), "images/more", "is no file that ends in"),
    "detached header": (lambda root: (root / "images" / "c.nhdr").touch(), "images/c.nhdr", "is no file that ends in"),
    **{
        f"a file {name}": (
            lambda root, name=name: (root / "masks" / name).touch(),
            f"masks/{name}",
            "is no file that ends",
        )
        for name in ("a.png", "a.dcm", "a.JPG", "a.mat", "a.npy", "a.ini", "data.db", "a")
    },
    "notes in a folder": (lambda root: (root / "images" / "a.json").mkdir(), "images/a.json", "is no file that ends"),
    "segmentation among images": (
        lambda root: (root / "images" / "a.seg.nrrd").touch(),
        "images/a.seg.nrrd",
        "is no file that ends in",
    ),
    "unknown label": (
        write(MASK, MASKED + 2),
        MASK,
        r"unknown label values \[4, 5\]; known are \[0, 1, 2, 3, 255",
    ),
    "unknown drawing": (write(DRAWN, MASKED + 9), DRAWN, r"unknown label values \[9, 10, 11, 12\]"),
    "mask of another shape": (write(MASK, MASKED[:2]), MASK, "its grid"),
    "mask of another spacing": (write(MASK, sizes=(1, 1, 1)), MASK, "its affine"),
    "drawing of another spacing": (write(DRAWN, sizes=(1, 1, 1)), DRAWN, "its affine"),
    "damaged image": (lambda root: (root / "images/a.nii.gz").write_bytes(b"x"), "images/a.nii.gz", "cannot be read"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_data_set_is_refused_and_the_file_named(root, fault):
    spoil, file, says = FAULTS[fault]
    spoil(root)
    refused(lambda: read(root), says, root / file)


@pytest.mark.parametrize(
    "labels, known, says",
    [
        ({}, {}, "is empty, and layout 'folder' .* --config.data.labels=LV=3,MYO=2"),
        ({"LV": 0}, {}, "LV is 0; give a whole number from 1 to 255"),
        ({"LV": 255}, {}, "LV has the value 255 of pixels nobody annotated; .* --config.data.unlabeled=VALUE"),
        ({"LV": 1.0}, {}, "LV is 1.0; give a whole number"),
        ({"LV": True}, {}, "LV is True; give a whole number"),
        ({"LV": 1, "RV": 1}, {}, "two structures have one value"),
        ({"LV": 256}, {}, "LV is 256; give a whole number from 1 to 255"),
        ({"LV": 254, "RV": 255}, {"unlabeled": 0}, "have the values 254 and 255, of which a data set may use one"),
        ({"LV": 4}, {"unlabeled": 4}, "LV has the value 4 of pixels nobody annotated"),
    ],
)
def test_labels_must_be_told_and_make_sense(root, labels, known, says):
    for ask in (folder.labels, lambda source: [load() for load in folder.read(source)]):
        refused(lambda ask=ask: ask(at("folder", root, labels=labels, **known)), says, "config.data.labels: ")


def test_an_empty_folder_of_images_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    refused(lambda: folder.fingerprint(at("folder", tmp_path)), "holds no images", tmp_path / "images")


def test_the_fingerprint_sees_every_file(root):
    prints = [folder.fingerprint(at("folder", root))]
    for file in ("images/b.c.nrrd", MASK, DRAWN):
        (root / file).write_bytes((root / file).read_bytes() + b" ")
        prints.append(folder.fingerprint(at("folder", root)))
    (root / DRAWN).rename(root / "masks" / "ü.nii.gz")
    assert len({*prints, folder.fingerprint(at("folder", root))}) == 5


def test_images_to_predict_are_those_outside_of_masks_and_annotations(root):
    assert list(folder.images(root)) == [f"images/{name}" for name in NAMES]
    assert list(folder.images(root / "images")) == list(NAMES)
