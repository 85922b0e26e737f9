import json
import shutil

import h5py
import numpy as np
from PIL import Image
import pytest

from files import at
from msl_jax.data.case import load_all
from msl_jax.data.readers import acdc, folder, msd, nnunet, png_tree, wsl4mis

LABELS = {"RV": 1, "MYO": 2, "LV": 3}
PATIENTS = ("patient001", "patient022", "patient081")


def copy_acdc(patients, to, *layout):
    """Copies images, masks and scribbles of patients to the paths in `layout`, with {} for the case's name."""
    for patient in patients:
        for path in patient.glob("*_gt.nii.gz"):
            case = path.name.removesuffix("_gt.nii.gz")
            for end, name in zip(("", "_gt", "_scribble"), layout, strict=False):
                target = to / name.format(case)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(patient / f"{case}{end}.nii.gz", target)


def as_acdc(patients, to):
    for patient in patients:
        shutil.copytree(patient, to / "training" / patient.name)


def as_nnunet(patients, to):
    """Dataset027_ACDC as written by nnU-Net's conversion."""
    copy_acdc(patients, to, "imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz")
    index = {"channel_names": {"0": "cineMRI"}, "labels": {"background": 0, **LABELS}, "file_ending": ".nii.gz"}
    (to / "dataset.json").write_text(json.dumps(index | {"numTraining": 6}))


def as_folder(patients, to):
    copy_acdc(patients, to, "images/{}.nii.gz", "masks/{}.nii.gz", "annotations/{}.nii.gz")


def as_msd(patients, to):
    copy_acdc(patients, to, "imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz")
    names = sorted(path.name for path in (to / "imagesTr").iterdir())
    entries = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    labels = {"0": "background"} | {str(value): name for name, value in LABELS.items()}
    (to / "dataset.json").write_text(json.dumps({"labels": labels, "modality": {"0": "MRI"}, "training": entries}))


def as_wsl4mis(patients, to):
    (to / "ACDC_training_volumes").mkdir(parents=True)
    as_acdc(patients, to / "acdc")
    for case in load_all(acdc.read(at("acdc", to / "acdc"))):
        with h5py.File(to / "ACDC_training_volumes" / f"{case.name}.h5", "w") as file:
            file["image"], file["label"] = case.image[..., 0], case.mask
            file["scribble"] = np.where(case.annotation == 255, 4, case.annotation)


def as_png(patients, to):
    as_acdc(patients, to / "acdc")
    for case in load_all(acdc.read(at("acdc", to / "acdc"))):
        for kind, voxels in (("Img", case.image[..., 0].astype(np.uint16)), ("GT", case.mask)):
            (to / "val" / kind).mkdir(parents=True, exist_ok=True)
            for number, pixels in enumerate(voxels):
                Image.fromarray(pixels).save(to / "val" / kind / f"{case.name}_{number}.png")


CONVERSIONS = {
    "nnunet": (nnunet, as_nnunet, {"patient": r"(patient\d+)_"}),
    "folder": (folder, as_folder, {"patient": r"(patient\d+)_", "labels": LABELS, "unlabeled": 4}),
    "msd": (msd, as_msd, {"patient": r"(patient\d+)_"}),
    "png_tree": (png_tree, as_png, {"patient": r"(patient\d+)_", "labels": LABELS}),
    "wsl4mis": (wsl4mis, as_wsl4mis, {}),
}


@pytest.mark.parametrize("layout", CONVERSIONS)
def test_patients_of_acdc_are_the_same_in_every_layout(acdc_folder, tmp_path, layout):
    reader, convert, settings = CONVERSIONS[layout]
    patients = [acdc_folder / "training" / name for name in PATIENTS]
    as_acdc(patients, tmp_path / "acdc")
    convert(patients, tmp_path / layout)
    source = at(layout, tmp_path / layout, **settings)
    assert reader.labels(source) == LABELS
    official = [load() for load in acdc.read(at("acdc", tmp_path / "acdc"))]
    assert len(official) == 6
    for one, other in zip(official, load_all(reader.read(source)), strict=True):
        for field in ("name", "patient", "spacing", "units"):
            assert getattr(one, field) == getattr(other, field)
        if layout not in ("png_tree", "wsl4mis"):
            np.testing.assert_array_equal(one.directions, other.directions)
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)
        assert one.image.dtype == other.image.dtype and one.mask.dtype == other.mask.dtype
        if layout in ("folder", "wsl4mis"):
            np.testing.assert_array_equal(one.annotation, other.annotation)
