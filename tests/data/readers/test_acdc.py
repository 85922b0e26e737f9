import dataclasses
import os
import shutil

import nibabel as nib
import numpy as np
import pytest

from files import at
from msl_jax.data.case import load_all
from msl_jax.data.readers import acdc
from msl_jax.errors import InputError
from msl_jax.labels import UNLABELED

SHAPE = (7, 6, 3)
SIZES = (1.5625, 1.5625, 10)
FRAMES = {"ED": 1, "ES": 12}


def save(path, voxels, sizes=SIZES, units="mm"):
    image = nib.Nifti1Image(voxels, np.diag([*sizes, 1]))
    image.header.set_xyzt_units(units)
    nib.save(image, path)


def read(folder):
    return [load() for load in acdc.read(at("acdc", folder))]


def fingerprint(folder):
    return acdc.fingerprint(at("acdc", folder))


def voxels(name):
    """Image, mask and scribble (x, y, slice), different for each frame's name."""
    rng = np.random.default_rng(list(name.encode()))
    image = rng.integers(0, 900, SHAPE, np.int16)
    mask = rng.integers(0, 3, SHAPE, np.uint8, endpoint=True)
    return image, mask, np.where(rng.random(SHAPE) < 0.8, np.uint8(4), mask)


def make_patient(training, patient, group, *, scribbles):
    """One patient's folder as in the challenge's archive."""
    folder = training / patient
    folder.mkdir(parents=True)
    info = {**FRAMES, "Group": group, "Height": "184.0", "NbFrame": 30, "Weight": "95.0"}
    (folder / "Info.cfg").write_text("".join(f"{key}: {value}\n" for key, value in info.items()))
    save(folder / f"{patient}_4d.nii.gz", np.zeros((*SHAPE, 2), np.int16), (*SIZES[:2], 10))
    for frame in FRAMES.values():
        image, mask, scribble = voxels(f"{patient}_frame{frame:02d}")
        save(folder / f"{patient}_frame{frame:02d}.nii.gz", image)
        save(folder / f"{patient}_frame{frame:02d}_gt.nii.gz", mask)
        if scribbles:
            save(folder / f"{patient}_frame{frame:02d}_scribble.nii.gz", scribble)
    return folder


@pytest.fixture
def source(tmp_path):
    """Two patients, the second with scribbles."""
    make_patient(tmp_path / "acdc" / "training", "patient002", "NOR", scribbles=True)
    make_patient(tmp_path / "acdc" / "training", "patient001", "DCM", scribbles=False)
    (tmp_path / "acdc" / "testing").mkdir()
    return tmp_path / "acdc"


def test_both_frames_of_every_patient_are_read_in_order(source):
    cases = read(source)
    assert [(c.name, c.patient, c.group, c.phase, c.frame) for c in cases] == [
        ("patient001_frame01", "patient001", "DCM", "ED", 1),
        ("patient001_frame12", "patient001", "DCM", "ES", 12),
        ("patient002_frame01", "patient002", "NOR", "ED", 1),
        ("patient002_frame12", "patient002", "NOR", "ES", 12),
    ]
    for case in cases:
        image, mask, scribble = (array.transpose(2, 1, 0) for array in voxels(case.name))
        assert case.image.dtype == np.float32 and case.mask.dtype == np.uint8
        np.testing.assert_array_equal(case.image[..., 0], image)
        np.testing.assert_array_equal(case.mask, mask)
        assert case.spacing == (10, 1.5625, 1.5625) and case.units == "mm"
        if case.patient == "patient002":
            assert case.annotation.dtype == np.uint8
            np.testing.assert_array_equal(case.annotation == UNLABELED, scribble == 4)
            labelled = scribble != 4
            np.testing.assert_array_equal(case.annotation[labelled], scribble[labelled])
        else:
            assert case.annotation is None


def test_the_source_is_training_or_the_folder_above(source):
    above, itself = read(source), read(source / "training")
    assert len(above) == len(itself) == 4
    for a, b in zip(above, itself, strict=True):
        for x, y in zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True):
            np.testing.assert_array_equal(x, y)
    assert fingerprint(source) == fingerprint(str(source / "training"))


def test_the_source_may_begin_with_a_tilde(source, monkeypatch):
    monkeypatch.setenv("HOME", str(source.parent))
    assert fingerprint("~/acdc") == fingerprint(source)


@pytest.mark.parametrize(
    "name",
    ["Info.cfg", "patient002_frame01.nii.gz", "patient002_frame12_gt.nii.gz", "patient002_frame01_scribble.nii.gz"],
)
def test_the_fingerprint_depends_on_every_byte_and_every_file(source, name):
    before = fingerprint(source)
    path = source / "training" / "patient002" / name
    contents = path.read_bytes()
    path.write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
    changed = fingerprint(source)
    path.unlink()
    assert len({before, changed, fingerprint(source)}) == 3
    path.write_bytes(contents)
    assert fingerprint(source) == before


def test_the_fingerprint_ignores_location_time_and_the_unused_series(source, tmp_path):
    before = fingerprint(source)
    shutil.copytree(source, tmp_path / "elsewhere")
    assert fingerprint(tmp_path / "elsewhere") == before
    for path in source.rglob("*.nii.gz"):
        os.utime(path, (0, 0))
    (source / "training" / "patient001" / "patient001_4d.nii.gz").unlink()
    assert fingerprint(source) == before


@pytest.mark.parametrize("start", [b"Name: J\xfcrgen\r\n", b"\xef\xbb\xbf"])
def test_info_may_have_any_bytes_and_line_ends(source, start):
    path = source / "training" / "patient001" / "Info.cfg"
    path.write_bytes(start + b"ED: 1\r\nES:12\r\nGroup : DCM \r\n")
    assert [case.group for case in read(source)][:2] == ["DCM", "DCM"]


def info(text):
    return lambda folder: (folder / "Info.cfg").write_text(text)


def without(name):
    return lambda folder: (folder / name).unlink()


def replaced(name, array, sizes=SIZES):
    return lambda folder: save(folder / name, array, sizes)


IMAGE, MASK, SCRIBBLE = (f"patient002_frame01{end}.nii.gz" for end in ("", "_gt", "_scribble"))
ZEROS = np.zeros(SHAPE, np.uint8)
FAULTS = {
    "no Info.cfg": (without("Info.cfg"), r"patient002: contains no Info\.cfg"),
    "two of them": (
        lambda folder: shutil.copy(folder / "Info.cfg", folder / "Info (1).cfg"),
        r"Info \(1\)\.cfg and Info",
    ),
    "no ES": (info("ED: 1\nGroup: NOR\n"), r"Info\.cfg: has no lines 'ES: "),
    "two ES": (info("ED: 1\nES: 12\nES: 13\nGroup: NOR\n"), r"Info\.cfg: has 2 lines 'ES: "),
    "no Group": (info("ED: 1\nES: 12\nGroup:\n"), r"Info\.cfg: has no lines 'Group: "),
    "one frame": (info("ED: 1\nES: 01\nGroup: NOR\n"), r"Info\.cfg: ED and ES are both frame 1"),
    "frame is not a number": (info("ED: one\nES: 12\nGroup: NOR\n"), r"Info\.cfg: ED is 'one'"),
    "frame is negative": (info("ED: -1\nES: 12\nGroup: NOR\n"), r"Info\.cfg: ED is '-1'"),
    "frame without an image": (info("ED: 1\nES: 13\nGroup: NOR\n"), r"patient002_frame13\.nii\.gz: is missing"),
    "no image": (without(IMAGE), rf"{IMAGE}: is missing"),
    "no mask": (without(MASK), rf"{MASK}: is missing"),
    "mask of other shape": (replaced(MASK, ZEROS[:, :, :2]), rf"{MASK}: its grid"),
    "mask of other spacing": (replaced(MASK, ZEROS, (1.5, 1.5, 10)), rf"{MASK}: its affine"),
    "unknown label": (replaced(MASK, ZEROS + 4), rf"{MASK}: has the unknown label values \[4\]"),
    "scribble of other shape": (replaced(SCRIBBLE, ZEROS[:6]), rf"{SCRIBBLE}: its grid"),
    "unknown scribble": (replaced(SCRIBBLE, ZEROS + 5), rf"{SCRIBBLE}: has the unknown label values \[5\]"),
    "scribble of 255": (replaced(SCRIBBLE, ZEROS + 255), rf"{SCRIBBLE}: has the unknown label values \[255\]"),
    "constant image": (replaced(IMAGE, ZEROS + 7), rf"{IMAGE}: every voxel has the same value"),
    "image with channels": (
        replaced(IMAGE, np.moveaxis(np.indices(SHAPE, np.int16), 0, -1)),
        f"{IMAGE}: has 3 channels",
    ),
    "damaged image": (lambda folder: (folder / IMAGE).write_bytes(b"\x1f\x8b"), rf"{IMAGE}: cannot be read"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_invalid_patient_is_an_error_that_names_the_file(source, fault):
    spoil, message = FAULTS[fault]
    spoil(source / "training" / "patient002")
    with pytest.raises(InputError, match=message) as error:
        read(source)
    assert str(error.value).startswith(str(source)) and "\n" not in str(error.value)


@pytest.mark.parametrize("call", [fingerprint, read])
def test_other_folders_are_errors(tmp_path, call):
    (tmp_path / "empty" / "training").mkdir(parents=True)
    (tmp_path / "patient001").touch()
    for source, message in (
        ("none", "no such folder"),
        ("patient001", "no such folder"),
        ("empty", "contains no folders"),
    ):
        with pytest.raises(InputError, match=message) as error:
            call(tmp_path / source)
        assert str(error.value).startswith(str(tmp_path / source))


def test_the_real_data(acdc_folder):
    cases = {}
    for case in load_all(acdc.read(at("acdc", acdc_folder))):
        assert set(np.unique(case.mask)) <= {0, 1, 2, 3} and case.image.shape == (*case.mask.shape, 1)
        assert set(np.unique(case.annotation)) <= {0, 1, 2, 3, UNLABELED}
        cases[case.name] = case if case.patient == "patient001" else dataclasses.replace(case, image=None, mask=None)
    assert len(cases) == 160
    groups = {case.patient: case.group for case in cases.values()}
    assert len(groups) == 80
    assert sorted(groups.values()) == sorted(16 * ["DCM", "HCM", "MINF", "NOR", "RV"])
    case = cases["patient001_frame12"]
    assert (case.group, case.phase, case.frame, case.units) == ("DCM", "ES", 12, "voxel")
    assert case.image.shape == (10, 256, 216, 1) and case.spacing == (1, 1, 1)
    assert set(np.unique(case.mask)) == {0, 1, 2, 3}
    stored = nib.load(acdc_folder / "training" / "patient001" / "patient001_frame12.nii.gz").dataobj
    np.testing.assert_array_equal(case.image[..., 0], np.asarray(stored).transpose(2, 1, 0))
