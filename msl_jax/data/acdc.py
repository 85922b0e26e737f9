"""ACDC, the Automated Cardiac Diagnosis Challenge (Bernard et al., IEEE TMI 2018), in the challenge's own layout.

`source` is the folder that holds `training/`, or `training/` itself:

    training/patient001/Info.cfg                            ED, ES (frame numbers), Group
    training/patient001/patient001_frame01.nii.gz           image
    training/patient001/patient001_frame01_gt.nii.gz        mask
    training/patient001/patient001_frame01_scribble.nii.gz  expert scribble (Valvano et al., TMI 2021), where fetched
"""

from collections.abc import Iterator
import functools
import pathlib

from msl_jax.checks import Refused
from msl_jax.data import layouts, volumes
from msl_jax.data.case import Case, Load, Reader, Source, hash_of

LABELS = {"RV": 1, "MYO": 2, "LV": 3}
SCRIBBLE_UNLABELED = 4
PHASES = ("ED", "ES")


NOT_IMAGES = ("_gt", "_scribble", "_4d")
"""How the names of files end that lie among the images and are none."""


def fingerprint(source: Source) -> str:
    """SHA-256 over names and contents of every file the reader may open."""
    return hash_of(
        (f"{folder.name}/{path.name}", path)
        for folder in _patient_folders(source)
        for path in sorted(p for p in folder.iterdir() if p.is_file() and not volumes.stem(p).endswith("_4d"))
    )


def read(source: Source) -> Iterator[Load]:
    """Yields what reads both annotated frames of every patient, in the order of the patients' names.

    Raises:
      Refused: a file is missing, damaged or on another grid than its image, or a label has an unknown value.
    """
    for folder in _patient_folders(source):
        for phase in PHASES:
            yield functools.partial(_read_case, folder, phase)


def _patient_folders(source: Source) -> list[pathlib.Path]:
    root = pathlib.Path(source.path).expanduser()
    if not root.is_dir():
        raise Refused(f"{root}: no such folder; give the folder of ACDC by --config.data.source=FOLDER.")
    root = root / "training" if (root / "training").is_dir() else root
    folders = sorted(path for path in root.glob("patient*") if path.is_dir())
    if not folders:
        raise Refused(f"{root}: holds no folders patient001, patient002, ...; give the folder that holds training/.")
    return folders


def _read_info(path: pathlib.Path) -> dict[str, str]:
    if not path.is_file():
        raise Refused(f"{path}: is missing; every patient's folder needs the Info.cfg that comes with ACDC.")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    info = {key.strip(): value.strip() for key, value in pairs}
    for key in (*PHASES, "Group"):
        if not info.get(key):
            raise Refused(f"{path}: has no line '{key}: ...'; restore the file that comes with ACDC.")
    return info


def _frame(folder: pathlib.Path, info: dict[str, str], phase: str) -> int:
    if not info[phase].isdecimal() or len(info[phase]) > 9:
        raise Refused(f"{folder / 'Info.cfg'}: {phase} is '{info[phase]}', a frame number is needed.")
    return int(info[phase])


def _read_case(folder: pathlib.Path, phase: str) -> Case:
    info = _read_info(folder / "Info.cfg")
    frame = _frame(folder, info, phase)
    name = f"{folder.name}_frame{frame:02d}"
    image = volumes.read_image(_existing(folder, name))
    if image.voxels.shape[-1] > 1:
        raise Refused(f"{image.path}: has {image.voxels.shape[-1]} channels; ACDC's images have one, fetch it again.")
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
        raise Refused(f"{folder / name}.nii.gz: is missing, though Info.cfg names this frame; fetch it again.")
    return path


def images(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, ...]]:
    """Every volume's file below the folder but masks, scribbles and whole series."""
    return volumes.single_files(folder, NOT_IMAGES)


READER = Reader(labels=lambda source: LABELS, fingerprint=fingerprint, read=read, images=images)
