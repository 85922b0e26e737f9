"""Odd but valid input works and gives correct results."""

import json

import nibabel as nib
import numpy as np
import pytest

from files import SIZES, arrays, assert_case, save
from msl_jax.data import builder
from msl_jax.data.case import Source
from msl_jax.data.formats import volumes
from msl_jax.inference.segmenter import load_network
from processes import table

pytestmark = pytest.mark.filterwarnings("ignore:Glyph")  # of letters that no font of matplotlib's has
LABELS = {"RV": 1, "MYO": 2, "LV": 3}
AFFINE = np.diag([*SIZES, 1])
SHAPE = (3, 13, 11)
COUNT = arrays("odd", SHAPE)[0]


def nifti(path, stored, endianness="<", slope=(1, 0)):
    """Writes (slice, y, x) in mm, with this byte order, slope and intercept."""
    header = nib.Nifti1Header(endianness=endianness)
    header.set_data_dtype(stored.dtype.newbyteorder(endianness))
    made = nib.Nifti1Image(stored.T, AFFINE, header)
    made.header.set_xyzt_units("mm")
    contents = bytearray(made.to_bytes())
    contents[112:120] = np.array(slope, f"{endianness}f4").tobytes()
    path.write_bytes(contents)


def nifti_2(path, voxels):
    """Writes (slice, y, x) as NIfTI-2, without a unit."""
    nib.save(nib.Nifti2Image(voxels.T, AFFINE), path)


def linked(path, voxels):
    """Writes a file elsewhere and a link to it."""
    save(path.parents[1] / "elsewhere" / path.name, voxels)
    path.symlink_to(path.parents[1] / "elsewhere" / path.name)


ODD = {
    "one slice": ("one.nii.gz", COUNT[:1], save),
    "a row of pixels": ("row.nii.gz", COUNT[:, :1], save),
    "negative": ("negative.nii.gz", COUNT - 2000, save),
    "uint64": ("uint64.nii", COUNT.astype(np.uint64) << 20, nifti),
    "float64": ("float64.nii", COUNT / 7, nifti),
    "yes and no": ("bits.nii.gz", np.uint8(COUNT > 450), save),
    "big-endian": ("big.nii", COUNT, lambda path, voxels: nifti(path, voxels, ">")),
    "scaled": ("scaled.nii", COUNT * 0.5 - 3, lambda path, voxels: nifti(path, COUNT, slope=(0.5, -3))),
    "a slope of 0": ("slope.nii", COUNT, lambda path, voxels: nifti(path, voxels, slope=(0, 7))),
    "a fourth axis of 1": ("fourth.nii.gz", COUNT, lambda path, voxels: save(path, voxels[..., None])),
    "axes of 1": ("axes.nii.gz", COUNT, lambda path, voxels: save(path, voxels[..., None, None])),
    "NIfTI-2": ("second.nii.gz", COUNT, nifti_2),
    "an ending in capitals": ("capitals.NII", COUNT, nifti),
    "MetaImage": ("meta.mha", COUNT, save),
    "NRRD": ("nrrd.nrrd", COUNT, save),
    "a link": ("link.nii.gz", COUNT, linked),
    "no ASCII": ("Größe 心臓 ♥.nii.gz", COUNT, save),
    "dots, spaces and what shells take": ("a.b (1)  & 'c'; $d #e%20.nii.gz", COUNT, save),
    "the ending twice": ("twice.nii.gz.nii.gz", COUNT, save),
    "a long name": ("n" * 243 + ".nii.gz", COUNT, save),
    "a long name of two bytes a letter": ("ö" * 121 + ".nii.gz", COUNT, save),
}
"""Name of a file, its voxels (slice, y, x), and the function that writes it."""
EXPECTED = {volumes.stem(name): voxels.astype(np.float32) for name, voxels, _ in ODD.values()}
"""Case -> voxels."""


def mask_of(case):
    return arrays(case, EXPECTED[case].shape)[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of odd images with masks, itself a link, with hidden files of systems and programs."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "real" / "images").mkdir(parents=True)
    for name, voxels, write in ODD.values():
        write(folder / "real" / "images" / name, voxels)
    for case in EXPECTED:
        save(folder / "real" / "masks" / f"{case}.nii.gz", mask_of(case))
    for name in (".DS_Store", "._one.nii.gz", ".~lock.nii"):
        for kind in ("images", "masks"):
            (folder / "real" / kind / name).write_text("no volume")
    save(folder / "real" / "images" / ".ipynb_checkpoints" / "one.nii.gz", COUNT)
    (folder / "data").symlink_to(folder / "real", target_is_directory=True)
    return folder / "data"


def test_a_data_set_of_odd_images_is_read_correctly(command, data, tmp_path):
    values = {"source": data, "labels": "RV=1,MYO=2,LV=3", "cache": tmp_path, "strong": 1, "size": 32}
    settings = [f"--config.data.{key}={value}" for key, value in values.items()]
    code, err = command("prepare", "--config=configs/nifti.py", *settings, f"--output={tmp_path / 'look'}")
    assert not code and (tmp_path / "look" / "cases.png").exists(), err
    built = builder.build(Source("folder", str(data), LABELS), str(tmp_path))
    assert {entry.name for entry in built.entries} == set(EXPECTED)
    for entry in built.entries:
        case = built.case(entry)
        assert_case(case, entry.name, EXPECTED[entry.name], mask_of(entry.name))
        assert case.spacing == SIZES[::-1] and case.units == "mm"


@pytest.fixture
def predictions(command, drawn, data, tmp_path):
    """Label maps and probabilities of the odd images, which are in a linked folder of the input."""
    (tmp_path / "in" / ".Trash").mkdir(parents=True)
    (tmp_path / "in" / ".Trash" / "old.nii").write_text("no volume")
    (tmp_path / "in" / "linked").symlink_to(data / "images", target_is_directory=True)
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in", target_is_directory=True)
    flags = [f"--workdir={drawn}", f"--input={tmp_path / 'in'}"]
    code, err = command("predict", *flags, f"--output={tmp_path / 'out'}", "--save_probabilities")
    assert not code, err
    return tmp_path / "out" / "linked"


def test_predictions_of_odd_images_are_those_of_their_voxels(predictions, drawn, data):
    segmenter, variables, _ = load_network(drawn)
    found = {volumes.stem(path): path for path in predictions.iterdir()}
    assert found.keys() == EXPECTED.keys() | {f"{case}_prob" for case in EXPECTED}
    for case, voxels in EXPECTED.items():
        probabilities = segmenter.probabilities(variables, voxels[..., None], SIZES[::-1])["student"]
        labels = volumes.read_labels(found[case])
        volumes.check_same_grid(volumes.read_image(data / "images" / found[case].name), labels)
        np.testing.assert_array_equal(labels.voxels, segmenter.label_map(probabilities))
        if np.ptp(probabilities):  # constant images cannot be read
            written = volumes.read_image(found[f"{case}_prob"])
            volumes.check_same_grid(labels, written)
            np.testing.assert_allclose(written.voxels, probabilities, atol=1e-6)


def test_odd_label_maps_are_evaluated(command, data, tmp_path):
    folders = [f"--predictions={data / 'masks'}", f"--references={data / 'masks'}"]
    code, err = command("evaluate", *folders, "--labels=RV=1,MYO=2,LV=3", f"--output={tmp_path / 'r.json'}")
    assert not code, err
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["cases"] == len(ODD) and results["units"] == "mm"
    assert all(of["dice"]["mean"] == 1 and of["hd95"]["mean"] == 0 for of in results["branches"]["prediction"].values())


def test_odd_images_are_ranked(command, drawn, data, tmp_path):
    code, err = command("suggest", f"--workdir={drawn}", f"--input={data / 'images'}", f"--output={tmp_path}")
    assert not code, err
    assert {row["case"] for row in table(tmp_path / "suggest.csv")} == set(EXPECTED)
