"""The raw layout of nnU-Net v2 (Isensee et al., Nature Methods 2021), and of v1.

    dataset.json                       channel_names {"0": "MRI"}, labels {"background": 0, "LV": 3, "ignore": 4},
                                       file_ending ".nii.gz"
    imagesTr/patient001_0000.nii.gz    image, one file for each channel: _0000, _0001, ...
    labelsTr/patient001.nii.gz         mask or sparse annotation, unlabelled where it has the value of `ignore`

An image without a file in labelsTr has no mask. A `dataset` {case: {"images": [...], "label": ...}} in dataset.json
replaces these folders; its paths are inside the data set's folder. v1's dataset.json has `modality` instead of
channel_names, labels as {"0": "background", "1": "LV"}, and no file_ending: files end in .nii.gz.
`config.data.patient` maps cases to patients.
"""

from collections.abc import Iterator, Mapping
import functools
import pathlib
import re
from typing import Any

from msl_jax.data.case import Case, Load, Reader, Source, hash_of
from msl_jax.data.formats import slicer, volumes
from msl_jax.data.readers import layouts
from msl_jax.errors import InputError

INDEX = "dataset.json"
IMAGES, MASKS = "imagesTr", "labelsTr"
IGNORE = "ignore"
CHANNEL = re.compile(r"(.+)_(\d{4})", re.ASCII | re.DOTALL)
"""Name of a case and number of the channel."""
UNSUPPORTED: Mapping[type, str] = {
    list: "a region of several values; give each label one value",
    str: 'a text; give numbers without quotes, or all labels as in v1: {"0": "background", "1": "LV"}',
}
"""Type of a label's value -> why it is invalid."""

Files = tuple[tuple[pathlib.Path, ...], pathlib.Path | None]
"""A case's image files, one for each channel in order, and its mask file or None."""


def labels(source: Source) -> dict[str, int]:
    """Name -> value of every structure in dataset.json."""
    return _labels(layouts.folder(source, INDEX) / INDEX)[0]


def modalities(source: Source) -> list[str]:
    """The name of every channel in dataset.json."""
    channels = _channels(layouts.folder(source, INDEX) / INDEX)
    return [name if isinstance(name, str) else key for key, name in channels.items()]


def fingerprint(source: Source) -> str:
    """SHA-256 over dataset.json, the images and the masks."""
    root = layouts.folder(source, INDEX)
    files = (path for image, mask in _cases(root).values() for path in (*image, mask) if path)
    return hash_of((path.relative_to(root).as_posix(), path) for path in (root / INDEX, *files))


def read(source: Source) -> Iterator[Load]:
    """Yields a loader for each training case, in the order of names.

    Raises:
      InputError: dataset.json is not as above, a channel or an image is missing, a file is damaged or on another grid
        than the first channel, or a label is unknown.
    """
    root = layouts.folder(source, INDEX)
    structures, ignored = _labels(root / INDEX)
    values = layouts.values(structures, *ignored)
    channel_count = len(_channels(root / INDEX))
    files = _cases(root)
    masked = sum(mask is not None for _, mask in files.values())
    remarks = layouts.count_remarks(root / INDEX, len(files), masked)

    def load(name: str) -> Case:
        image_paths, mask_path = files[name]
        image = volumes.read_channels(image_paths)
        channels = image.voxels.shape[-1]
        if channels != channel_count:
            raise InputError(
                f"{image.path}: {name} has {channels} channels, but {INDEX} lists {channel_count}; correct one"
                f"{volumes.or_time_points(channels)}."
            )
        mask = layouts.read_label_map(image, mask_path, values)
        return Case(name, source.patient_of(name), mask=mask, annotation=None, **layouts.of_image(image, *remarks))

    return (functools.partial(load, name) for name in files)


def images(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, ...]]:
    """All images below the folder, except in folders of masks, with their channels in order.

    If no name ends in a channel number, each file is a separate image.
    """
    files = volumes.single_files(folder, exclude_folders=(MASKS,))
    if not any(CHANNEL.fullmatch(name) for name in files):
        return files
    return _grouped({name: path for name, (path,) in files.items()})


def _labels(path: pathlib.Path) -> tuple[dict[str, int], list[int]]:
    """Name -> value of every structure, and the values of unlabelled voxels."""
    named = layouts.read_json(path, labels=dict)["labels"]
    if named and all(key.isdecimal() and type(name) is str and not name.isdecimal() for key, name in named.items()):
        named = _inverted(path, named)  # v1
    for name, value in named.items():
        if type(value) in UNSUPPORTED:
            raise InputError(f"{path}: its label {name} is {value!r}, {UNSUPPORTED[type(value)]}.")
    named = {name: int(n) if type(n) is float and n.is_integer() else n for name, n in named.items()}
    structures = {name: value for name, value in named.items() if value != 0 or name == IGNORE}
    layouts.check_labels(path, structures, kept=False)
    ignored = [structures.pop(IGNORE)] if IGNORE in structures else []
    layouts.check_labels(path, structures)
    return structures, ignored


def _inverted(path: pathlib.Path, named: Mapping[str, str]) -> dict[str, int]:
    """Value as text -> name, inverted."""
    inverted = {name: int(value) for value, name in named.items() if len(value) <= 3}
    if len(inverted) < len(named):
        raise InputError(f"{path}: two labels have the same name, or a value is above 255; correct them.")
    return inverted


def _channels(index: pathlib.Path) -> dict[str, Any]:
    """Number -> name of every channel in dataset.json, or name -> number."""
    contents = layouts.read_json(index)
    key = "modality" if "modality" in contents and "channel_names" not in contents else "channel_names"
    return layouts.read_json(index, **{key: dict})[key]


def _cases(root: pathlib.Path) -> dict[str, Files]:
    """Name -> files of the case."""
    contents = layouts.read_json(root / INDEX)
    if "dataset" in contents:
        return _listed(root / INDEX, layouts.read_json(root / INDEX, dataset=dict)["dataset"])
    layouts.check_contains(root, IMAGES)
    end = layouts.read_json(root / INDEX, file_ending=str)["file_ending"] if "file_ending" in contents else ".nii.gz"
    if end.lower() not in volumes.ENDINGS:
        raise InputError(
            f"{root / INDEX}: its file_ending is '{end}'; convert the files to {', '.join(volumes.ENDINGS)}."
        )
    ends = (end.lower(),)
    found = _grouped(layouts.by_name(root / IMAGES, ends))
    masks = layouts.by_name(root / MASKS, (slicer.ENDING, *ends) if slicer.ENDING.endswith(ends) else ends)
    layouts.check_have_images(found, masks)
    if not found:
        raise InputError(f"{root / IMAGES}: contains no images; give the folder of a raw nnU-Net data set.")
    return {name: (files, masks.get(name)) for name, files in found.items()}


def _listed(index: pathlib.Path, cases: Mapping[str, Any]) -> dict[str, Files]:
    """Name -> files of the case, from `dataset` in dataset.json."""
    found = {}
    for name, entry in sorted(cases.items()):
        volumes.check_name(index.parent / name)
        if pathlib.PureWindowsPath(name).name != name or not name.strip(".\0"):
            raise InputError(f"{index}: its case {name!r} is not a valid file name; rename it.")
        images = entry.get("images") if isinstance(entry, Mapping) else None
        if not isinstance(images, list) or not images:
            raise InputError(f'{index}: its case {name} is not {{"images": [...], "label": ...}}; correct it.')
        mask = layouts.listed_file(index, entry["label"]) if entry.get("label") else None
        found[name] = tuple(layouts.listed_file(index, image) for image in images), mask
    layouts.check_exist(index, (path for images, mask in found.values() for path in (*images, mask)))
    if not found:
        raise InputError(f"{index}: its dataset lists no cases; restore the data set's file.")
    return found


def _grouped(files: Mapping[str, pathlib.Path]) -> dict[str, tuple[pathlib.Path, ...]]:
    """NAME_0000, NAME_0001, ... -> NAME with its files in that order; raises InputError if a number is missing."""
    channels: dict[str, dict[int, pathlib.Path]] = {}
    for name, path in sorted(files.items()):
        match = CHANNEL.fullmatch(name)
        if not match:
            fixed = path.with_name(f"{volumes.stem(path)}_0000{volumes.ending(path)}").name
            raise InputError(
                f"{path}: its name does not end in a channel number; if it is the only channel, name it {fixed}."
            )
        channels.setdefault(match[1], {})[int(match[2])] = path
    for name, numbered in channels.items():
        if list(numbered) != list(range(len(numbered))):
            missing = min(set(range(max(numbered))) - set(numbered))
            path = next(iter(numbered.values()))
            raise InputError(f"{path}: {name} has no channel _{missing:04d}; add it, or remove the others.")
    return {name: tuple(numbered.values()) for name, numbered in channels.items()}


READER = Reader(labels=labels, fingerprint=fingerprint, read=read, images=images, oriented=True, modalities=modalities)
