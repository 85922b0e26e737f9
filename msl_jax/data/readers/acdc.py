"""ACDC, the Automated Cardiac Diagnosis Challenge (Bernard et al., IEEE TMI 2018), in the challenge's layout.

`source` is the folder that contains `training/`, or `training/` itself:

    training/patient001/Info.cfg                            ED, ES (frame numbers), Group
    training/patient001/patient001_frame01.nii.gz           image
    training/patient001/patient001_frame01_gt.nii.gz        mask
    training/patient001/patient001_frame01_scribble.nii.gz  expert scribble (Valvano et al., TMI 2021), optional
"""

from collections.abc import Iterator
import functools
import pathlib

from msl_jax.data.case import Case, Load, Reader, Source, hash_of
from msl_jax.data.formats import volumes
from msl_jax.data.readers import layouts
from msl_jax.errors import InputError
from msl_jax.system.paths import expanded

LABELS = {"RV": 1, "MYO": 2, "LV": 3}
SCRIBBLE_UNLABELED = 4
PHASES = ("ED", "ES")
INFO = "Info.cfg"
NOT_IMAGES = ("_gt", "_scribble", "_4d")
"""Endings of the names of files in the same folders that are not images."""


def fingerprint(source: Source) -> str:
    """SHA-256 over names and contents of all files that the reader may open."""
    return hash_of(
        (f"{folder.name}/{path.name}", path)
        for folder in _patient_folders(source)
        for path in sorted(p for p in folder.iterdir() if p.is_file() and not volumes.stem(p).endswith("_4d"))
    )


def read(source: Source) -> Iterator[Load]:
    """Yields a loader for each annotated frame, two for each patient, in the order of patients' names.

    Raises:
      InputError: a file is missing, damaged or on another grid than its image, or a label is unknown.
    """
    for folder in _patient_folders(source):
        for phase in PHASES:
            yield functools.partial(_read_case, folder, phase)


def _patient_folders(source: Source) -> list[pathlib.Path]:
    root = pathlib.Path(expanded(source.path))
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder of ACDC with --config.data.source=FOLDER.")
    root = root / "training" if (root / "training").is_dir() else root
    folders = sorted(path for path in root.glob("patient*") if path.is_dir())
    if not folders:
        raise InputError(
            f"{root}: contains no folders patient001, patient002, ...; give the folder that contains training/."
        )
    return folders


def _read_info(folder: pathlib.Path) -> dict[str, str]:
    path = folder / INFO
    found = sorted(p.name for p in folder.iterdir() if p.name.lower().endswith(path.suffix) and p.name[0] != ".")
    if found != [INFO]:
        raise InputError(
            f"{folder}: contains {' and '.join(found) or f'no {INFO}'}; restore the one {INFO} of ACDC in each "
            "patient's folder."
        )
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    pairs = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    info = dict(pairs)
    for key in (*PHASES, "Group"):
        count = sum(name == key and value != "" for name, value in pairs)
        if count != 1:
            raise InputError(f"{path}: has {count or 'no'} lines '{key}: ...'; restore ACDC's file.")
    for phase in PHASES:
        if not info[phase].isdecimal() or len(info[phase]) > 9:
            raise InputError(f"{path}: {phase} is '{info[phase]}'; give the number of a frame.")
    if len({int(info[phase]) for phase in PHASES}) < len(PHASES):
        raise InputError(f"{path}: ED and ES are both frame {info['ED']}; restore ACDC's file.")
    return info


def _read_case(folder: pathlib.Path, phase: str) -> Case:
    info = _read_info(folder)
    frame = int(info[phase])
    name = f"{folder.name}_frame{frame:02d}"
    image = volumes.read_image(_existing(folder, name))
    if image.voxels.shape[-1] > 1:
        raise InputError(
            f"{image.path}: has {image.voxels.shape[-1]} channels, but ACDC's images have one; download it again."
        )
    mask, scribble = _existing(folder, f"{name}_gt"), volumes.find(folder, f"{name}_scribble")
    return Case(
        name=name,
        patient=folder.name,
        mask=layouts.read_label_map(image, mask, layouts.values(LABELS)),
        annotation=layouts.read_label_map(image, scribble, layouts.values(LABELS, SCRIBBLE_UNLABELED)),
        group=info["Group"],
        phase=phase,
        frame=frame,
        **layouts.of_image(image),
    )


def _existing(folder: pathlib.Path, name: str) -> pathlib.Path:
    path = volumes.find(folder, name)
    if path is None:
        raise InputError(f"{folder / name}.nii.gz: is missing, but Info.cfg lists this frame; download it again.")
    return path


def images(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, ...]]:
    """All images below the folder, without masks, scribbles and 4D series."""
    return volumes.single_files(folder, NOT_IMAGES)


READER = Reader(labels=lambda source: LABELS, fingerprint=fingerprint, read=read, images=images, oriented=True)
