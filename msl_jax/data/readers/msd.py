"""The layout of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 2022).

    dataset.json              labels {"0": "background", "1": "Anterior"}, modality {"0": "MRI"},
                              training [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]
    imagesTr/a.nii.gz         image, with a fourth axis for several modalities
    labelsTr/a.nii.gz         mask

An entry of `training` without a label is an image without a mask. Backslashes count as slashes; absolute paths must be
inside the folder. Unlabelled voxels of masks have the value `config.data.unlabeled`. `config.data.patient` maps cases
to patients.
"""

from collections.abc import Iterator, Mapping
import functools
import itertools
import pathlib

from msl_jax.data.case import Case, Load, Reader, Source, hash_of
from msl_jax.data.formats import volumes
from msl_jax.data.readers import layouts
from msl_jax.errors import InputError

INDEX = "dataset.json"
MASKS = "labelsTr"


def labels(source: Source) -> dict[str, int]:
    """Name -> value of every structure in dataset.json."""
    path = layouts.folder(source, INDEX) / INDEX
    named = layouts.read_json(path, labels=dict)["labels"]
    if not all(value.isdecimal() and len(value) <= 3 and isinstance(name, str) for value, name in named.items()):
        raise InputError(
            f'{path}: its labels are not like {{"0": "background", "1": "LV"}}; correct them, or use '
            "--config.data.layout=nnunet for nnU-Net's labels."
        )
    structures = {int(value): name for value, name in named.items() if int(value)}
    if len(set(structures.values())) < len(structures):
        raise InputError(f"{path}: two labels have the same name; give each its own.")
    found = {name: value for value, name in structures.items()}
    layouts.check_labels(path, found, source.unlabeled)
    return found


def modalities(source: Source) -> list[str]:
    """The modality of every channel in dataset.json."""
    index = layouts.folder(source, INDEX) / INDEX
    return [str(name) for name in layouts.read_json(index, modality=dict)["modality"].values()]


def fingerprint(source: Source) -> str:
    """SHA-256 over dataset.json and all training files that it lists."""
    root = layouts.folder(source, INDEX)
    files = (path for image, mask in _entries(root) for path in (image, mask) if path)
    return hash_of((path.relative_to(root).as_posix(), path) for path in (root / INDEX, *files))


def read(source: Source) -> Iterator[Load]:
    """Yields a loader for each training case, in the order of dataset.json.

    Raises:
      InputError: dataset.json is not as above, a file is missing, damaged or on another grid than its image, the
        number of channels is not that of modalities, or a label is unknown.
    """
    root = layouts.folder(source, INDEX)
    values = layouts.values(labels(source), source.unlabeled)
    expected = len(modalities(source))
    entries = _entries(root)
    remarks = layouts.count_remarks(root / INDEX, len(entries))

    def load(image_path: pathlib.Path, mask_path: pathlib.Path | None) -> Case:
        image = volumes.read_image(image_path)
        channels = image.voxels.shape[-1]
        if channels != expected:
            raise InputError(
                f"{image_path}: has {channels} channels, but {INDEX} lists {expected} modalities; correct one"
                f"{volumes.or_time_points(channels)}."
            )
        name = volumes.stem(image_path)
        mask = layouts.read_label_map(image, mask_path, values)
        return Case(name, source.patient_of(name), mask=mask, annotation=None, **layouts.of_image(image, *remarks))

    return (functools.partial(load, *files) for files in entries)


def images(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, ...]]:
    """All volumes below the folder, except in folders of masks."""
    return volumes.single_files(folder, exclude_folders=(MASKS,))


def _entries(root: pathlib.Path) -> list[tuple[pathlib.Path, pathlib.Path | None]]:
    """Image and mask of every training case."""
    entries, names = [], set()
    for entry in layouts.read_json(root / INDEX, training=list)["training"]:
        if not isinstance(entry, Mapping) or "image" not in entry:
            raise InputError(
                f'{root / INDEX}: its training entry {entry!r} is not {{"image": ..., "label": ...}}; correct it.'
            )
        if pathlib.PureWindowsPath(str(entry["image"])).name.startswith("._"):  # macOS files in the archives
            continue
        image = layouts.listed_file(root / INDEX, entry["image"])
        name = volumes.stem(image)
        if name in names:
            raise InputError(f"{root / INDEX}: lists two training images named '{name}'; rename one.")
        names.add(name)
        mask = layouts.listed_file(root / INDEX, entry["label"]) if entry.get("label") else None
        entries.append((image, mask))
    layouts.check_exist(root / INDEX, itertools.chain.from_iterable(entries))
    if not entries:
        raise InputError(f"{root / INDEX}: lists no training images; restore the data set's file.")
    return entries


READER = Reader(labels=labels, fingerprint=fingerprint, read=read, images=images, oriented=True, modalities=modalities)
