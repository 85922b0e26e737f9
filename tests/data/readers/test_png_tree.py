import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from files import arrays, assert_case, at, refused
from msl_jax.data.readers import png_tree

LABELS = {"LV": 255, "RV": 85, "MYO": 170}
GREYS = np.array([0, 85, 170, 255], np.uint8)
"""Of background and of the structures that a case counts 1, 2, 3."""
VOLUMES = {
    "trainFull": ("patient0001_01", "patient0001_02"),
    "trainSemi": ("patient0002_01",),
    "val": ("ü",),
    "test": ("scan_7",),
}
ROLES = {"trainFull": "strong", "trainSemi": "weak", "val": "validation", "test": "test"}
PATIENTS = {"patient0001_01": "patient0001", "patient0001_02": "patient0001", "patient0002_01": "patient0002"}


def of(name):
    """Image (uint8), mask and annotation of a volume; 0 is open in the annotation."""
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
    """The authors' tree: eleven slices a volume, so that 10 and 11 would sort between 1 and 2."""
    for folder, names in VOLUMES.items():
        for name in names:
            image, mask, annotation = of(name)
            write(tmp_path / folder, name, Img=image, GT=GREYS[mask], WeaklyAnnotations=GREYS[annotation])
    (tmp_path / "trainFull" / "Img" / ".DS_Store").touch()
    return tmp_path


def read(root, labels=LABELS, **known):
    return [load() for load in png_tree.read(at("png_tree", root, labels=labels, **known))]


def test_what_was_written_is_read_folder_by_folder(root):
    cases = iter(read(root))
    for folder, names in VOLUMES.items():
        for name in names:
            case, (image, mask, annotation) = next(cases), of(name)
            assert_case(case, name, image, mask, np.where(annotation == 0, 255, annotation))
            assert (case.role, case.patient) == (ROLES[folder], PATIENTS.get(name, name))
            assert case.spacing == (1, 1, 1) and case.units == "voxel"
    assert next(cases, None) is None
    assert png_tree.labels(at("png_tree", root, labels=LABELS)) == {"RV": 1, "MYO": 2, "LV": 3}


def test_one_structure_is_white(tmp_path):
    image, mask, _ = of("a")
    write(tmp_path / "val", "a", Img=image, GT=np.where(mask == 3, np.uint8(255), np.uint8(0)))
    assert_case(read(tmp_path, {"LV": 255})[0], "a", image, mask == 3)


def test_black_and_white_is_0_and_255(tmp_path):
    image, mask, _ = of("a")
    write(tmp_path / "val", "a", Img=image, GT=mask == 3)
    assert Image.open(tmp_path / "val" / "GT" / "a_1.png").mode == "1"
    assert_case(read(tmp_path, {"LV": 255})[0], "a", image, mask == 3)


def test_an_open_value_makes_0_background(tmp_path):
    image, mask, _ = of("a")
    drawn = np.where(mask == 2, np.uint8(9), mask)
    write(tmp_path / "val", "a", Img=image, GT=drawn, WeaklyAnnotations=drawn)
    expected = np.where(mask == 2, 255, np.where(mask == 3, 2, mask))
    assert_case(read(tmp_path, {"RV": 1, "LV": 3}, unlabeled=9)[0], "a", image, expected, expected)


def test_slices_without_a_mask_or_annotation_are_open(root):
    for kind, number in (("GT", 3), ("WeaklyAnnotations", 10)):
        (root / "trainFull" / kind / f"patient0001_01_{number}.png").unlink()
    for path in root.glob("trainSemi/[GW]*/*"):
        path.unlink()
    strong, _, bare, *_ = read(root)
    image, mask, annotation = of("patient0001_01")
    annotation = np.where(annotation == 0, 255, annotation)
    mask[2] = annotation[9] = 255
    assert_case(strong, "patient0001_01", image, mask, annotation)
    assert_case(bare, "patient0002_01", of("patient0002_01")[0])


def test_colours_are_channels_and_16_bits_are_kept(tmp_path):
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


def test_a_pattern_says_whose_an_image_is(root):
    cases = read(root, patient=r"(?:patient0*)?([^_]+)")
    assert [case.patient for case in cases] == ["1", "1", "2", "ü", "scan"]


FULL = "trainFull/Img/patient0001_01_3.png"
MASK = "trainFull/GT/patient0001_01_3.png"
DRAWN = "trainFull/WeaklyAnnotations/patient0001_01_3.png"
SLICE = np.arange(42, dtype=np.uint8).reshape(6, 7)


def picture(file, pixels=SLICE, mode=None):
    def make(root):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        made = Image.fromarray(pixels)
        (made.convert(mode) if mode else made).save(root / file)

    return make


def moved(file, to):
    return lambda root: (root / file).rename(root / to)


def again(root):
    """The second frame of the strong patient is a test image."""
    write(root / "test", "patient0001_02", Img=of("patient0001_02")[0])
    for path in root.glob("trainFull/*/patient0001_02_*"):
        path.unlink()


def spoiled(offset, value):
    """A byte of a PNG, from its end where `offset` is negative."""

    def make(root):
        contents = bytearray((root / FULL).read_bytes())
        contents[offset] = value
        (root / FULL).write_bytes(contents)

    return make


def vast(root):
    """A good header of 9000 x 9000 pixels, and nothing behind it that could fill them."""
    contents = bytearray((root / FULL).read_bytes())
    contents[16:24] = struct.pack(">2I", 9000, 9000)
    contents[29:33] = struct.pack(">I", zlib.crc32(contents[12:29]))
    (root / FULL).write_bytes(contents)


FAULTS = {
    "mask without image": (picture("val/GT/new_1.png"), "val/GT/new_1.png", "has no image of that name"),
    "drawing without image": (picture("val/WeaklyAnnotations/n.png"), "val/WeaklyAnnotations/n.png", "has no image of"),
    "another format": (moved(FULL, "trainFull/Img/a.jpg"), "trainFull/Img/a.jpg", "is no file that ends in .png"),
    "slice missing": (
        lambda root: [path.unlink() for path in root.glob("trainFull/*/patient0001_01_3.png")],
        "trainFull/Img/patient0001_01_4.png",
        "patient0001_01 has no slice 3",
    ),
    "slice twice": (picture("trainFull/Img/patient0001_01_03.png"), FULL, "is slice 3 of patient0001_01, as"),
    "two sizes": (picture(FULL, SLICE[:5]), FULL, "its size or colours are not those of .*patient0001_01_1.png"),
    "one slice in colours": (picture(FULL, np.stack([SLICE] * 3, -1)), FULL, "its size or colours are not those"),
    "mask of another size": (picture(MASK, SLICE[:5]), MASK, r"its grid \(7, 5, 1\) is not the \(7, 6, 1\)"),
    "unknown grey": (picture(MASK, SLICE), MASK, r"unknown label values \[1, 2, 3, .*known are \[0, 85, 170, 255\]"),
    "unknown drawing": (picture(DRAWN, SLICE), DRAWN, r"unknown label values \[1, 2, 3, "),
    "mask in colours": (picture(MASK, SLICE, "RGB"), MASK, "mode RGB; save it as grey or black and white"),
    "mask of a palette": (picture(MASK, SLICE, "P"), MASK, "mode P; save it as grey or black and white"),
    "transparent image": (picture(FULL, SLICE, "RGBA"), FULL, "mode RGBA; save it as grey or grey of 16 bits or RGB"),
    "image of a palette": (picture(FULL, SLICE, "P"), FULL, "mode P; save it as"),
    "truncated": (lambda root: (root / FULL).write_bytes((root / FULL).read_bytes()[:60]), FULL, "is no readable PNG"),
    "checksum": (spoiled(-20, 1), FULL, "is no readable PNG"),
    "more than a file can hold": (vast, FULL, "is no readable PNG .*promises 81000000 pixels"),
    "no PNG": (lambda root: (root / FULL).write_bytes(b"GIF89a"), FULL, "is no readable PNG"),
    "patient in two folders": (again, "test/Img/patient0001_02_1.png", "patient0001 lies in trainFull as well"),
    "volume in two folders": (picture("trainFull/Img/ü_1.png"), "val/Img/ü_1.png", "ü lies in trainFull as well"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_tree_is_refused_and_the_file_named(root, fault):
    spoil, file, says = FAULTS[fault]
    spoil(root)
    refused(lambda: read(root), says, root / file)


def test_a_bomb_is_refused(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 41)
    refused(lambda: read(root), "is no readable PNG .*exceeds limit", root / "trainFull/Img/patient0001_01_1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    refused(lambda: read(root), "is no readable PNG .*exceeds limit", root / "trainFull/Img/patient0001_01_1.png")


def test_a_black_volume_is_refused(tmp_path):
    write(tmp_path / "val", "a", Img=np.zeros((2, 6, 7), np.uint8))
    refused(lambda: read(tmp_path), "every voxel has the same value", tmp_path / "val/Img/a_1.png")


@pytest.mark.parametrize(
    "labels, known, says",
    [
        ({}, {}, "is empty, and layout 'png_tree' .* --config.data.labels=LV=3,MYO=2"),
        ({"LV": 256}, {}, "LV is 256; give a whole number from 1 to 255"),
        ({"LV": 0}, {}, "LV is 0; give a whole number"),
        ({"LV": 1, "RV": 1}, {}, "two structures have one value"),
        ({"LV": 4}, {"unlabeled": 4}, "LV has the value 4 of pixels nobody annotated"),
    ],
)
def test_labels_must_be_told_and_make_sense(root, labels, known, says):
    for ask in (png_tree.labels, lambda source: [load() for load in png_tree.read(source)]):
        refused(lambda ask=ask: ask(at("png_tree", root, labels=labels, **known)), says, "config.data.labels: ")


@pytest.mark.parametrize("folder", ["none", "empty", "trainFull"])
def test_what_is_no_tree_is_refused(root, folder):
    (root / "empty").mkdir()
    says = "no such folder" if folder == "none" else "holds no trainFull/Img, trainSemi/Img, val/Img, test/Img with PNG"
    refused(lambda: png_tree.fingerprint(at("png_tree", root / folder)), says, root / folder)


def test_the_fingerprint_sees_every_file(root):
    prints = [png_tree.fingerprint(at("png_tree", root))]
    for file in (FULL, MASK, DRAWN):
        (root / file).write_bytes((root / file).read_bytes() + b" ")
        prints.append(png_tree.fingerprint(at("png_tree", root)))
    (root / MASK).unlink()
    (root / "val").rename(root / "nothing")
    assert len({*prints, png_tree.fingerprint(at("png_tree", root))}) == 5


def test_images_to_predict_are_volumes_and_slices_of_one_stem(tmp_path):
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
