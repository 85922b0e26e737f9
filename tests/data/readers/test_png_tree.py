import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from files import arrays, assert_case, assert_input_error, at
from msl_jax.data.readers import png_tree

LABELS = {"LV": 255, "RV": 85, "MYO": 170}
GREYS = np.array([0, 85, 170, 255], np.uint8)
"""Grey values of background and of the structures 1, 2, 3 of a case."""
VOLUMES = {
    "trainFull": ("patient0001_01", "patient0001_02"),
    "trainSemi": ("patient0002_01",),
    "val": ("ü",),
    "test": ("scan_7",),
}
ROLES = {"trainFull": "strong", "trainSemi": "weak", "val": "validation", "test": "test"}
PATIENTS = {"patient0001_01": "patient0001", "patient0001_02": "patient0001", "patient0002_01": "patient0002"}


def of(name):
    """Image (uint8), mask and annotation of a volume; unlabelled pixels of the annotation are 0."""
    image, mask, annotation = arrays(name, (11, 6, 7), unlabeled=0)
    return (image % 256).astype(np.uint8), mask, annotation


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode).save(path)


def write(folder, name, first=1, **kinds):
    """Writes (slice, y, x[, 3]) as PNGs numbered from `first`."""
    for kind, voxels in kinds.items():
        for number, pixels in enumerate(voxels, first):
            save(folder / kind / f"{name}_{number}.png", pixels)


@pytest.fixture
def root(tmp_path):
    """The authors' folders, with eleven slices for each volume: as text, 10 and 11 sort between 1 and 2."""
    for folder, names in VOLUMES.items():
        for name in names:
            image, mask, annotation = of(name)
            write(tmp_path / folder, name, Img=image, GT=GREYS[mask], WeaklyAnnotations=GREYS[annotation])
    (tmp_path / "trainFull" / "Img" / ".DS_Store").touch()
    return tmp_path


def read(root, labels=LABELS, **settings):
    return [load() for load in png_tree.read(at("png_tree", root, labels=labels, **settings))]


def test_written_volumes_are_read_folder_by_folder(root):
    cases = iter(read(root))
    for folder, names in VOLUMES.items():
        for name in names:
            case, (image, mask, annotation) = next(cases), of(name)
            assert_case(case, name, image, mask, np.where(annotation == 0, 255, annotation))
            assert (case.role, case.patient) == (ROLES[folder], PATIENTS.get(name, name))
            assert case.spacing == (1, 1, 1) and case.units == "voxel"
    assert next(cases, None) is None
    assert png_tree.labels(at("png_tree", root, labels=LABELS)) == {"RV": 1, "MYO": 2, "LV": 3}


def test_a_single_white_structure(tmp_path):
    image, mask, _ = of("a")
    write(tmp_path / "val", "a", Img=image, GT=np.where(mask == 3, np.uint8(255), np.uint8(0)))
    assert_case(read(tmp_path, {"LV": 255})[0], "a", image, mask == 3)


def test_black_and_white_is_0_and_255(tmp_path):
    image, mask, _ = of("a")
    write(tmp_path / "val", "a", Img=image, GT=mask == 3)
    assert Image.open(tmp_path / "val" / "GT" / "a_1.png").mode == "1"
    assert_case(read(tmp_path, {"LV": 255})[0], "a", image, mask == 3)


def test_with_an_unlabelled_value_0_is_background(tmp_path):
    image, mask, _ = of("a")
    stored = np.where(mask == 2, np.uint8(9), mask)
    write(tmp_path / "val", "a", Img=image, GT=stored, WeaklyAnnotations=stored)
    expected = np.where(mask == 2, 255, np.where(mask == 3, 2, mask))
    assert_case(read(tmp_path, {"RV": 1, "LV": 3}, unlabeled=9)[0], "a", image, expected, expected)


def test_slices_without_a_mask_or_annotation_are_unlabelled(root):
    for kind, number in (("GT", 3), ("WeaklyAnnotations", 10)):
        (root / "trainFull" / kind / f"patient0001_01_{number}.png").unlink()
    for path in root.glob("trainSemi/[GW]*/*"):
        path.unlink()
    strong, _, unlabelled, *_ = read(root)
    image, mask, annotation = of("patient0001_01")
    annotation = np.where(annotation == 0, 255, annotation)
    mask[2] = annotation[9] = 255
    assert_case(strong, "patient0001_01", image, mask, annotation)
    assert_case(unlabelled, "patient0002_01", of("patient0002_01")[0])


def test_colours_are_channels_and_16_bits_are_read(tmp_path):
    colours = np.stack([of("a")[0], of("b")[0], of("c")[0]], -1)
    write(tmp_path / "val", "a", Img=colours)
    deep = arrays("d")[0].astype(np.uint16) * 70
    write(tmp_path / "val", "d", 0, Img=deep)
    a, d = read(tmp_path)
    assert_case(a, "a", colours)
    assert_case(d, "d", deep)


def test_a_file_without_a_number_is_a_volume_of_one_slice(tmp_path):
    save(tmp_path / "test" / "Img" / "scan.png", of("a")[0][0])
    assert_case(read(tmp_path)[0], "scan", of("a")[0][:1])


def test_a_pattern_maps_cases_to_patients(root):
    cases = read(root, patient=r"(?:patient0*)?([^_]+)")
    assert [case.patient for case in cases] == ["1", "1", "2", "ü", "scan"]


FULL = "trainFull/Img/patient0001_01_3.png"
MASK = "trainFull/GT/patient0001_01_3.png"
ANNOTATION = "trainFull/WeaklyAnnotations/patient0001_01_3.png"
SLICE = np.arange(42, dtype=np.uint8).reshape(6, 7)


def picture(file, pixels=SLICE, mode=None):
    def change(root):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels)
        (image.convert(mode) if mode else image).save(root / file)

    return change


def renamed(file, to):
    return lambda root: (root / file).rename(root / to)


def in_two_folders(root):
    """The second frame of the strong patient is a test image."""
    write(root / "test", "patient0001_02", Img=of("patient0001_02")[0])
    for path in root.glob("trainFull/*/patient0001_02_*"):
        path.unlink()


def with_byte(offset, value):
    """Replaces a byte of a PNG."""

    def change(root):
        contents = bytearray((root / FULL).read_bytes())
        contents[offset] = value
        (root / FULL).write_bytes(contents)

    return change


def too_large(root):
    """A valid header of 9000 x 9000 pixels, without enough data."""
    contents = bytearray((root / FULL).read_bytes())
    contents[16:24] = struct.pack(">2I", 9000, 9000)
    contents[29:33] = struct.pack(">I", zlib.crc32(contents[12:29]))
    (root / FULL).write_bytes(contents)


FAULTS = {
    "mask without image": (picture("val/GT/new_1.png"), "val/GT/new_1.png", "has no image of the same name"),
    "annotation without image": (
        picture("val/WeaklyAnnotations/n.png"),
        "val/WeaklyAnnotations/n.png",
        "has no image of",
    ),
    "another format": (renamed(FULL, "trainFull/Img/a.jpg"), "trainFull/Img/a.jpg", "is not a file that ends in .png"),
    "slice missing": (
        lambda root: [path.unlink() for path in root.glob("trainFull/*/patient0001_01_3.png")],
        "trainFull/Img/patient0001_01_4.png",
        "patient0001_01 has no slice 3",
    ),
    "duplicate slice": (picture("trainFull/Img/patient0001_01_03.png"), FULL, "is slice 3 of patient0001_01, like"),
    "two sizes": (picture(FULL, SLICE[:5]), FULL, "its size or colours differ from those of .*patient0001_01_1.png"),
    "one slice in colours": (picture(FULL, np.stack([SLICE] * 3, -1)), FULL, "its size or colours differ from those"),
    "mask of another size": (picture(MASK, SLICE[:5]), MASK, r"its grid \(7, 5, 1\) differs from \(7, 6, 1\)"),
    "unknown grey": (picture(MASK, SLICE), MASK, r"unknown label values \[1, 2, 3, .*not among \[0, 85, 170, 255\]"),
    "unknown annotation label": (picture(ANNOTATION, SLICE), ANNOTATION, r"unknown label values \[1, 2, 3, "),
    "mask in colours": (picture(MASK, SLICE, "RGB"), MASK, "mode RGB; save it as grey or black and white"),
    "mask of a palette": (picture(MASK, SLICE, "P"), MASK, "mode P; save it as grey or black and white"),
    "transparent image": (picture(FULL, SLICE, "RGBA"), FULL, "mode RGBA; save it as grey or grey of 16 bits or RGB"),
    "image of a palette": (picture(FULL, SLICE, "P"), FULL, "mode P; save it as"),
    "truncated": (
        lambda root: (root / FULL).write_bytes((root / FULL).read_bytes()[:60]),
        FULL,
        "is not a readable PNG",
    ),
    "checksum": (with_byte(-20, 1), FULL, "is not a readable PNG"),
    "more than a file can contain": (too_large, FULL, "is not a readable PNG .*declares 81000000 pixels"),
    "not a PNG": (lambda root: (root / FULL).write_bytes(b"GIF89a"), FULL, "is not a readable PNG"),
    "patient in two folders": (in_two_folders, "test/Img/patient0001_02_1.png", "patient0001 is also in trainFull"),
    "volume in two folders": (picture("trainFull/Img/ü_1.png"), "val/Img/ü_1.png", "ü is also in trainFull"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_invalid_data_set_is_an_error_that_names_the_file(root, fault):
    spoil, file, message = FAULTS[fault]
    spoil(root)
    assert_input_error(lambda: read(root), message, root / file)


def test_a_decompression_bomb_is_an_error(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 41)
    assert_input_error(
        lambda: read(root), "is not a readable PNG .*exceeds limit", root / "trainFull/Img/patient0001_01_1.png"
    )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert_input_error(
        lambda: read(root), "is not a readable PNG .*exceeds limit", root / "trainFull/Img/patient0001_01_1.png"
    )


def test_a_black_volume_is_an_error(tmp_path):
    write(tmp_path / "val", "a", Img=np.zeros((2, 6, 7), np.uint8))
    assert_input_error(lambda: read(tmp_path), "every voxel has the same value", tmp_path / "val/Img/a_1.png")


@pytest.mark.parametrize(
    "labels, settings, message",
    [
        ({}, {}, "is empty, and layout 'png_tree' .* --config.data.labels=LV=3,MYO=2"),
        ({"LV": 256}, {}, "LV is 256; give a whole number from 1 to 255"),
        ({"LV": 0}, {}, "LV is 0; give a whole number"),
        ({"LV": 1, "RV": 1}, {}, "two structures have the same value"),
        ({"LV": 4}, {"unlabeled": 4}, "LV has the value 4 of unlabelled pixels"),
    ],
)
def test_missing_or_invalid_labels_are_errors(root, labels, settings, message):
    for call in (png_tree.labels, lambda source: [load() for load in png_tree.read(source)]):
        assert_input_error(
            lambda call=call: call(at("png_tree", root, labels=labels, **settings)), message, "config.data.labels: "
        )


@pytest.mark.parametrize("folder", ["none", "empty", "trainFull"])
def test_other_folders_are_errors(root, folder):
    (root / "empty").mkdir()
    message = (
        "no such folder" if folder == "none" else "contains no trainFull/Img, trainSemi/Img, val/Img, test/Img with PNG"
    )
    assert_input_error(lambda: png_tree.fingerprint(at("png_tree", root / folder)), message, root / folder)


def test_the_fingerprint_depends_on_every_file(root):
    prints = [png_tree.fingerprint(at("png_tree", root))]
    for file in (FULL, MASK, ANNOTATION):
        (root / file).write_bytes((root / file).read_bytes() + b" ")
        prints.append(png_tree.fingerprint(at("png_tree", root)))
    (root / MASK).unlink()
    (root / "val").rename(root / "nothing")
    assert len({*prints, png_tree.fingerprint(at("png_tree", root))}) == 5


def test_images_to_predict_are_volumes_and_stacks_of_slices(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    for name in ("Img/b_10.png", "Img/b_9.png", "Img/c.png", "GT/b_9.png", "WeaklyAnnotations/b_9.png"):
        (tmp_path / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / name).touch()
    folder = tmp_path / "test" / "Img"
    assert png_tree.READER.images(tmp_path) == {
        "a": (tmp_path / "a.nii.gz",),
        "test/Img/b": (folder / "b_9.png", folder / "b_10.png"),
        "test/Img/c": (folder / "c.png",),
    }
