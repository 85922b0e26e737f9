import sys

import h5py
import numpy as np
import pytest

from files import arrays, assert_case, assert_input_error, at
from msl_jax.data.readers import wsl4mis

NAMES = ("patient001_frame01", "patient001_frame12", "patient002_frame01", "ü")


def of(name):
    """Image in [0, 1], mask and scribble as stored by WSL4MIS: unlabelled voxels are 4."""
    image, mask, scribble = arrays(name, unlabeled=4)
    return image.astype(np.float32) / 900, mask, scribble


def save(path, **named):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, voxels in named.items():
            file.create_dataset(key, data=voxels, compression="gzip")


@pytest.fixture
def root(tmp_path):
    """Four volumes, the third without a scribble, the last with neither, and slices that are not read."""
    for name in NAMES:
        kept = zip(("image", "label", "scribble")[: {NAMES[2]: 2, NAMES[3]: 1}.get(name, 3)], of(name), strict=False)
        save(tmp_path / "ACDC_training_volumes" / f"{name}.h5", **dict(kept))
    save(tmp_path / "ACDC_training_slices" / "patient001_frame01_slice_0.h5", image=of(NAMES[0])[0][0])
    return tmp_path


def read(root, **settings):
    return [load() for load in wsl4mis.read(at("wsl4mis", root, **settings))]


def test_written_volumes_are_read_in_the_order_of_names(root):
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


def test_the_source_may_be_the_folder_of_volumes(root):
    folder = root / "ACDC_training_volumes"
    assert [case.name for case in read(folder)] == list(NAMES)
    assert wsl4mis.fingerprint(at("wsl4mis", folder)) == wsl4mis.fingerprint(at("wsl4mis", root))


def test_a_pattern_maps_cases_to_patients(root):
    assert [case.patient for case in read(root, patient="(frame..|ü)")] == ["frame01", "frame12", "frame01", "ü"]


def one(root, **named):
    """A folder with only this volume."""
    save(root / "one" / "a.h5", **named)
    return root / "one"


@pytest.mark.parametrize("value, settings", [(255, {}), (4, {}), (9, {"unlabeled": 9}), (4, {"unlabeled": 4})])
def test_the_unlabelled_value_is_4_or_configured(root, value, settings):
    image, mask, scribble = of("a")
    folder = one(root, image=image, label=mask, scribble=np.where(scribble == 4, value, scribble))
    assert_case(read(folder, **settings)[0], "a", image, mask, np.where(scribble == 4, 255, scribble))


def test_4_is_not_unlabelled_if_it_is_a_structure(root):
    labels = {"one": 1, "two": 2, "three": 3, "four": 4}
    image, _, scribble = of("a")
    stored = np.where(scribble == 0, np.uint8(255), scribble)
    assert_case(read(one(root, image=image, scribble=stored), labels=labels)[0], "a", image, None, stored)
    message = r"no voxel of its scribble has the value 255 of unlabelled voxels; .* --config\.data\.unlabeled=VALUE"
    assert_input_error(
        lambda: read(one(root, image=image, scribble=scribble), labels=labels), message, root / "one" / "a.h5"
    )


def test_labels_may_differ_and_4_is_not_unlabelled_in_masks(root):
    image, mask, _ = of("a")
    assert wsl4mis.labels(at("wsl4mis", root, labels={"LA": 5})) == {"LA": 5}
    assert_case(read(one(root, image=image, label=5 * (mask == 1)), labels={"LA": 5})[0], "a", image, 5 * (mask == 1))
    assert_input_error(
        lambda: read(one(root, image=image, label=4 * (mask == 1))), r"unknown label values \[4\]", root / "one"
    )
    assert_input_error(
        lambda: read(root, labels={"LA": 4}, unlabeled=4), "LA has the value 4 of unlabelled", "config.data.labels"
    )


def save_other(path):
    save(path.with_name(".other"), image=of("a")[0])


def linked(link):
    def write(path):
        save_other(path)
        with h5py.File(path, "w") as file:
            file["image"] = link

    return write


def external(path):
    path.with_name(".raw").write_bytes(of("a")[0].tobytes())
    with h5py.File(path, "w") as file:
        file.create_dataset("image", (3, 6, 7), np.float32, external=[(path.with_name(".raw"), 0, 504)])


def virtual(path):
    save_other(path)
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
        chunk = file["image"].id.get_chunk_info(0)
    contents[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(contents)


def voxels(**changed):
    image, mask, scribble = of("a")
    return lambda path: save(path, **({"image": image, "label": mask, "scribble": scribble} | changed))


IMAGE, MASK, _ = of("a")
FAULTS = {
    "not HDF5": (lambda path: path.write_bytes(b"text" * 99), "is not a readable HDF5 file"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-40]), "is not a readable HDF5 file"),
    "checksum": (flipped, "is not a readable HDF5 file"),
    "no image": (lambda path: save(path, label=MASK), "has no 'image'"),
    "a group": (group, "its 'image' is not an array stored in this file"),
    "external link": (linked(h5py.ExternalLink(".other", "image")), "is not an array stored in this file"),
    "link to nowhere": (linked(h5py.SoftLink("/nothing")), "is not an array stored in this file"),
    "external storage": (external, "is not an array stored in this file"),
    "virtual": (virtual, "is not an array stored in this file"),
    "terabytes": (huge, "declares 108000000000000 bytes"),
    "a slice": (voxels(image=IMAGE[0]), r"'image' has type float32 and shape \(6, 7\)"),
    "text": (voxels(label=np.full((3, 6, 7), b"LV")), r"'label' has type \|S2 and shape"),
    "complex": (voxels(image=IMAGE.astype(np.complex64)), "'image' has type complex64"),
    "NaN": (voxels(image=IMAGE * np.nan), "NaN or infinite"),
    "constant image": (voxels(image=0 * IMAGE), "every voxel has the same value"),
    "label of another shape": (voxels(label=MASK[:2]), "its grid"),
    "scribble of another shape": (voxels(scribble=MASK[:, :5]), "its grid"),
    "unknown label": (voxels(label=MASK + 3), r"unknown label values \[4, 5, 6\], not among \[0, 1, 2, 3, 255\]"),
    "unknown scribble": (voxels(scribble=MASK + 5), r"unknown label values \[5, 6, 7, 8\], not among .* 4, 255\]"),
    "fractional label": (voxels(label=MASK / 2), "whole numbers from 0 to 255"),
    "no unlabelled voxel": (voxels(scribble=MASK), "no voxel of its scribble has the value"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_invalid_file_is_an_error_that_names_it(root, fault):
    spoil, message = FAULTS[fault]
    path = root / "ACDC_training_volumes" / "patient001_frame12.h5"
    spoil(path)
    assert_input_error(lambda: read(root), message, path)


@pytest.mark.parametrize(
    "folder, message", [("none", "no such folder"), ("empty", "contains no files that end in .h5")]
)
def test_folders_without_volumes_are_errors(root, folder, message):
    (root / "empty").mkdir()
    assert_input_error(lambda: wsl4mis.fingerprint(at("wsl4mis", root / folder)), message, root / folder)


def test_a_file_with_another_ending_is_an_error(root):
    path = root / "ACDC_training_volumes" / "list.npy"
    path.touch()
    assert_input_error(lambda: read(root), "is not a file that ends in .h5", path)


def test_the_fingerprint_depends_on_every_file(root):
    prints = [wsl4mis.fingerprint(at("wsl4mis", root))]
    path = root / "ACDC_training_volumes" / "ü.h5"
    path.write_bytes(path.read_bytes() + b" ")
    prints.append(wsl4mis.fingerprint(at("wsl4mis", root)))
    path.rename(path.with_name("v.h5"))
    assert len({*prints, wsl4mis.fingerprint(at("wsl4mis", root))}) == 3


def test_without_h5py_the_message_gives_the_install_command(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    path = root / "ACDC_training_volumes" / "patient001_frame01.h5"
    assert_input_error(lambda: read(root), r"needs h5py; install it with pip install 'msl_jax\[wsl4mis\]'\.$", path)
