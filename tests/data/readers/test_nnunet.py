import json

import numpy as np
import pytest

from files import SIZES, arrays, assert_case, at, refused, save
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


def read(root, **known):
    return [load() for load in nnunet.read(at("nnunet", root, **known))]


def test_what_was_written_is_read_in_the_order_of_the_names(root):
    for case, name in zip(read(root), NAMES, strict=True):
        image, mask = of(name)
        assert_case(case, name, image, None if name == "ü" else expected(mask))
        assert case.spacing == SIZES[::-1] and (case.units, case.patient, case.role) == ("mm", name, "")
    assert nnunet.labels(at("nnunet", root)) == {"LV": 3, "Größe": 1}


def test_a_pattern_says_whose_an_image_is(root):
    assert [case.patient for case in read(root, patient="^(p1|ü)")] == ["p1", "p1", "ü"]


def test_a_file_a_channel_is_an_image_of_channels(root):
    index(root, channel_names={"0": "T2", "1": "ADC", "2": "DWI"})
    for name in NAMES:
        for channel in (2, 1):
            save(root / "imagesTr" / f"{name}_000{channel}.nii.gz", of(name)[0] + channel)
    for case, name in zip(read(root), NAMES, strict=True):
        np.testing.assert_array_equal(case.image, np.stack([of(name)[0] + c for c in range(3)], -1))


@pytest.mark.parametrize("ending", [".nii", ".mha", ".nrrd", ".MHA", ".Nrrd"])
def test_every_ending_may_be_the_data_sets(tmp_path, ending):
    image, mask = of("a")
    for file, voxels in (("imagesTr/a_0000", image), ("labelsTr/a", mask)):
        save(tmp_path / f"{file}{ending.lower()}", voxels).rename(tmp_path / f"{file}{ending}")
    index(tmp_path, file_ending=ending)
    assert_case(read(tmp_path)[0], "a", image, expected(mask))


def test_masks_may_be_segmentations_of_slicer(tmp_path):
    image, mask = of("a")
    save(tmp_path / "imagesTr" / "a_0000.nrrd", image)
    save(tmp_path / "labelsTr" / "a.seg.nrrd", mask)
    index(tmp_path, file_ending=".nrrd")
    assert_case(read(tmp_path)[0], "a", image, expected(mask))


def test_without_ignore_nothing_is_open(root):
    index(root, labels={"background": 0, "LV": 3, "Größe": 1, "four": 4})
    assert_case(read(root)[0], "p1_01", *of("p1_01"))


V1 = {"channel_names": None, "modality": {"0": "MRI"}, "file_ending": None}


@pytest.mark.parametrize("changed", [{}, V1, {"channel_names": {"T2": 0}}, {"labels": {**LABELS, "LV": 3.0}}])
def test_an_index_may_be_of_v1_turned_round_or_of_halves_that_are_whole(root, changed):
    index(root, **changed)
    for case, name in zip(read(root), NAMES, strict=True):
        image, mask = of(name)
        assert_case(case, name, image, None if name == "ü" else expected(mask))
    assert nnunet.labels(at("nnunet", root)) == {"LV": 3, "Größe": 1}


def test_labels_of_v1_are_turned_round(root):
    training = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in NAMES]
    labels = {"0": "background", "1": "Größe", "3": "LV", "4": "four"}
    index(root, labels=labels, training=training, numTraining=3, **V1)
    assert nnunet.labels(at("nnunet", root)) == {"Größe": 1, "LV": 3, "four": 4}
    first, *_ = read(root)
    assert_case(first, "p1_01", *of("p1_01"))
    assert first.remarks == ()


def test_ignore_need_not_be_the_last(root):
    index(root, labels={"background": 0, "ignore": 1, "LV": 3, "four": 4})
    image, mask = of("p1_01")
    assert_case(read(root)[0], "p1_01", image, np.where(mask == 1, 255, mask))


def test_an_index_may_say_which_files_there_are(root):
    """As nnU-Net 2.4 has it: no names are looked at but those of files' endings."""
    (root / "imagesTr").rename(root / "pictures")
    save(root / "drawn" / "one.nrrd", of("p1_01")[1])
    second = save(root / "two.nii", of("p1_01")[0] + 5)
    cases = {
        "b": {"images": ["pictures/p1_02_0000.nii.gz", "pictures\\ü_0000.nii.gz"]},
        "a": {"images": ["./pictures/p1_01_0000.nii.gz", str(second)], "label": "drawn/one.nrrd"},
    }
    index(root, dataset=cases, channel_names={"0": "T2", "1": "T1"}, numTraining=1)
    a, b = read(root)
    image, mask = of("p1_01")
    assert_case(a, "a", np.stack([image, image + 5], -1), expected(mask))
    assert_case(b, "b", np.stack([of("p1_02")[0], of("ü")[0]], -1))
    before = nnunet.fingerprint(at("nnunet", root))
    save(root / "drawn" / "one.nrrd", 0 * of("p1_01")[1])
    assert nnunet.fingerprint(at("nnunet", root)) != before


@pytest.mark.parametrize("said, remarks", [(None, 0), (3, 0), (2, 0), (9, 1)])
def test_another_number_of_training_images_is_remarked_on(root, said, remarks):
    """Three are there, two of them with masks."""
    index(root, numTraining=said)
    sentence = f"{root / 'dataset.json'}: its numTraining is {said}, and it has 3 training cases."
    assert [case.remarks for case in read(root)] == [(sentence,) * remarks] * 3


def test_a_structure_may_be_255_where_nothing_is_open(root):
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
    "no index": (lambda root: (root / "dataset.json").unlink(), "", "holds no dataset.json"),
    "no images": (lambda root: (root / "imagesTr").rename(root / "imagesTs"), "", "holds no imagesTr"),
    "no JSON": (lambda root: (root / "dataset.json").write_bytes(b"\xff"), "dataset.json", "is no readable JSON"),
    "no labels": (lambda root: index(root, labels=None), "dataset.json", "has no dict 'labels'"),
    "no channels": (lambda root: index(root, channel_names=None), "dataset.json", "has no dict 'channel_names'"),
    "an ending that is none": (lambda root: index(root, file_ending=1), "dataset.json", "has no str 'file_ending'"),
    "ending of pictures": (lambda root: index(root, file_ending=".png"), "dataset.json", "file_ending is '.png'; conv"),
    "regions": (labels(background=0, whole=[1, 3]), "dataset.json", r"whole is \[1, 3\], a region of several values"),
    "numbers as text": (labels(background="0", LV="1"), "dataset.json", "background is '0', a text; give num"),
    "label of half": (labels(LV=1.5), "dataset.json", "LV is 1.5; give a whole number from 1 to 255"),
    "ignore is background": (labels(LV=1, ignore=0), "dataset.json", "ignore is 0; give a whole number"),
    "ignore is a structure": (labels(LV=1, ignore=1), "dataset.json", "two structures have one value"),
    "no structure": (labels(background=0), "dataset.json", "names no structure"),
    "unknown label": (labels(background=0, LV=3, ignore=4), MASK, r"unknown label values \[1\]; known are \[0, 3, 4\]"),
    "mask of another shape": (write(MASK, MASKED[:2]), MASK, "its grid"),
    "mask of another spacing": (write(MASK, MASKED, (1, 1, 1)), MASK, "its affine"),
    "mask without image": (write("labelsTr/c.nii.gz"), "labelsTr/c.nii.gz", "has no image of that name"),
    "image without number": (write("imagesTr/c.nii.gz"), "imagesTr/c.nii.gz", "does not end in a channel's number"),
    "first channel missing": (write("imagesTr/c_0001.nii.gz"), "imagesTr/c_0001.nii.gz", "c has no channel _0000"),
    "channel missing": (write("imagesTr/p1_01_0002.nii.gz"), IMAGE, "p1_01 has no channel _0001"),
    "channel too many": (
        write("imagesTr/p1_01_0001.nii.gz"),
        IMAGE,
        "p1_01 has 2 channels, dataset.json names 1; correct one; if they are points in time, save",
    ),
    "v1, one name twice": (
        labels(**{"0": "background", "1": "A", "2": "A"}),
        "dataset.json",
        "two labels have one name",
    ),
    "254 and 255": (labels(A=254, B=255), "dataset.json", "have the values 254 and 255"),
    "a list of cases": (lambda root: index(root, dataset=[]), "dataset.json", "has no dict 'dataset'"),
    "no cases": (lambda root: index(root, dataset={}), "dataset.json", "lists no cases"),
    "a case of text": (lambda root: index(root, dataset={"a": "x"}), "dataset.json", "case a is no {"),
    "a case without images": (
        lambda root: index(root, dataset={"a": {"images": []}}),
        "dataset.json",
        "case a is no {",
    ),
    "a case upwards": (
        lambda root: index(root, dataset={"../a": listed()}),
        "dataset.json",
        "'../a' is no name of a file",
    ),
    "a case of no name": (
        lambda root: index(root, dataset={"..": listed()}),
        "dataset.json",
        "'..' is no name of a file",
    ),
    "an image upwards": (lambda root: index(root, dataset={"a": listed("../a.nii.gz")}), "dataset.json", "lie inside"),
    "an image elsewhere": (
        lambda root: index(root, dataset={"a": listed("/etc/passwd")}),
        "dataset.json",
        "lie inside",
    ),
    "a mask elsewhere": (lambda root: index(root, dataset={"a": listed(label="/a")}), "dataset.json", "lie inside"),
    "a mask that is not there": (
        lambda root: index(root, dataset={"a": listed(label="b.nii")}),
        "b.nii",
        "is missing, though dataset.json names it",
    ),
    "channel on another grid": (
        write("imagesTr/p1_01_0001.nii.gz", sizes=(1, 1, 1)),
        "imagesTr/p1_01_0001.nii.gz",
        "its affine",
    ),
    "another ending": (write("imagesTr/c_0000.nii"), "imagesTr/c_0000.nii", "is no file that ends in .nii.gz"),
    "constant image": (write(IMAGE, np.zeros((3, 6, 7), np.int16)), IMAGE, "every voxel has the same value"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_data_set_is_refused_and_the_file_named(root, fault):
    spoil, file, says = FAULTS[fault]
    spoil(root)
    refused(lambda: [nnunet.labels(at("nnunet", root)), read(root)], says, root / file)


def test_an_empty_folder_of_images_is_refused(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    index(tmp_path)
    refused(lambda: nnunet.fingerprint(at("nnunet", tmp_path)), "holds no images", tmp_path / "imagesTr")


def test_the_fingerprint_sees_every_file(root):
    prints = [nnunet.fingerprint(at("nnunet", root))]
    for path in (root / IMAGE, root / MASK, root / "dataset.json"):
        path.write_bytes(path.read_bytes() + b" ")
        prints.append(nnunet.fingerprint(at("nnunet", root)))
    (root / MASK).unlink()
    assert len({*prints, nnunet.fingerprint(at("nnunet", root))}) == 5


def test_images_to_predict_are_grouped_by_their_names(root):
    save(root / "imagesTr" / "p1_01_0001.nii.gz", of("p1_01")[0])
    found = nnunet.images(root / "imagesTr")
    assert found["p1_01"] == (root / IMAGE, root / "imagesTr" / "p1_01_0001.nii.gz") and list(found) == list(NAMES)
    assert list(nnunet.images(root)) == [f"imagesTr/{name}" for name in NAMES]
    assert nnunet.images(root / "labelsTr") == {name: (root / "labelsTr" / f"{name}.nii.gz",) for name in NAMES[:2]}
    (root / "imagesTr" / "p9.nii.gz").touch()
    refused(lambda: nnunet.images(root / "imagesTr"), "call it p9_0000.nii.gz", root / "imagesTr" / "p9.nii.gz")
