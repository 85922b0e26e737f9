"""Functions that readers of folders share: find files, check labels, convert label maps."""

from collections.abc import Iterable, Mapping
import json
import os
import pathlib
from typing import Any

import numpy as np

from msl_jax.data.case import Source, in_case
from msl_jax.data.formats import slicer, volumes
from msl_jax.errors import InputError, raise_all
from msl_jax.labels import UNLABELED
from msl_jax.system.paths import expanded

IGNORED = (".json", ".txt", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", "desktop.ini", "thumbs.db")
"""Endings, in lower case, of ignored files: notes and files of operating systems, never images or masks."""


def folder(source: Source, *names: str) -> pathlib.Path:
    """The data set's folder; raises InputError unless it exists and contains these names."""
    path = pathlib.Path(expanded(source.path))
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give the data set's folder with --config.data.source=FOLDER.")
    check_contains(path, *names)
    return path


def check_contains(folder: pathlib.Path, *names: str) -> None:
    """Raises InputError unless a folder contains these names."""
    for name in names:
        if not (folder / name).exists():
            raise InputError(f"{folder}: contains no {name}; give another folder or another --config.data.layout.")


def by_name(folder: pathlib.Path, endings: tuple[str, ...] = volumes.ENDINGS) -> dict[str, pathlib.Path]:
    """Name without ending -> file, sorted by name; empty if the folder does not exist.

    Raises:
      InputError: the folder contains another entry that is neither hidden nor IGNORED, two files have the same name, or
        a name is not valid UTF-8.
    """
    found: dict[str, pathlib.Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        volumes.check_name(path)
        end = volumes.ending(path, (slicer.ENDING, *endings))
        if path.name.lower().endswith(IGNORED) and not path.is_dir():
            continue
        if end.lower() not in endings or path.is_dir():
            raise InputError(f"{path}: is not a file that ends in {', '.join(endings)}; convert it or move it.")
        name = path.name.removesuffix(end)
        if name in found:
            raise InputError(f"{path}: has the same name as {found[name].name}; keep one of them.")
        found[name] = path
    return dict(sorted(found.items()))


def check_have_images(images: Mapping[str, Any], files: Mapping[str, pathlib.Path]) -> None:
    """Raises InputError if files have no image of the same name; keys are names of cases."""
    raise_all(
        [
            f"{path}: has no image of the same name; add the image, or remove this file."
            for name, path in files.items()
            if name not in images
        ]
    )


def read_json(path: pathlib.Path, **keys: type) -> dict[str, Any]:
    """The JSON object of a file; raises InputError unless it has these keys with values of these types."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not a readable JSON file ({error}); download it again.") from error
    if not isinstance(contents, dict) and not keys:
        raise InputError(f"{path}: contains no JSON object; restore the data set's file.")
    for key, kind in keys.items():
        if not isinstance(contents, dict) or not isinstance(contents.get(key), kind):
            raise InputError(f"{path}: has no {kind.__name__} '{key}'; restore the data set's file.")
    return contents


def listed_file(index: pathlib.Path, name: Any) -> pathlib.Path:
    """The path of a file that an index lists; the name may have backslashes or be an absolute path.

    Raises:
      InputError: the file is outside of the index's folder.
    """
    root, text = index.parent, name if isinstance(name, str) else ".."
    path = pathlib.PurePosixPath(text.replace("\\", "/"))
    for base in (root.absolute(), root.resolve()):
        path = path.relative_to(base) if path.is_relative_to(base) else path
    if path.is_absolute() or pathlib.PureWindowsPath(text).is_absolute() or ".." in path.parts:
        raise InputError(f"{index}: its file {name!r} is outside of this folder; list only files inside it.")
    return root / path


def check_exist(index: pathlib.Path, files: Iterable[pathlib.Path | None]) -> None:
    """Raises InputError with one line for each missing file that an index lists."""
    missing = [path for path in files if path and not os.path.isfile(path)]  # False for invalid names
    raise_all([f"{path}: is missing, but {index.name} lists it; download it again." for path in missing])


def count_remarks(index: pathlib.Path, *counts: int) -> tuple[str, ...]:
    """A warning if an index's numTraining is not one of these counts of training cases."""
    listed = read_json(index).get("numTraining", counts[0])
    if listed in counts:
        return ()
    return (f"{index}: its numTraining is {listed!r}, but it has {counts[0]} training cases.",)


def configured_labels(source: Source) -> dict[str, int]:
    """Name -> value of every structure in config.data.labels; raises InputError if it is empty."""
    if not source.labels:
        raise InputError(
            f"config.data.labels: is empty, and layout '{source.layout}' does not name the structures; give their "
            "values in the config file or with --config.data.labels=LV=3,MYO=2."
        )
    return dict(source.labels)


def check_labels(where: Any, labels: Mapping[str, Any], *unlabeled: int, kept: bool = True) -> None:
    """Raises InputError unless labels are valid.

    Args:
      where: file or setting that defines them, for the message.
      labels: name of a structure -> its value: distinct whole numbers from 1 to 255, none of `unlabeled`.
      unlabeled: values of unlabelled pixels.
      kept: whether cases keep the values, as by `in_case`, instead of new ones.
    """
    if not labels:
        raise InputError(f"{where}: names no structure; add one with its value.")
    for name, value in labels.items():
        if type(value) is not int or not 1 <= value <= 255:
            raise InputError(f"{where}: {name} is {value!r}; give a whole number from 1 to 255.")
        if value in unlabeled:
            raise InputError(
                f"{where}: {name} has the value {value} of unlabelled pixels; give it another value, or correct "
                "theirs with --config.data.unlabeled=VALUE."
            )
    if len(set(labels.values())) < len(labels):
        raise InputError(f"{where}: two structures have the same value in {dict(labels)}; give each its own.")
    if kept and len({in_case(value) for value in labels.values()}) < len(labels):
        raise InputError(
            f"{where}: structures have the values 254 and 255, but a data set may use only one of them; change one."
        )


def values(labels: Mapping[str, int], *unlabeled: int) -> dict[int, int]:
    """Value in a file -> value in a case, for background, structures and unlabelled pixels."""
    return {value: in_case(value) for value in (0, *labels.values())} | dict.fromkeys(unlabeled, UNLABELED)


def label_map(image: volumes.Volume, labels: volumes.Volume, values: Mapping[int, int]) -> np.ndarray:
    """A file's label map as stored in a case, uint8 (slice, y, x).

    Args:
      image: the image of these labels.
      labels: the file's volume.
      values: value in the file -> value in the case.

    Raises:
      InputError: the grids differ, or the file has another value.
    """
    labels = volumes.labels_on_grid_of(image, labels)
    volumes.check_values(labels, set(values))
    table = np.zeros(256, np.uint8)
    table[list(values)] = list(values.values())
    return table[labels.voxels]


def read_label_map(image: volumes.Volume, path: pathlib.Path | None, values: Mapping[int, int]) -> np.ndarray | None:
    """Reads a `label_map` from a file; None without a file."""
    return None if path is None else label_map(image, volumes.read_labels(path), values)


def of_image(image: volumes.Volume, *remarks: str) -> dict[str, Any]:
    """The fields of a Case from its image's file, plus remarks on the data set."""
    return {
        "image": image.voxels,
        "spacing": image.spacing,
        "units": image.units,
        "directions": image.directions,
        "remarks": (*image.remarks, *remarks),
    }
