import json

import nibabel as nib
import numpy as np
import pytest

from files import SIZES, arrays, assert_case, at, refused, save
from msl_jax.data.case import load_all
from msl_jax.data.formats import volumes
from msl_jax.data.readers import msd
from msl_jax.errors import InputError

LABELS = {"0": "background", "1": "Anterior", "2": "Größe"}
NAMES = ("b", "a", "ü")


def index(folder, **changed):
    entries = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("._b", *NAMES)]
    contents = {"name": "Test", "modality": {"0": "MRI"}, "labels": LABELS, "training": entries, "test": ["./x.nii.gz"]}
    (folder / "dataset.json").write_text(json.dumps({k: v for k, v in (contents | changed).items() if v is not None}))


def of(name):
    image, mask, _ = arrays(name, values=(0, 1, 2))
    return image, mask


@pytest.fixture
def root(tmp_path):
    """Three cases and what macOS leaves beside them."""
    for name in NAMES:
        for folder, voxels in zip(("imagesTr", "labelsTr"), of(name), strict=True):
            save(tmp_path / folder / f"{name}.nii.gz", voxels)
            (tmp_path / folder / f"._{name}.nii.gz").write_bytes(b"Mac OS X")
    index(tmp_path)
    return tmp_path


def read(root, **known):
    return [load() for load in msd.read(at("msd", root, **known))]


def test_what_was_written_is_read_in_the_order_of_the_index(root):
    for case, name in zip(read(root), NAMES, strict=True):
        assert_case(case, name, *of(name))
        assert case.spacing == SIZES[::-1] and (case.units, case.patient, case.role) == ("mm", name, "")
    assert msd.labels(at("msd", root)) == {"Anterior": 1, "Größe": 2}


def test_an_entry_may_have_no_label(root):
    index(root, training=[{"image": "imagesTr/b.nii.gz"}, {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}])
    bare, masked = read(root)
    assert_case(bare, "b", of("b")[0])
    assert_case(masked, "a", *of("a"))


def test_a_pattern_says_whose_an_image_is(root):
    save(root / "imagesTr" / "p7_scan2.nii.gz", of("a")[0])
    index(root, training=[{"image": "imagesTr/p7_scan2.nii.gz"}])
    assert [case.patient for case in read(root, patient=r"(p\d+)_")] == ["p7"]
    refused(lambda: read(root, patient=r"(q\d+)_"), "finds nothing in 'p7_scan2'", "config.data.patient")


def test_modalities_are_channels(root):
    voxels = np.stack([of("a")[0], of("b")[0]], -1)
    save(root / "imagesTr" / "a.nii.gz", voxels)
    index(root, modality={"0": "T2", "1": "ADC"}, training=[{"image": "./imagesTr/a.nii.gz"}])
    assert_case(read(root)[0], "a", voxels)


def test_masks_may_leave_voxels_open(root):
    image, mask = of("a")
    save(root / "labelsTr" / "a.nii.gz", np.where(mask == 2, np.uint8(7), mask))
    index(root, training=[{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}])
    assert_case(read(root, unlabeled=7)[0], "a", image, np.where(mask == 2, 255, mask))


@pytest.mark.parametrize("spelled", ["imagesTr\\{}", ".\\imagesTr\\{}", "{root}/imagesTr/{}", "{root}/./imagesTr/{}"])
def test_paths_may_be_those_of_windows_or_begin_at_the_root(root, spelled):
    entries = [{"image": spelled.format(f"{name}.nii.gz", root=root)} for name in ("._b", *NAMES)]
    plain = msd.fingerprint(at("msd", root))
    index(root, training=entries)
    for case, name in zip(read(root), NAMES, strict=True):
        assert_case(case, name, of(name)[0])
    assert msd.fingerprint(at("msd", root)) != plain


def test_a_root_may_be_a_link_or_relative(root, tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(root)
    index(root, training=[{"image": f"{link}/imagesTr/a.nii.gz"}, {"image": f"{root.resolve()}/imagesTr/b.nii.gz"}])
    assert [case.name for case in read(link)] == ["a", "b"]
    monkeypatch.chdir(root.parent)
    assert [case.name for case in read(root.relative_to(root.parent))] == ["a", "b"]


def test_a_byte_order_mark_is_passed_over(root):
    (root / "dataset.json").write_bytes(b"\xef\xbb\xbf" + (root / "dataset.json").read_bytes())
    assert msd.labels(at("msd", root)) == {"Anterior": 1, "Größe": 2}


@pytest.mark.parametrize("said, remarks", [(None, 0), (3, 0), (4, 1), ("3", 1)])
def test_another_number_of_training_images_is_remarked_on(root, said, remarks):
    index(root, numTraining=said)
    sentence = f"{root / 'dataset.json'}: its numTraining is {said!r}, and it has 3 training cases."
    assert [case.remarks for case in read(root)] == [(sentence,) * remarks] * 3


def test_a_structure_may_be_255_where_open_voxels_are_not(root):
    image, mask = of("a")
    save(root / "labelsTr" / "a.nii.gz", np.where(mask == 2, np.uint8(255), np.where(mask == 1, np.uint8(7), mask)))
    index(root, labels={"255": "LV"}, training=[{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}])
    assert_case(read(root, unlabeled=7)[0], "a", image, np.where(mask == 2, 254, np.where(mask == 1, 255, mask)))
    assert msd.labels(at("msd", root, unlabeled=7)) == {"LV": 255}


def entry(image="./imagesTr/a.nii.gz", label="./labelsTr/a.nii.gz"):
    return lambda root: index(root, training=[{"image": image, "label": label}])


def mask(voxels, sizes=SIZES):
    return lambda root: save(root / "labelsTr" / "a.nii.gz", voxels, sizes)


FAULTS = {
    "no index": (lambda root: (root / "dataset.json").unlink(), "", "holds no dataset.json"),
    "no JSON": (lambda root: (root / "dataset.json").write_text("{"), "dataset.json", "is no readable JSON"),
    "a list": (lambda root: (root / "dataset.json").write_text("[]"), "dataset.json", "has no dict 'labels'"),
    "no labels": (lambda root: index(root, labels=None), "dataset.json", "has no dict 'labels'"),
    "no modality": (lambda root: index(root, modality=None), "dataset.json", "has no dict 'modality'"),
    "no training": (lambda root: index(root, training=None), "dataset.json", "has no list 'training'"),
    "empty training": (lambda root: index(root, training=[]), "dataset.json", "lists no training images"),
    "entry of text": (lambda root: index(root, training=["./a.nii.gz"]), "dataset.json", "'./a.nii.gz' is no"),
    "labels of nnU-Net": (lambda root: index(root, labels={"LV": 1}), "dataset.json", "layout=nnunet"),
    "names twice": (
        lambda root: index(root, labels={"1": "LV", "2": "LV"}),
        "dataset.json",
        "two labels have one name",
    ),
    "label 255": (
        lambda root: index(root, labels={"255": "LV"}),
        "dataset.json",
        "LV has the value 255 of pixels nobody annotated; .* --config.data.unlabeled=VALUE",
    ),
    "label 254 and 255": (
        lambda root: index(root, labels={"254": "RV", "255": "LV"}),
        "dataset.json",
        "LV has the value 255 of pixels",
    ),
    "a path upwards by backslashes": (entry("..\\a.nii.gz"), "dataset.json", "does not lie inside"),
    "a path on a drive": (entry("C:\\a.nii.gz"), "dataset.json", "does not lie inside"),
    "an absolute path that goes up": (
        lambda root: entry(f"{root}/../{root.name}/imagesTr/a.nii.gz")(root),
        "dataset.json",
        "does not lie inside",
    ),
    "a series": (
        lambda root: [
            save(root / "imagesTr/b.nii.gz", np.stack([of("b")[0]] * 2, -1)),
            entry("imagesTr/b.nii.gz")(root),
        ],
        "imagesTr/b.nii.gz",
        "has 2 channels .* names 1 modalities; correct one; if they are points in time, save each as a file",
    ),
    "background alone": (lambda root: index(root, labels={"0": "background"}), "dataset.json", "names no structure"),
    "a path upwards": (entry("../a.nii.gz"), "dataset.json", r"'\.\./a\.nii\.gz' does not lie inside"),
    "an absolute path": (entry(label="/etc/a.nii.gz"), "dataset.json", "'/etc/a.nii.gz' does not lie inside"),
    "a path that is none": (entry(label=["x"]), "dataset.json", "does not lie inside"),
    "no image": (entry("./imagesTr/c.nii.gz"), "imagesTr/c.nii.gz", "is missing, though dataset.json names it"),
    "no mask": (entry(label="./labelsTr/c.nii.gz"), "labelsTr/c.nii.gz", "is missing, though dataset.json names it"),
    "image of another format": (entry("./dataset.json"), "dataset.json", "is no file of a known format"),
    "image twice": (
        lambda root: index(root, training=[{"image": "imagesTr/a.nii.gz"}] * 2),
        "dataset.json",
        "name 'a'",
    ),
    "unknown label": (mask(of("a")[1] + 3), "labelsTr/a.nii.gz", r"unknown label values \[3, 4, 5\]"),
    "mask of another shape": (mask(of("a")[1][:2]), "labelsTr/a.nii.gz", "its grid"),
    "mask of another spacing": (mask(of("a")[1], (1, 1, 1)), "labelsTr/a.nii.gz", "its affine"),
    "modalities": (
        lambda root: index(root, modality={"0": "T2", "1": "ADC"}, training=[{"image": "imagesTr/b.nii.gz"}]),
        "imagesTr/b.nii.gz",
        "has 1 channels and dataset.json names 2 modalities; correct one\\.$",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_data_set_is_refused_and_the_file_named(root, fault):
    spoil, file, says = FAULTS[fault]
    spoil(root)
    refused(lambda: read(root), says, root / file)


def test_every_missing_file_is_named(root):
    names = ("imagesTr/c.nii.gz", "labelsTr/d.nii.gz")
    index(root, training=[{"image": names[0]}, {"image": "imagesTr/a.nii.gz", "label": names[1]}])
    with pytest.raises(InputError) as refusal:
        read(root)
    assert [line.split(": ")[0] for line in str(refusal.value).splitlines()] == [str(root / name) for name in names]


def test_labels_may_not_have_the_value_that_leaves_voxels_open(root):
    refused(lambda: read(root, unlabeled=2), "Größe has the value 2 of pixels nobody annotated", root / "dataset.json")


@pytest.mark.parametrize("ask", [msd.labels, msd.fingerprint, lambda source: [load() for load in msd.read(source)]])
def test_what_is_no_folder_is_refused(tmp_path, ask):
    refused(lambda: ask(at("msd", tmp_path / "none")), "no such folder", tmp_path / "none")


def test_the_fingerprint_sees_every_file_read_and_no_other(root):
    prints = [msd.fingerprint(at("msd", root))]
    (root / "imagesTr" / "other.nii.gz").touch()
    assert msd.fingerprint(at("msd", root)) == prints[0]
    for path in (root / "imagesTr" / "a.nii.gz", root / "labelsTr" / "a.nii.gz", root / "dataset.json"):
        path.write_bytes(path.read_bytes() + b" ")
        prints.append(msd.fingerprint(at("msd", root)))
    assert len(set(prints)) == 4


def test_images_to_predict_are_those_outside_of_masks(root):
    assert list(msd.images(root)) == ["imagesTr/a", "imagesTr/b", "imagesTr/ü"]
    assert list(msd.images(root / "imagesTr")) == ["a", "b", "ü"]


def test_the_real_data(hippocampus_folder):
    source = at("msd", hippocampus_folder)
    assert msd.labels(source) == {"Anterior": 1, "Posterior": 2}
    assert len(msd.fingerprint(source)) == 64
    for name, case in zip(("001", "003", "006"), load_all(msd.read(source)), strict=False):
        image, labels = (
            nib.load(hippocampus_folder / folder / f"hippocampus_{name}.nii.gz") for folder in ("imagesTr", "labelsTr")
        )
        assert_case(case, f"hippocampus_{name}", image.get_fdata(dtype=np.float32).T, np.asarray(labels.dataobj).T)
        assert case.spacing == (1, 1, 1) and case.units == "mm" and set(np.unique(case.mask)) == {0, 1, 2}
        again = volumes.read_image(hippocampus_folder / "imagesTr" / f"hippocampus_{name}.nii.gz")
        np.testing.assert_array_equal(again.affine, image.affine)
