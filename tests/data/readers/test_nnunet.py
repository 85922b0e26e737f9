import json

import numpy as np
import pytest

from files import SIZES, arrays, assert_case, assert_input_error, at, save
from msl_jax.data.readers import nnunet

LABELS = {"background": 0, "LV": 3, "Größe": 1, "ignore": 4}
NAMES = ("p1_01", "p1_02", "ü")


def index(folder, **changed):
    contents = {"channel_names": {"0": "T2"}, "labels": LABELS, "file_ending": ".nii.gz", "numTraining": 9} | changed
    (folder / "dataset.json").write_text(json.dumps({k: v for k, v in contents.items() if v is not None}))


def of(name):
    image, mask, _ = arrays(name, values=(0, 1, 3, 4))
    return image, mask


def expected(mask):
    return np.where(mask == 4, 255, mask)


@pytest.fixture
def root(tmp_path):
    """Three cases, the last without a mask."""
    for name in NAMES:
        image, mask = of(name)
        save(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", image)
        if name != "ü":
            save(tmp_path / "labelsTr" / f"{name}.nii.gz", mask)
    (tmp_path / "imagesTr" / "._p1_01_0000.nii.gz").touch()
    index(tmp_path)
    return tmp_path


def read(root, **settings):
    return [load() for load in nnunet.read(at("nnunet", root, **settings))]


def test_written_cases_are_read_in_the_order_of_names(root):
    for case, name in zip(read(root), NAMES, strict=True):
        image, mask = of(name)
        assert_case(case, name, image, None if name == "ü" else expected(mask))
        assert case.spacing == SIZES[::-1] and (case.units, case.patient, case.role) == ("mm", name, "")
    assert nnunet.labels(at("nnunet", root)) == {"LV": 3, "Größe": 1}


@pytest.mark.parametrize(
    "changed",
    [
        {"channel_names": {"0": "CT", "1": "PET"}},
        {"channel_names": {"CT": 0, "PET": 1}},
        {"channel_names": None, "modality": {"0": "CT", "1": "PET"}},
    ],
)
def test_channels_have_names(root, changed):
    index(root, **changed)
    assert nnunet.READER.modalities(at("nnunet", root)) == ["CT", "PET"]


def test_a_pattern_maps_cases_to_patients(root):
    assert [case.patient for case in read(root, patient="^(p1|ü)")] == ["p1", "p1", "ü"]


def test_one_file_for_each_channel_is_an_image_with_channels(root):
    index(root, channel_names={"0": "T2", "1": "ADC", "2": "DWI"})
    for name in NAMES:
        for channel in (2, 1):
            save(root / "imagesTr" / f"{name}_000{channel}.nii.gz", of(name)[0] + channel)
    for case, name in zip(read(root), NAMES, strict=True):
        np.testing.assert_array_equal(case.image, np.stack([of(name)[0] + c for c in range(3)], -1))


@pytest.mark.parametrize("ending", [".nii", ".mha", ".nrrd", ".MHA", ".Nrrd"])
def test_all_file_endings(tmp_path, ending):
    image, mask = of("a")
    for file, voxels in (("imagesTr/a_0000", image), ("labelsTr/a", mask)):
        save(tmp_path / f"{file}{ending.lower()}", voxels).rename(tmp_path / f"{file}{ending}")
    index(tmp_path, file_ending=ending)
    assert_case(read(tmp_path)[0], "a", image, expected(mask))


def test_masks_may_be_slicer_segmentations(tmp_path):
    image, mask = of("a")
    save(tmp_path / "imagesTr" / "a_0000.nrrd", image)
    save(tmp_path / "labelsTr" / "a.seg.nrrd", mask)
    index(tmp_path, file_ending=".nrrd")
    assert_case(read(tmp_path)[0], "a", image, expected(mask))


def test_without_ignore_every_voxel_is_labelled(root):
    index(root, labels={"background": 0, "LV": 3, "Größe": 1, "four": 4})
    assert_case(read(root)[0], "p1_01", *of("p1_01"))


V1 = {"channel_names": None, "modality": {"0": "MRI"}, "file_ending": None}


@pytest.mark.parametrize("changed", [{}, V1, {"channel_names": {"T2": 0}}, {"labels": {**LABELS, "LV": 3.0}}])
def test_variants_of_the_index(root, changed):
    index(root, **changed)
    for case, name in zip(read(root), NAMES, strict=True):
        image, mask = of(name)
        assert_case(case, name, image, None if name == "ü" else expected(mask))
    assert nnunet.labels(at("nnunet", root)) == {"LV": 3, "Größe": 1}


def test_labels_of_v1_are_inverted(root):
    training = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in NAMES]
    labels = {"0": "background", "1": "Größe", "3": "LV", "4": "four"}
    index(root, labels=labels, training=training, numTraining=3, **V1)
    assert nnunet.labels(at("nnunet", root)) == {"Größe": 1, "LV": 3, "four": 4}
    first, *_ = read(root)
    assert_case(first, "p1_01", *of("p1_01"))
    assert first.remarks == ()


def test_ignore_may_be_any_value(root):
    index(root, labels={"background": 0, "ignore": 1, "LV": 3, "four": 4})
    image, mask = of("p1_01")
    assert_case(read(root)[0], "p1_01", image, np.where(mask == 1, 255, mask))


def test_an_index_may_list_the_files(root):
    """As in nnU-Net 2.4, with any file names."""
    (root / "imagesTr").rename(root / "pictures")
    save(root / "labels" / "one.nrrd", of("p1_01")[1])
    second = save(root / "two.nii", of("p1_01")[0] + 5)
    cases = {
        "b": {"images": ["pictures/p1_02_0000.nii.gz", "pictures\\ü_0000.nii.gz"]},
        "a": {"images": ["./pictures/p1_01_0000.nii.gz", str(second)], "label": "labels/one.nrrd"},
    }
    index(root, dataset=cases, channel_names={"0": "T2", "1": "T1"}, numTraining=1)
    a, b = read(root)
    image, mask = of("p1_01")
    assert_case(a, "a", np.stack([image, image + 5], -1), expected(mask))
    assert_case(b, "b", np.stack([of("p1_02")[0], of("ü")[0]], -1))
    before = nnunet.fingerprint(at("nnunet", root))
    save(root / "labels" / "one.nrrd", 0 * of("p1_01")[1])
    assert nnunet.fingerprint(at("nnunet", root)) != before


@pytest.mark.parametrize("count, remarks", [(None, 0), (3, 0), (2, 0), (9, 1)])
def test_another_number_of_training_images_gives_a_remark(root, count, remarks):
    """There are three, two of them with masks."""
    index(root, numTraining=count)
    remark = f"{root / 'dataset.json'}: its numTraining is {count}, but it has 3 training cases."
    assert [case.remarks for case in read(root)] == [(remark,) * remarks] * 3


def test_a_structure_may_be_255_without_unlabelled_voxels(root):
    image, mask = of("p1_01")
    save(root / "labelsTr" / "p1_01.nii.gz", np.where(mask == 3, np.uint8(255), mask))
    index(root, labels={"background": 0, "one": 1, "four": 4, "LV": 255})
    (root / "labelsTr" / "p1_02.nii.gz").unlink()
    assert_case(read(root)[0], "p1_01", image, np.where(mask == 3, 254, mask))


IMAGE, MASK = "imagesTr/p1_01_0000.nii.gz", "labelsTr/p1_01.nii.gz"


VOXELS, MASKED = of("p1_01")


def write(file, voxels=VOXELS, sizes=SIZES):
    return lambda root: save(root / file, voxels, sizes)


def labels(**named):
    return lambda root: index(root, labels=named)


def listed(*images, label=None):
    return {"images": images or [IMAGE], "label": label}


FAULTS = {
    "no index": (lambda root: (root / "dataset.json").unlink(), "", "contains no dataset.json"),
    "no images": (lambda root: (root / "imagesTr").rename(root / "imagesTs"), "", "contains no imagesTr"),
    "no JSON": (lambda root: (root / "dataset.json").write_bytes(b"\xff"), "dataset.json", "is not a readable JSON"),
    "no labels": (lambda root: index(root, labels=None), "dataset.json", "has no dict 'labels'"),
    "no channels": (lambda root: index(root, channel_names=None), "dataset.json", "has no dict 'channel_names'"),
    "an ending of another type": (lambda root: index(root, file_ending=1), "dataset.json", "has no str 'file_ending'"),
    "ending of pictures": (lambda root: index(root, file_ending=".png"), "dataset.json", "file_ending is '.png'; conv"),
    "regions": (labels(background=0, whole=[1, 3]), "dataset.json", r"whole is \[1, 3\], a region of several values"),
    "numbers as text": (labels(background="0", LV="1"), "dataset.json", "background is '0', a text; give num"),
    "fractional label": (labels(LV=1.5), "dataset.json", "LV is 1.5; give a whole number from 1 to 255"),
    "ignore is background": (labels(LV=1, ignore=0), "dataset.json", "ignore is 0; give a whole number"),
    "ignore is a structure": (labels(LV=1, ignore=1), "dataset.json", "two structures have the same value"),
    "no structure": (labels(background=0), "dataset.json", "names no structure"),
    "unknown label": (labels(background=0, LV=3, ignore=4), MASK, r"unknown label values \[1\], not among \[0, 3, 4\]"),
    "mask of another shape": (write(MASK, MASKED[:2]), MASK, "its grid"),
    "mask of another spacing": (write(MASK, MASKED, (1, 1, 1)), MASK, "its affine"),
    "mask without image": (write("labelsTr/c.nii.gz"), "labelsTr/c.nii.gz", "has no image of the same name"),
    "image without number": (write("imagesTr/c.nii.gz"), "imagesTr/c.nii.gz", "does not end in a channel number"),
    "first channel missing": (write("imagesTr/c_0001.nii.gz"), "imagesTr/c_0001.nii.gz", "c has no channel _0000"),
    "channel missing": (write("imagesTr/p1_01_0002.nii.gz"), IMAGE, "p1_01 has no channel _0001"),
    "channel too many": (
        write("imagesTr/p1_01_0001.nii.gz"),
        IMAGE,
        "p1_01 has 2 channels, but dataset.json lists 1; correct one; if they are time points, save",
    ),
    "v1, one name twice": (
        labels(**{"0": "background", "1": "A", "2": "A"}),
        "dataset.json",
        "two labels have the same name",
    ),
    "254 and 255": (labels(A=254, B=255), "dataset.json", "have the values 254 and 255"),
    "a list of cases": (lambda root: index(root, dataset=[]), "dataset.json", "has no dict 'dataset'"),
    "no cases": (lambda root: index(root, dataset={}), "dataset.json", "lists no cases"),
    "a case of text": (lambda root: index(root, dataset={"a": "x"}), "dataset.json", "case a is not {"),
    "a case without images": (
        lambda root: index(root, dataset={"a": {"images": []}}),
        "dataset.json",
        "case a is not {",
    ),
    "a case with a parent path": (
        lambda root: index(root, dataset={"../a": listed()}),
        "dataset.json",
        "'../a' is not a valid file name",
    ),
    "a case without a name": (
        lambda root: index(root, dataset={"..": listed()}),
        "dataset.json",
        "'..' is not a valid file name",
    ),
    "an image in a parent folder": (
        lambda root: index(root, dataset={"a": listed("../a.nii.gz")}),
        "dataset.json",
        "is outside of this folder",
    ),
    "an image elsewhere": (
        lambda root: index(root, dataset={"a": listed("/etc/passwd")}),
        "dataset.json",
        "is outside of this folder",
    ),
    "a mask elsewhere": (
        lambda root: index(root, dataset={"a": listed(label="/a")}),
        "dataset.json",
        "is outside of this folder",
    ),
    "a missing mask": (
        lambda root: index(root, dataset={"a": listed(label="b.nii")}),
        "b.nii",
        "is missing, but dataset.json lists it",
    ),
    "channel on another grid": (
        write("imagesTr/p1_01_0001.nii.gz", sizes=(1, 1, 1)),
        "imagesTr/p1_01_0001.nii.gz",
        "its affine",
    ),
    "another ending": (write("imagesTr/c_0000.nii"), "imagesTr/c_0000.nii", "is not a file that ends in .nii.gz"),
    "constant image": (write(IMAGE, np.zeros((3, 6, 7), np.int16)), IMAGE, "every voxel has the same value"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_invalid_data_set_is_an_error_that_names_the_file(root, fault):
    spoil, file, message = FAULTS[fault]
    spoil(root)
    assert_input_error(lambda: [nnunet.labels(at("nnunet", root)), read(root)], message, root / file)


def test_an_empty_folder_of_images_is_an_error(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    index(tmp_path)
    assert_input_error(lambda: nnunet.fingerprint(at("nnunet", tmp_path)), "contains no images", tmp_path / "imagesTr")


def test_the_fingerprint_depends_on_every_file(root):
    prints = [nnunet.fingerprint(at("nnunet", root))]
    for path in (root / IMAGE, root / MASK, root / "dataset.json"):
        path.write_bytes(path.read_bytes() + b" ")
        prints.append(nnunet.fingerprint(at("nnunet", root)))
    (root / MASK).unlink()
    assert len({*prints, nnunet.fingerprint(at("nnunet", root))}) == 5


def test_images_to_predict_are_grouped_by_name(root):
    save(root / "imagesTr" / "p1_01_0001.nii.gz", of("p1_01")[0])
    found = nnunet.images(root / "imagesTr")
    assert found["p1_01"] == (root / IMAGE, root / "imagesTr" / "p1_01_0001.nii.gz") and list(found) == list(NAMES)
    assert list(nnunet.images(root)) == [f"imagesTr/{name}" for name in NAMES]
    assert nnunet.images(root / "labelsTr") == {name: (root / "labelsTr" / f"{name}.nii.gz",) for name in NAMES[:2]}
    (root / "imagesTr" / "p9.nii.gz").touch()
    assert_input_error(
        lambda: nnunet.images(root / "imagesTr"), "name it p9_0000.nii.gz", root / "imagesTr" / "p9.nii.gz"
    )
