import dataclasses
import functools
import json
import pathlib

import nibabel as nib
from nibabel.orientations import axcodes2ornt
import numpy as np
import pytest
import tensorflow_datasets as tfds

from msl_jax.data import builder
from msl_jax.data.case import Case, Reader, Source, load_all
from msl_jax.data.formats.orientation import turn_across
from msl_jax.data.readers import READERS, acdc, phantom
from msl_jax.errors import InputError

PHASES = {"ED": 1, "ES": 9}
LPS = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
"""Directions of (slice, y, x)."""


def write_patient(folder, *, scribbles, seed):
    folder.mkdir(parents=True)
    (folder / "Info.cfg").write_text("ED: 1\nES: 9\nGroup: HCM\n")
    rng = np.random.default_rng(seed)
    for frame in PHASES.values():
        shape = (9, 8, 2 + seed + frame)
        files = {"": rng.integers(0, 500, shape, np.int16), "_gt": rng.integers(0, 4, shape, np.uint8)}
        if scribbles:
            files["_scribble"] = rng.integers(0, 5, shape, np.uint8)
        for end, voxels in files.items():
            image = nib.Nifti1Image(voxels, np.diag([1.37, 1.37, 9.6, 1]))
            image.header.set_xyzt_units("mm")
            nib.save(image, folder / f"{folder.name}_frame{frame:02d}{end}.nii.gz")


@pytest.fixture
def source(tmp_path):
    """Two patients in ACDC's layout, the second with scribbles."""
    for i in (1, 2):
        write_patient(tmp_path / "training" / f"patient{i:03d}", scribbles=i == 2, seed=i)
    return tmp_path


@pytest.fixture
def unreadable(monkeypatch):
    """A function; after it is called, reading a case of ACDC fails."""

    def fail(source):
        raise AssertionError("read again")

    def install():
        fail.__module__ = acdc.read.__module__
        monkeypatch.setitem(READERS, "acdc", dataclasses.replace(acdc.READER, read=fail))

    return install


def assert_cases(data, entries, cases):
    for entry, case in zip(entries, cases, strict=True):
        actual_case = data.case(entry)
        for field in dataclasses.fields(case):
            actual, expected = getattr(actual_case, field.name), getattr(case, field.name)
            assert type(actual) is type(expected), field.name
            np.testing.assert_array_equal(actual, expected, err_msg=field.name)
            assert getattr(actual, "dtype", None) == getattr(expected, "dtype", None)


def test_phantoms_are_stored_bit_for_bit(phantoms):
    assert [len({entry.patient for entry in phantoms.entries}), len(phantoms.entries)] == [8, 16]
    assert_cases(phantoms, phantoms.entries[:4], load_all(phantom.read(Source("phantom", "patients=2,seed=0"))))
    assert phantoms.labels == {"RV": 1, "MYO": 2, "LV": 3}


def test_acdc_is_stored_bit_for_bit_and_reopened_from_the_cache(source, tmp_path, unreadable):
    cases, cache = [load() for load in acdc.read(Source("acdc", str(source)))], str(tmp_path / "cache")
    data = builder.build(Source("acdc", str(source)), cache)
    assert_cases(data, data.entries, cases)
    unreadable()
    data = builder.build(Source("acdc", str(source)), cache)
    assert_cases(data, data.entries, cases)
    assert [entry.annotated for entry in data.entries] == [False, False, True, True]
    assert [(entry.first, entry.slices) for entry in data.entries] == [(0, 4), (4, 12), (16, 5), (21, 13)]
    assert len(data.records) == 34
    assert data.groups() == {"patient001": "HCM", "patient002": "HCM"}
    assert [entry.name for entry in data.of_patients(["patient002"])] == ["patient002_frame01", "patient002_frame09"]


def test_a_copy_in_another_folder_is_not_built_again(source, tmp_path, unreadable):
    cache = str(tmp_path / "cache")
    builder.build(Source("acdc", str(source)), cache)
    unreadable()
    assert len(builder.build(Source("acdc", str(source / "training")), cache).entries) == 4


def test_a_changed_source_is_built_again(source, tmp_path):
    cache = str(tmp_path / "cache")
    before = builder.build(Source("acdc", str(source)), cache)
    path = source / "training" / "patient001" / "patient001_frame01.nii.gz"
    voxels = np.zeros((9, 8, 4), np.int16)
    voxels[3, 5, 2] = 77
    nib.save(nib.Nifti1Image(voxels, nib.load(path).affine, nib.load(path).header), path)
    after = builder.build(Source("acdc", str(source)), cache)
    image = after.case(after.entries[0]).image
    assert image[2, 5, 3] == 77 and image.sum() == 77
    assert before.case(before.entries[0]).image.sum() > 77


def test_a_changed_reader_builds_again(source, tmp_path, monkeypatch):
    def one_case(source):
        yield next(acdc.read(source))

    assert len(builder.build(Source("acdc", str(source)), str(tmp_path / "cache")).entries) == 4
    monkeypatch.setitem(READERS, "acdc", dataclasses.replace(acdc.READER, read=one_case))
    assert len(builder.build(Source("acdc", str(source)), str(tmp_path / "cache")).entries) == 1


def read_of(cases):
    """A reader's `read` function that returns these cases."""

    def read(source):
        return ((lambda case=case: case) for case in cases(source))

    return read


def two_channels(source):
    """Cases of equal shape without masks or directions, the first with two channels, the second with three."""
    rng = np.random.default_rng(0)
    for channels in range(2, 2 + int(source.path)):
        image = rng.random((4, 5, 6, channels), np.float32)
        annotation = rng.integers(0, 3, image.shape[:3], np.uint8)
        yield Case(f"case{channels}", "a", image, None, annotation, (3.0, 2.0, 1.0), "mm", role="weak")


@pytest.fixture
def unmasked(monkeypatch):
    read = read_of(two_channels)
    read.__module__ = acdc.read.__module__
    reader = Reader(lambda source: {"A": 1}, lambda source: source.path, read, dict)
    monkeypatch.setitem(READERS, "unmasked", reader)


@pytest.mark.parametrize(
    "axis, shape, spacing", [(2, (4, 5, 6), (3, 2, 1)), (1, (5, 4, 6), (2, 3, 1)), (0, (6, 4, 5), (1, 3, 2))]
)
def test_reading_back_channels_unmasked_cases_roles_and_axes(unmasked, tmp_path, axis, shape, spacing):
    data = builder.build(Source("unmasked", "1", axis=axis), str(tmp_path))
    expected = next(two_channels(Source("unmasked", "1")))
    case = data.case(data.entries[0])
    assert case.image.shape == (*shape, 2) and case.mask is None and case.spacing == spacing
    assert (data.channels, data.masked(full=False), data.roles()) == (2, [], {"a": "weak"})
    np.testing.assert_array_equal(turn_across(axis).undo(case.image), expected.image)
    np.testing.assert_array_equal(turn_across(axis).undo(case.annotation), expected.annotation)


def test_cases_with_different_channels_raise_input_error(unmasked, tmp_path):
    with pytest.raises(InputError, match=r"^case3: has 3 channels, but case2 has 2; they must agree\.$"):
        builder.build(Source("unmasked", "2"), str(tmp_path))


def test_every_invalid_case_is_named_once(source, tmp_path):
    training = source / "training"
    (training / "patient001" / "Info.cfg").unlink()
    (training / "patient002" / "patient002_frame09_gt.nii.gz").write_bytes(b"")
    with pytest.raises(InputError) as error:
        builder.build(Source("acdc", str(source)), str(tmp_path / "cache"))
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{training / 'patient001'}: contains no Info.cfg")
    assert second.startswith(f"{training / 'patient002' / 'patient002_frame09_gt.nii.gz'}: ")


def test_a_build_does_not_depend_on_roles(phantoms, cache):
    folders = {path.parent for path in pathlib.Path(cache).rglob("dataset_info.json")}
    assert folders
    for folder in folders:
        built = tfds.builder_from_directory(folder)
        assert list(built.info.splits) == ["slices"]
        names = json.dumps([path.name for path in folder.iterdir()])
        assert not any(role in names for role in ("train", "val", "test", "strong", "weak"))


def test_an_invalid_source_can_be_repaired(source, tmp_path):
    path = source / "training" / "patient002" / "patient002_frame09_gt.nii.gz"
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    with pytest.raises(InputError, match="cannot be read") as error:
        builder.build(Source("acdc", str(source)), str(tmp_path / "cache"))
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    path.write_bytes(good)
    assert len(builder.build(Source("acdc", str(source)), str(tmp_path / "cache")).entries) == 4


def test_an_unknown_layout_raises_input_error(tmp_path):
    with pytest.raises(InputError, match=r"layout: is 'nifti'; give one of acdc, .*phantom"):
        builder.build(Source("nifti", str(tmp_path)), str(tmp_path))


AXIS_CODES = {"a": "LPS", "b": "SPL", "c": "LPS", "d": "RAI", "e": "PSR"}


@pytest.fixture
def mixed(tmp_path):
    """A folder with the same case in several orientations."""
    rng = np.random.default_rng(0)
    voxels = {"images": rng.integers(0, 900, (7, 6, 3), np.int16), "masks": rng.integers(0, 2, (7, 6, 3), np.uint8)}
    for folder, array in voxels.items():
        (tmp_path / folder).mkdir()
        image = nib.Nifti1Image(array, np.diag([-1.5, -1.25, 8, 1]))
        image.header.set_xyzt_units("mm")
        for name, codes in AXIS_CODES.items():
            turn = nib.orientations.ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(codes))
            nib.save(image.as_reoriented(turn), tmp_path / folder / f"{name}.nii.gz")
    return tmp_path, voxels


@pytest.mark.parametrize("axis", [2, 0])
def test_cases_in_other_orientations_are_turned_to_the_most_common_one(mixed, axis):
    folder, voxels = mixed
    data = builder.build(Source("folder", str(folder), {"A": 1}, axis=axis), str(folder / "cache"))
    assert {entry.name: entry.axis_codes for entry in data.entries} == AXIS_CODES
    assert [entry.name for entry in data.entries if entry.turned] == ["b", "d", "e"]
    for entry in data.entries:
        case = data.case(entry)
        np.testing.assert_array_equal(case.image[..., 0], turn_across(axis).apply(voxels["images"].T))
        np.testing.assert_array_equal(case.mask, turn_across(axis).apply(voxels["masks"].T))
        assert case.spacing == turn_across(axis).spacing((8, 1.25, 1.5))
        np.testing.assert_allclose(case.directions, data.directions, atol=1e-12)
    np.testing.assert_allclose(data.directions, turn_across(axis).directions(LPS))


def test_slices_are_cut_across_the_coarsest_axis_of_the_most_common_orientation(mixed):
    folder, voxels = mixed
    source = Source("folder", str(folder), {"A": 1}, axis=None)
    data = builder.build(source, str(folder / "cache"))
    assert data.axis == 2 and {entry.spacing for entry in data.entries} == {(8, 1.25, 1.5)}
    for name in ("a", "c", "d"):  # the most common orientation is now that of "b" and "e", across other axes
        for part in ("images", "masks"):
            (folder / part / f"{name}.nii.gz").unlink()
    data = builder.build(source, str(folder / "cache"))
    assert data.axis == 0 and {entry.spacing[0] for entry in data.entries} == {8}
    labelled = [int((data.case(entry).mask == 1).sum()) for entry in data.entries]
    assert labelled == [voxels["masks"].sum()] * 2 and {entry.shape for entry in data.entries} == {(7, 6)}


def test_entries_have_the_intensities_of_structures(mixed):
    folder, voxels = mixed
    for entry in builder.build(Source("folder", str(folder), {"A": 1}), str(folder / "cache")).entries:
        inside = voxels["images"][voxels["masks"] == 1]
        assert entry.lowest == (voxels["images"].min(),)
        np.testing.assert_allclose(entry.foreground, np.percentile(inside, (0.5, 99.5))[:, None], rtol=1e-5)


def test_a_data_set_without_orientation_has_no_directions(phantoms):
    assert phantoms.directions is None and not any(entry.turned or entry.axis_codes for entry in phantoms.entries)


def test_the_source_code_of_a_reader_from_a_module_without_a_file(monkeypatch):
    """A notebook, for example, is a module without a file."""
    monkeypatch.setattr(reads_nothing, "__module__", "a_notebook")
    assert b"def reads_nothing" in builder.source_code(reads_nothing)
    assert builder.source_code(functools.partial(acdc.READER.read)) == pathlib.Path(acdc.__file__).read_bytes()


def reads_nothing(source):
    return iter(())
