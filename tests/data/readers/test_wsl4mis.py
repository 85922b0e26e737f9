import sys

import h5py
import numpy as np
import pytest

from files import arrays, assert_case, at, refused
from msl_jax.data.readers import wsl4mis

NAMES = ("patient001_frame01", "patient001_frame12", "patient002_frame01", "ü")


def of(name):
    """Image in [0, 1], mask and scribble as WSL4MIS stores them: 4 is open."""
    image, mask, scribble = arrays(name, unlabeled=4)
    return image.astype(np.float32) / 900, mask, scribble


def save(path, **named):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, voxels in named.items():
            file.create_dataset(key, data=voxels, compression="gzip")


@pytest.fixture
def root(tmp_path):
    """Four volumes, the third without a scribble and the last bare, and slices that are not read."""
    for name in NAMES:
        kept = zip(("image", "label", "scribble")[: {NAMES[2]: 2, NAMES[3]: 1}.get(name, 3)], of(name), strict=False)
        save(tmp_path / "ACDC_training_volumes" / f"{name}.h5", **dict(kept))
    save(tmp_path / "ACDC_training_slices" / "patient001_frame01_slice_0.h5", image=of(NAMES[0])[0][0])
    return tmp_path


def read(root, **known):
    return [load() for load in wsl4mis.read(at("wsl4mis", root, **known))]


def test_what_was_written_is_read_in_the_order_of_the_names(root):
    first, second, third, last = cases = read(root)
    for case, name in ((first, NAMES[0]), (second, NAMES[1])):
        image, mask, scribble = of(name)
        assert_case(case, name, image, mask, np.where(scribble == 4, 255, scribble))
    assert_case(third, NAMES[2], *of(NAMES[2])[:2])
    assert_case(last, "ü", of("ü")[0])
    assert [(case.patient, case.frame) for case in cases] == [
        ("patient001", 1),
        ("patient001", 12),
        ("patient002", 1),
        ("ü", 0),
    ]
    assert {(case.spacing, case.units, case.role) for case in cases} == {((1, 1, 1), "voxel", "")}
    assert wsl4mis.labels(at("wsl4mis", root)) == {"RV": 1, "MYO": 2, "LV": 3}


def test_the_folder_of_volumes_itself_is_as_good(root):
    itself = root / "ACDC_training_volumes"
    assert [case.name for case in read(itself)] == list(NAMES)
    assert wsl4mis.fingerprint(at("wsl4mis", itself)) == wsl4mis.fingerprint(at("wsl4mis", root))


def test_a_pattern_says_whose_a_volume_is(root):
    assert [case.patient for case in read(root, patient="(frame..|ü)")] == ["frame01", "frame12", "frame01", "ü"]


def one(root, **named):
    """The folder with this volume alone."""
    save(root / "one" / "a.h5", **named)
    return root / "one"


@pytest.mark.parametrize("value, known", [(255, {}), (4, {}), (9, {"unlabeled": 9}), (4, {"unlabeled": 4})])
def test_the_open_value_is_4_or_what_is_told(root, value, known):
    image, mask, scribble = of("a")
    folder = one(root, image=image, label=mask, scribble=np.where(scribble == 4, value, scribble))
    assert_case(read(folder, **known)[0], "a", image, mask, np.where(scribble == 4, 255, scribble))


def test_where_4_is_a_structure_it_is_not_open(root):
    labels = {"one": 1, "two": 2, "three": 3, "four": 4}
    image, _, scribble = of("a")
    drawn = np.where(scribble == 0, np.uint8(255), scribble)
    assert_case(read(one(root, image=image, scribble=drawn), labels=labels)[0], "a", image, None, drawn)
    says = r"its scribble leaves no voxel open by the value 255; .* --config\.data\.unlabeled=VALUE"
    refused(lambda: read(one(root, image=image, scribble=scribble), labels=labels), says, root / "one" / "a.h5")


def test_labels_may_be_others_and_4_is_not_open_in_masks(root):
    image, mask, _ = of("a")
    assert wsl4mis.labels(at("wsl4mis", root, labels={"LA": 5})) == {"LA": 5}
    assert_case(read(one(root, image=image, label=5 * (mask == 1)), labels={"LA": 5})[0], "a", image, 5 * (mask == 1))
    refused(lambda: read(one(root, image=image, label=4 * (mask == 1))), r"unknown label values \[4\]", root / "one")
    refused(lambda: read(root, labels={"LA": 4}, unlabeled=4), "LA has the value 4 of pixels", "config.data.labels")


def elsewhere(path):
    save(path.with_name(".other"), image=of("a")[0])


def linked(link):
    def make(path):
        elsewhere(path)
        with h5py.File(path, "w") as file:
            file["image"] = link

    return make


def external(path):
    path.with_name(".raw").write_bytes(of("a")[0].tobytes())
    with h5py.File(path, "w") as file:
        file.create_dataset("image", (3, 6, 7), np.float32, external=[(path.with_name(".raw"), 0, 504)])


def virtual(path):
    elsewhere(path)
    layout = h5py.VirtualLayout((3, 6, 7), np.float32)
    layout[...] = h5py.VirtualSource(path.with_name(".other"), "image", (3, 6, 7))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("image", layout)


def group(path):
    with h5py.File(path, "w") as file:
        file.create_group("image")


def huge(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("image", (30000,) * 3, np.float32, chunks=(1, 100, 100), compression="gzip")


def flipped(path):
    contents = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        at = file["image"].id.get_chunk_info(0)
    contents[at.byte_offset + at.size // 2] ^= 1
    path.write_bytes(contents)


def voxels(**changed):
    image, mask, scribble = of("a")
    return lambda path: save(path, **({"image": image, "label": mask, "scribble": scribble} | changed))


IMAGE, MASK, _ = of("a")
FAULTS = {
    "no HDF5": (lambda path: path.write_bytes(b"text" * 99), "is no readable HDF5 file"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-40]), "is no readable HDF5 file"),
    "checksum": (flipped, "is no readable HDF5 file"),
    "no image": (lambda path: save(path, label=MASK), "has no 'image'"),
    "a group": (group, "its 'image' is no array of its own or lies in another file"),
    "external link": (linked(h5py.ExternalLink(".other", "image")), "lies in another file"),
    "link to nowhere": (linked(h5py.SoftLink("/nothing")), "lies in another file"),
    "external storage": (external, "lies in another file"),
    "virtual": (virtual, "lies in another file"),
    "terabytes": (huge, "promises 108000000000000 bytes"),
    "a slice": (voxels(image=IMAGE[0]), r"'image' has type float32 and shape \(6, 7\)"),
    "text": (voxels(label=np.full((3, 6, 7), b"LV")), r"'label' has type \|S2 and shape"),
    "complex": (voxels(image=IMAGE.astype(np.complex64)), "'image' has type complex64"),
    "NaN": (voxels(image=IMAGE * np.nan), "NaN or infinite"),
    "constant image": (voxels(image=0 * IMAGE), "every voxel has the same value"),
    "label of another shape": (voxels(label=MASK[:2]), "its grid"),
    "scribble of another shape": (voxels(scribble=MASK[:, :5]), "its grid"),
    "unknown label": (voxels(label=MASK + 3), r"unknown label values \[4, 5, 6\]; known are \[0, 1, 2, 3, 255\]"),
    "unknown scribble": (voxels(scribble=MASK + 5), r"unknown label values \[5, 6, 7, 8\]; known are .* 4, 255\]"),
    "half a label": (voxels(label=MASK / 2), "whole numbers from 0 to 255"),
    "no scribble at all": (voxels(scribble=MASK), "leaves no voxel open"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_refused_by_name(root, fault):
    spoil, says = FAULTS[fault]
    path = root / "ACDC_training_volumes" / "patient001_frame12.h5"
    spoil(path)
    refused(lambda: read(root), says, path)


@pytest.mark.parametrize("folder, says", [("none", "no such folder"), ("empty", "holds no files that end in .h5")])
def test_what_holds_no_volumes_is_refused(root, folder, says):
    (root / "empty").mkdir()
    refused(lambda: wsl4mis.fingerprint(at("wsl4mis", root / folder)), says, root / folder)


def test_a_file_of_another_kind_is_refused(root):
    path = root / "ACDC_training_volumes" / "list.npy"
    path.touch()
    refused(lambda: read(root), "is no file that ends in .h5", path)


def test_the_fingerprint_sees_every_file(root):
    prints = [wsl4mis.fingerprint(at("wsl4mis", root))]
    path = root / "ACDC_training_volumes" / "ü.h5"
    path.write_bytes(path.read_bytes() + b" ")
    prints.append(wsl4mis.fingerprint(at("wsl4mis", root)))
    path.rename(path.with_name("v.h5"))
    assert len({*prints, wsl4mis.fingerprint(at("wsl4mis", root))}) == 3


def test_without_h5py_its_files_are_refused(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    path = root / "ACDC_training_volumes" / "patient001_frame01.h5"
    refused(lambda: read(root), r"needs h5py; install it with pip install 'msl_jax\[wsl4mis\]'\.$", path)
