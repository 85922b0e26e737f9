import json

import nibabel as nib
import numpy as np
import pytest

from files import SIZES, arrays, assert_case, assert_input_error, at, save
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
    """Three cases and files that macOS adds."""
    for name in NAMES:
        for folder, voxels in zip(("imagesTr", "labelsTr"), of(name), strict=True):
            save(tmp_path / folder / f"{name}.nii.gz", voxels)
            (tmp_path / folder / f"._{name}.nii.gz").write_bytes(b"Mac OS X")
    index(tmp_path)
    return tmp_path


def read(root, **settings):
    return [load() for load in msd.read(at("msd", root, **settings))]


def test_written_cases_are_read_in_the_order_of_the_index(root):
    for case, name in zip(read(root), NAMES, strict=True):
        assert_case(case, name, *of(name))
        assert case.spacing == SIZES[::-1] and (case.units, case.patient, case.role) == ("mm", name, "")
    assert msd.labels(at("msd", root)) == {"Anterior": 1, "Größe": 2}
    assert msd.READER.modalities(at("msd", root)) == ["MRI"]


def test_an_entry_may_have_no_label(root):
    index(root, training=[{"image": "imagesTr/b.nii.gz"}, {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}])
    unmasked, masked = read(root)
    assert_case(unmasked, "b", of("b")[0])
    assert_case(masked, "a", *of("a"))


def test_a_pattern_maps_cases_to_patients(root):
    save(root / "imagesTr" / "p7_scan2.nii.gz", of("a")[0])
    index(root, training=[{"image": "imagesTr/p7_scan2.nii.gz"}])
    assert [case.patient for case in read(root, patient=r"(p\d+)_")] == ["p7"]
    assert_input_error(lambda: read(root, patient=r"(q\d+)_"), "finds nothing in 'p7_scan2'", "config.data.patient")


def test_modalities_are_channels(root):
    voxels = np.stack([of("a")[0], of("b")[0]], -1)
    save(root / "imagesTr" / "a.nii.gz", voxels)
    index(root, modality={"0": "T2", "1": "ADC"}, training=[{"image": "./imagesTr/a.nii.gz"}])
    assert_case(read(root)[0], "a", voxels)


def test_masks_may_have_unlabelled_voxels(root):
    image, mask = of("a")
    save(root / "labelsTr" / "a.nii.gz", np.where(mask == 2, np.uint8(7), mask))
    index(root, training=[{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}])
    assert_case(read(root, unlabeled=7)[0], "a", image, np.where(mask == 2, 255, mask))


@pytest.mark.parametrize("pattern", ["imagesTr\\{}", ".\\imagesTr\\{}", "{root}/imagesTr/{}", "{root}/./imagesTr/{}"])
def test_paths_may_be_of_windows_or_absolute(root, pattern):
    entries = [{"image": pattern.format(f"{name}.nii.gz", root=root)} for name in ("._b", *NAMES)]
    plain = msd.fingerprint(at("msd", root))
    index(root, training=entries)
    for case, name in zip(read(root), NAMES, strict=True):
        assert_case(case, name, of(name)[0])
    assert msd.fingerprint(at("msd", root)) != plain


def test_the_source_may_be_a_link_or_relative(root, tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(root)
    index(root, training=[{"image": f"{link}/imagesTr/a.nii.gz"}, {"image": f"{root.resolve()}/imagesTr/b.nii.gz"}])
    assert [case.name for case in read(link)] == ["a", "b"]
    monkeypatch.chdir(root.parent)
    assert [case.name for case in read(root.relative_to(root.parent))] == ["a", "b"]


def test_a_byte_order_mark_is_ignored(root):
    (root / "dataset.json").write_bytes(b"\xef\xbb\xbf" + (root / "dataset.json").read_bytes())
    assert msd.labels(at("msd", root)) == {"Anterior": 1, "Größe": 2}


@pytest.mark.parametrize("count, remarks", [(None, 0), (3, 0), (4, 1), ("3", 1)])
def test_another_number_of_training_images_gives_a_remark(root, count, remarks):
    index(root, numTraining=count)
    remark = f"{root / 'dataset.json'}: its numTraining is {count!r}, but it has 3 training cases."
    assert [case.remarks for case in read(root)] == [(remark,) * remarks] * 3


def test_a_structure_may_be_255_if_unlabelled_voxels_are_not(root):
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
    "no index": (lambda root: (root / "dataset.json").unlink(), "", "contains no dataset.json"),
    "no JSON": (lambda root: (root / "dataset.json").write_text("{"), "dataset.json", "is not a readable JSON"),
    "a list": (lambda root: (root / "dataset.json").write_text("[]"), "dataset.json", "has no dict 'labels'"),
    "no labels": (lambda root: index(root, labels=None), "dataset.json", "has no dict 'labels'"),
    "no modality": (lambda root: index(root, modality=None), "dataset.json", "has no dict 'modality'"),
    "no training": (lambda root: index(root, training=None), "dataset.json", "has no list 'training'"),
    "empty training": (lambda root: index(root, training=[]), "dataset.json", "lists no training images"),
    "entry of text": (lambda root: index(root, training=["./a.nii.gz"]), "dataset.json", "'./a.nii.gz' is not"),
    "labels of nnU-Net": (lambda root: index(root, labels={"LV": 1}), "dataset.json", "layout=nnunet"),
    "duplicate names": (
        lambda root: index(root, labels={"1": "LV", "2": "LV"}),
        "dataset.json",
        "two labels have the same name",
    ),
    "label 255": (
        lambda root: index(root, labels={"255": "LV"}),
        "dataset.json",
        "LV has the value 255 of unlabelled pixels; .* --config.data.unlabeled=VALUE",
    ),
    "label 254 and 255": (
        lambda root: index(root, labels={"254": "RV", "255": "LV"}),
        "dataset.json",
        "LV has the value 255 of unlabelled",
    ),
    "a parent path with backslashes": (entry("..\\a.nii.gz"), "dataset.json", "is outside of this folder"),
    "a path on a drive": (entry("C:\\a.nii.gz"), "dataset.json", "is outside of this folder"),
    "an absolute path that goes up": (
        lambda root: entry(f"{root}/../{root.name}/imagesTr/a.nii.gz")(root),
        "dataset.json",
        "is outside of this folder",
    ),
    "a series": (
        lambda root: [
            save(root / "imagesTr/b.nii.gz", np.stack([of("b")[0]] * 2, -1)),
            entry("imagesTr/b.nii.gz")(root),
        ],
        "imagesTr/b.nii.gz",
        "has 2 channels, but dataset.json lists 1 modalities; correct one; if they are time points, save",
    ),
    "only background": (lambda root: index(root, labels={"0": "background"}), "dataset.json", "names no structure"),
    "a parent path": (entry("../a.nii.gz"), "dataset.json", r"'\.\./a\.nii\.gz' is outside of this folder"),
    "an absolute path": (entry(label="/etc/a.nii.gz"), "dataset.json", "'/etc/a.nii.gz' is outside of this folder"),
    "a path of another type": (entry(label=["x"]), "dataset.json", "is outside of this folder"),
    "no image": (entry("./imagesTr/c.nii.gz"), "imagesTr/c.nii.gz", "is missing, but dataset.json lists it"),
    "no mask": (entry(label="./labelsTr/c.nii.gz"), "labelsTr/c.nii.gz", "is missing, but dataset.json lists it"),
    "image of another format": (entry("./dataset.json"), "dataset.json", "is not a file of a known format"),
    "duplicate image": (
        lambda root: index(root, training=[{"image": "imagesTr/a.nii.gz"}] * 2),
        "dataset.json",
        "named 'a'",
    ),
    "unknown label": (mask(of("a")[1] + 3), "labelsTr/a.nii.gz", r"unknown label values \[3, 4, 5\]"),
    "mask of another shape": (mask(of("a")[1][:2]), "labelsTr/a.nii.gz", "its grid"),
    "mask of another spacing": (mask(of("a")[1], (1, 1, 1)), "labelsTr/a.nii.gz", "its affine"),
    "modalities": (
        lambda root: index(root, modality={"0": "T2", "1": "ADC"}, training=[{"image": "imagesTr/b.nii.gz"}]),
        "imagesTr/b.nii.gz",
        "has 1 channels, but dataset.json lists 2 modalities; correct one\\.$",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_invalid_data_set_is_an_error_that_names_the_file(root, fault):
    spoil, file, message = FAULTS[fault]
    spoil(root)
    assert_input_error(lambda: read(root), message, root / file)


def test_all_missing_files_are_listed(root):
    names = ("imagesTr/c.nii.gz", "labelsTr/d.nii.gz")
    index(root, training=[{"image": names[0]}, {"image": "imagesTr/a.nii.gz", "label": names[1]}])
    with pytest.raises(InputError) as error:
        read(root)
    assert [line.split(": ")[0] for line in str(error.value).splitlines()] == [str(root / name) for name in names]


def test_labels_may_not_have_the_value_of_unlabelled_voxels(root):
    assert_input_error(
        lambda: read(root, unlabeled=2), "Größe has the value 2 of unlabelled pixels", root / "dataset.json"
    )


@pytest.mark.parametrize("call", [msd.labels, msd.fingerprint, lambda source: [load() for load in msd.read(source)]])
def test_a_missing_folder_is_an_error(tmp_path, call):
    assert_input_error(lambda: call(at("msd", tmp_path / "none")), "no such folder", tmp_path / "none")


def test_the_fingerprint_depends_only_on_files_that_are_read(root):
    prints = [msd.fingerprint(at("msd", root))]
    (root / "imagesTr" / "other.nii.gz").touch()
    assert msd.fingerprint(at("msd", root)) == prints[0]
    for path in (root / "imagesTr" / "a.nii.gz", root / "labelsTr" / "a.nii.gz", root / "dataset.json"):
        path.write_bytes(path.read_bytes() + b" ")
        prints.append(msd.fingerprint(at("msd", root)))
    assert len(set(prints)) == 4


def test_images_to_predict_exclude_masks(root):
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
        volume = volumes.read_image(hippocampus_folder / "imagesTr" / f"hippocampus_{name}.nii.gz")
        np.testing.assert_array_equal(volume.affine, image.affine)
