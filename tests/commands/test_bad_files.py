"""Invalid files, kind by kind: a row is the problem and the words of the message.

Every data set here is a valid one from GOOD, with the files that a row replaces (None: removes).
"""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from files import NOTHING, SIZES, arrays, write

NAMES = ("a", "b", "c", "d")
IMAGES = {name: arrays(name)[0] for name in NAMES}
MASKS = {name: arrays(name)[1] for name in NAMES}
IMAGE, MASK = IMAGES["b"], MASKS["b"]
GREY = {name: np.uint8(image[0] % 256) for name, image in IMAGES.items()}
GREY_MASKS = {name: np.uint8(mask[0] == 3) * 255 for name, mask in MASKS.items()}
INFO = "ED: 1\nES: 2\nGroup: NOR\n"
MSD = {
    "labels": {"0": "background", "1": "RV", "2": "MYO", "3": "LV"},
    "modality": {"0": "MRI"},
    "training": [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in NAMES],
}
NNUNET = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "RV": 1, "MYO": 2, "LV": 3}}
NNUNET |= {"file_ending": ".nii.gz"}


def in_folders(images, masks, end=""):
    """Path -> voxels of the four cases."""
    return {f"{images}/{name}{end}.nii.gz": IMAGES[name] for name in NAMES} | {
        f"{masks}/{name}.nii.gz": MASKS[name] for name in NAMES
    }


GOOD = {
    "folder": in_folders("images", "masks"),
    "acdc": {f"patient{name}/Info.cfg": INFO for name in NAMES}
    | {f"patient{name}/patient{name}_frame0{frame}.nii.gz": IMAGES[name] for name in NAMES for frame in (1, 2)}
    | {f"patient{name}/patient{name}_frame0{frame}_gt.nii.gz": MASKS[name] for name in NAMES for frame in (1, 2)},
    "msd": in_folders("imagesTr", "labelsTr") | {"dataset.json": json.dumps(MSD)},
    "nnunet": in_folders("imagesTr", "labelsTr", "_0000") | {"dataset.json": json.dumps(NNUNET)},
    "png_tree": {
        f"{folder}/{kind}/{name}_1.png": (GREY if kind == "Img" else GREY_MASKS)[name]
        for folder, name in zip(("trainFull", "trainSemi", "val", "test"), NAMES, strict=True)
        for kind in ("Img", "GT")
    },
    "wsl4mis": {f"{name}.h5": {"image": IMAGES[name], "label": MASKS[name]} for name in NAMES},
}
"""Layout -> path -> content in a data set of four patients: text, bytes, or voxels (slice, y, x)."""
LABELS = {"folder": "RV=1,MYO=2,LV=3", "png_tree": "LV=255"}


def of_data(layout, folder):
    """Flags of an experiment on a data set of four patients."""
    values = {"layout": layout, "source": folder, "labels": LABELS.get(layout, ""), "strong": 1, "size": 32}
    values |= {"split_sizes": "((None,1,1),)", "cache": folder.parent / "cache"}
    return ["--config=configs/nifti.py", *(f"--config.data.{key}={value}" for key, value in values.items())]


@pytest.mark.parametrize("layout", GOOD)
def test_the_unmodified_data_sets_are_valid(command, tmp_path, layout):
    folder = write(tmp_path / "data", GOOD[layout])
    code, err = command("prepare", *of_data(layout, folder), f"--output={tmp_path / 'new'}")
    assert not code and (tmp_path / "new" / "cases.png").exists(), err


# image files, by predict and by prepare


def nifti(voxels=IMAGE, **fields):
    """The bytes of a NIfTI file of (slice, y, x), with these header fields replaced."""
    contents = bytearray(nib.Nifti1Image(voxels.T, np.diag([*SIZES, 1])).to_bytes())
    header = nib.Nifti1Header(bytes(contents[:348]), check=False)
    for field, value in fields.items():
        header[field] = value
    contents[:348] = header.binaryblock
    return bytes(contents)


def with_voxel(voxels, value, dtype):
    voxels = voxels.astype(dtype)
    voxels[1, 2, 3] = value
    return voxels


ZIPPED = gzip.compress(nifti())
TERABYTES = [3, 30000, 30000, 30000, 1, 1, 1, 1]
IMAGE_FILES = {
    "empty": ("b.nii", b"", ["not a readable NIfTI", "export it again"]),
    "empty, by the name zipped": ("b.nii.gz", b"", ["not a readable NIfTI"]),
    "no gzip": ("b.nii.gz", nifti(), ["not a gzip file", "download it again"]),
    "zipped, by the name not": ("b.nii", ZIPPED, ["not a readable NIfTI"]),
    "truncated gzip": ("b.nii.gz", ZIPPED[:-9], ["damaged", "download it again"]),
    "a flipped bit": ("b.nii.gz", ZIPPED[:-6] + bytes([ZIPPED[-6] ^ 1]) + ZIPPED[-5:], ["damaged", "CRC"]),
    "truncated": ("b.nii", nifti()[:-1], ["declares 604 bytes", "at most 603"]),
    "truncated, then zipped": ("b.nii.gz", gzip.compress(nifti()[:-1]), ["declares 604 bytes, but the file has 603"]),
    "a web page": ("b.nii.gz", b"<html>404 Not Found</html>", ["not a gzip file"]),
    "another file": ("b.nii", b"PK\3\4" * 200, ["not a readable NIfTI"]),
    "terabytes": ("b.nii", nifti(dim=TERABYTES), ["declares 54000000000352 bytes"]),
    "terabytes, zipped": ("b.nii.gz", gzip.compress(nifti(dim=TERABYTES)), ["declares 54000000000352 bytes"]),
    "terabytes of MetaImage": (
        "b.mha",
        b"NDims = 3\nDimSize = 30000 30000 30000\nElementType = MET_SHORT\nBinaryData = 1\nElementDataFile = LOCAL\n",
        ["declares 54000000000000 bytes"],
    ),
    "voxels in another file": ("b.mha", b"NDims = 3\nElementDataFile = b.raw\n", ["another file or position"]),
    "no slices": ("b.nii", nifti(dim=[3, 7, 6, 0, 1, 1, 1, 1]), ["its shape is (7, 6, 0)", "three axes"]),
    "one slice of two axes": ("b.nii", nifti(IMAGE[0]), ["its shape is (7, 6)", "three axes"]),
    "complex": ("b.nii", nifti(IMAGE.astype(np.complex64)), ["type complex64", "plain numbers"]),
    "colours": ("b.nii", nifti(np.zeros((3, 6, 7), [(c, "u1") for c in "RGB"])), ["type [('R'", "plain numbers"]),
    "a series where there is one channel": ("b.nii", nifti(np.stack([IMAGE, IMAGE + 1])), ["2 channels", " 1"]),
    "NaN": ("b.nii.gz", with_voxel(IMAGE, np.nan, np.float32), ["NaN or infinite", "repair it"]),
    "infinite": ("b.nii.gz", with_voxel(IMAGE, -np.inf, np.float32), ["NaN or infinite"]),
    "too large for float32": ("b.nii.gz", with_voxel(IMAGE, 1e300, np.float64), ["NaN or infinite"]),
    "constant": ("b.nii.gz", np.full_like(IMAGE, 7), ["same value", "remove it"]),
    "a size of 0": ("b.nii", nifti(pixdim=[1, 0, 1, 1, 1, 1, 1, 1]), ["[0.0, 1.0, 1.0]", "in pixdim are not positive"]),
    "a size of NaN": ("b.nii", nifti(pixdim=[1, np.nan, 1, 1, 1, 1, 1, 1]), ["are not lengths"]),
    "sizes in Hertz": ("b.nii", nifti(xyzt_units=32 + 4), ["unit code 4", "are not lengths"]),
    "an unknown type of voxels": ("b.nii", nifti(datatype=77), ["not a readable NIfTI", "77"]),
}


@pytest.mark.parametrize("case", IMAGE_FILES)
def test_an_image_that_cannot_be_used(refused, drawn, tmp_path, case):
    name, content, words = IMAGE_FILES[case]
    data = write(tmp_path / "data", GOOD["folder"] | {"images/b.nii.gz": None, f"images/{name}": content})
    file = data / "images" / name
    refused(["predict", f"--workdir={drawn}", f"--input={file}", f"--output={tmp_path / 'new'}"], [str(file), *words])
    named = "b: " if "channels" in words[0] else str(file)
    refused(["prepare", *of_data("folder", data), f"--output={tmp_path / 'new'}"], [named, *words])


# masks, by main and by evaluate

GRID = np.diag([-1.5, -1.25, 8, 1])
MASK_FILES = {
    "negative": (MASK.astype(np.int16) - 1, ["whole numbers from 0 to 255", "export it again"], True),
    "fractions": (MASK.astype(np.float32) / 2, ["whole numbers from 0 to 255"], True),
    "NaN": (with_voxel(MASK, np.nan, np.float32), ["whole numbers from 0 to 255"], True),
    "above 255": (with_voxel(MASK, 256, np.int16), ["whole numbers from 0 to 255"], True),
    "with channels": (np.stack([MASK, MASK], -1), ["its shape is (7, 6, 3, 2)", "three axes"], True),
    "fewer slices": (MASK[:2], ["its grid", "(7, 6, 2)", "(7, 6, 3)", "resample"], True),
    "elsewhere": (gzip.compress(nib.Nifti1Image(MASK.T, GRID).to_bytes()), ["its affine", "resample"], True),
    "cut off": (ZIPPED[:60], ["damaged"], True),
    "an unknown value": (with_voxel(MASK, 4, np.uint8), ["unknown label values [4]", "[0, 1, 2, 3, 255]"], False),
    "grey values": (np.uint8(MASK * 85), ["unknown label values [85, 170]", "correct the file"], False),
}
"""Mask, words of the message, and whether `evaluate` reports it, too."""


@pytest.mark.parametrize("case", MASK_FILES)
def test_a_mask_that_cannot_be_used(refused, tmp_path, case):
    content, words, evaluated = MASK_FILES[case]
    data = write(tmp_path / "data", GOOD["folder"] | {"masks/b.nii.gz": content})
    predictions = write(tmp_path / "predictions", {f"{name}.nii.gz": MASKS[name] for name in NAMES})
    mask = str(data / "masks" / "b.nii.gz")
    refused(["main", *of_data("folder", data), f"--workdir={tmp_path / 'new'}"], [mask, *words])
    if evaluated:
        folders = [f"--predictions={data / 'masks'}", f"--references={predictions}"]
        refused(["evaluate", *folders, "--labels=LV=3", f"--output={tmp_path / 'new' / 'a.json'}"], [mask, *words])


# layouts, by prepare


def changed(index, **keys):
    return {"dataset.json": json.dumps(index | keys)}


def listed(*entries):
    return changed(MSD, training=[*MSD["training"], *entries])


BOTH = np.stack([IMAGE, 2 * IMAGE], -1)
COLOURS = np.stack([GREY["a"]] * 3, -1)
B = "patientb/patientb_frame01"
LAYOUT_FILES = {
    "no Info.cfg": ("acdc", {"patientb/Info.cfg": None}, ["patientb: contains no Info.cfg", "the one Info.cfg"]),
    "Info.cfg misnamed": (
        "acdc",
        {"patientb/Info.cfg": None, "patientb/info.CFG": INFO},
        ["patientb: contains info.CFG", "the one Info.cfg"],
    ),
    "Info.cfg twice": ("acdc", {"patientb/Info (1).cfg": INFO}, ["contains Info (1).cfg and Info.cfg"]),
    "Info.cfg empty": ("acdc", {"patientb/Info.cfg": ""}, ["patientb/Info.cfg", "no lines 'ED: ", "restore"]),
    "ED twice": ("acdc", {"patientb/Info.cfg": f"ED: 3\n{INFO}"}, ["Info.cfg", "has 2 lines 'ED: "]),
    "ED is ES": ("acdc", {"patientb/Info.cfg": INFO.replace("2", "1")}, ["Info.cfg", "both frame 1"]),
    "ED is no number": ("acdc", {"patientb/Info.cfg": INFO.replace("1", "one")}, ["Info.cfg", "ED is 'one'"]),
    "a frame without image": ("acdc", {f"{B}.nii.gz": None}, [f"{B}.nii.gz: is missing", "download"]),
    "a frame without mask": ("acdc", {f"{B}_gt.nii.gz": None}, [f"{B}_gt.nii.gz: is missing"]),
    "a series as a frame": ("acdc", {f"{B}.nii.gz": BOTH}, [B, "2 channels"]),
    "a frame in two formats": ("acdc", {f"{B}.nii": IMAGE}, [B, "has the same name as", "keep one"]),
    "a link to nothing": ("acdc", {f"{B}_gt.nii.gz": NOTHING}, [f"{B}_gt.nii.gz", "is missing"]),
    "an image that is a link to nothing": ("folder", {"images/e.nii.gz": NOTHING}, ["images/e.nii.gz: No such file"]),
    "a mask of no image": ("folder", {"masks/e.nii.gz": MASK}, ["masks/e.nii.gz", "no image of the same name"]),
    "pictures among images": ("folder", {"images/e.png": GREY["a"]}, ["images/e.png", "move it"]),
    "folders of patients": ("folder", {"images/p/e.nii.gz": IMAGE}, ["images/p:", "move it"]),
    "an image in two formats": ("folder", {"images/b.mha": IMAGE}, ["images/b.", "the same name as b.", "keep one"]),
    "no images": ("folder", dict.fromkeys(GOOD["folder"]), ["images", "contains no images", "add files"]),
    "no masks": ("folder", {f"masks/{name}.nii.gz": None for name in NAMES}, ["split_sizes", "0 have masks"]),
    "no dataset.json": ("msd", {"dataset.json": None}, ["contains no dataset.json", "--config.data.layout"]),
    "dataset.json cut off": ("msd", {"dataset.json": json.dumps(MSD)[:-9]}, ["dataset.json", "not a readable JSON"]),
    "dataset.json of bytes": ("msd", {"dataset.json": b"\xff\xfe"}, ["dataset.json", "not a readable JSON"]),
    "dataset.json a list": ("msd", {"dataset.json": "[]"}, ["dataset.json", "no list 'training'"]),
    "labels of nnU-Net": ("msd", changed(MSD, labels=NNUNET["labels"]), ["dataset.json", "layout=nnunet"]),
    "one name for two labels": ("msd", changed(MSD, labels={"1": "LV", "2": "LV"}), ["the same name", "its own"]),
    "a file that is not there": ("msd", listed({"image": "imagesTr/e.nii.gz"}), ["imagesTr/e.nii.gz", "missing"]),
    "a file elsewhere": ("msd", listed({"image": "../e.nii.gz"}), ["'../e.nii.gz'", "outside of this folder"]),
    "an absolute file": ("msd", listed({"image": "/etc/e.nii.gz"}), ["'/etc/e.nii.gz'", "outside of this folder"]),
    "an image twice": ("msd", listed(MSD["training"][0]), ["two training images named", "'a'"]),
    "a text for an entry": ("msd", listed("imagesTr/e.nii.gz"), ["training entry", "correct it"]),
    "a modality too many": ("msd", {"imagesTr/b.nii.gz": BOTH}, ["b.nii.gz", "2 channels", "1 modalities"]),
    "a region": ("nnunet", changed(NNUNET, labels={"heart": [1, 2, 3]}), ["dataset.json", "heart", "a region"]),
    "labels as text": ("nnunet", changed(NNUNET, labels={"LV": "1"}), ["dataset.json", "numbers without quotes"]),
    "no number of a channel": ("nnunet", {"imagesTr/e.nii.gz": IMAGE}, ["e.nii.gz", "name it e_0000.nii.gz"]),
    "a channel missing": ("nnunet", {"imagesTr/b_0002.nii.gz": IMAGE}, ["b has no channel _0001"]),
    "an ending unknown": ("nnunet", changed(NNUNET, file_ending=".tif"), ["file_ending is '.tif'", "convert"]),
    "a patient in two splits": ("png_tree", {"val/Img/a_2.png": GREY["a"]}, ["val/Img/a_2.png", "also in trainFull"]),
    "a PNG cut off": ("png_tree", {"val/Img/c_1.png": b"\x89PNG\r\n\x1a\n"}, ["val/Img/c_1.png", "not a readable PNG"]),
    "a mask in colours": ("png_tree", {"val/GT/c_1.png": COLOURS}, ["val/GT/c_1.png", "save it as grey"]),
    "a slice missing": ("png_tree", {"val/Img/c_3.png": GREY["c"]}, ["c_3.png", "no slice 2"]),
    "slices of two sizes": ("png_tree", {"val/Img/c_2.png": GREY["c"].T}, ["c_2.png", "its size"]),
    "a grey value unknown": ("png_tree", {"val/GT/c_1.png": GREY["c"]}, ["val/GT/c_1.png", "unknown label values"]),
    "no tree": ("png_tree", dict.fromkeys(GOOD["png_tree"]), ["trainFull/Img", "give the folder that does"]),
    "no HDF5": ("wsl4mis", {"b.h5": "text"}, ["b.h5", "not a readable HDF5"]),
    "no image inside": ("wsl4mis", {"b.h5": {"label": MASK}}, ["b.h5", "no 'image'"]),
    "a slice of a volume": ("wsl4mis", {"b.h5": {"image": IMAGE[0]}}, ["b.h5", "three axes"]),
    "a scribble that is closed": (
        "wsl4mis",
        {"b.h5": {"image": IMAGE, "label": MASK, "scribble": MASK}},
        ["b.h5", "no voxel of its scribble has the value", "--config.data.unlabeled"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUT_FILES)
def test_a_data_set_that_cannot_be_used(refused, tmp_path, case):
    layout, files, words = LAYOUT_FILES[case]
    data = write(tmp_path / "data", GOOD[layout] | files)
    refused(["prepare", *of_data(layout, data), f"--output={tmp_path / 'new'}"], words)
