"""What the readers of folders share: files by name, labels as they are given, label maps as a case wants them."""

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

BESIDE = (".json", ".txt", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", "desktop.ini", "thumbs.db")
"""How names end, in lower case, that are passed over: notes and what systems leave behind, never images or masks."""


def folder(source: Source, *holds: str) -> pathlib.Path:
    """The data set's folder; raises InputError unless it is one and holds these."""
    path = pathlib.Path(expanded(source.path))
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give the data set's by --config.data.source=FOLDER.")
    check_holds(path, *holds)
    return path


def check_holds(folder: pathlib.Path, *names: str) -> None:
    """Raises InputError unless a folder holds these."""
    for name in names:
        if not (folder / name).exists():
            raise InputError(f"{folder}: holds no {name}; give the folder that does, or another --config.data.layout.")


def by_name(folder: pathlib.Path, endings: tuple[str, ...] = volumes.ENDINGS) -> dict[str, pathlib.Path]:
    """Name without ending -> file, sorted by name; of a folder that is not there, nothing.

    Raises:
      InputError: the folder holds anything else that is neither hidden nor one of BESIDE, two files of one name, or one
        of no text in UTF-8.
    """
    found: dict[str, pathlib.Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        volumes.check_name(path)
        end = volumes.ending(path, (slicer.ENDING, *endings))
        if path.name.lower().endswith(BESIDE) and not path.is_dir():
            continue
        if end.lower() not in endings or path.is_dir():
            raise InputError(f"{path}: is no file that ends in {', '.join(endings)}; convert it or move it elsewhere.")
        name = path.name.removesuffix(end)
        if name in found:
            raise InputError(f"{path}: lies beside {found[name].name}; keep one of them.")
        found[name] = path
    return dict(sorted(found.items()))


def check_have_images(images: Mapping[str, Any], files: Mapping[str, pathlib.Path]) -> None:
    """Raises InputError where files, by the name of a case, have no image."""
    raise_all(
        [
            f"{path}: has no image of that name; add it, or take this file away."
            for name, path in files.items()
            if name not in images
        ]
    )


def read_json(path: pathlib.Path, **keys: type) -> dict[str, Any]:
    """A file that holds a JSON object; raises InputError unless it does, with these keys and values of these types."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no readable JSON file ({error}); fetch it again.") from error
    if not isinstance(contents, dict) and not keys:
        raise InputError(f"{path}: holds no JSON object; restore the file that comes with the data set.")
    for key, kind in keys.items():
        if not isinstance(contents, dict) or not isinstance(contents.get(key), kind):
            raise InputError(f"{path}: has no {kind.__name__} '{key}'; restore the file that comes with the data set.")
    return contents


def inside(index: pathlib.Path, name: Any) -> pathlib.Path:
    """A file that an index in a data set's folder names, also with backslashes, or from the root of the file system.

    Raises:
      InputError: it does not lie below that folder.
    """
    root, text = index.parent, name if isinstance(name, str) else ".."
    path = pathlib.PurePosixPath(text.replace("\\", "/"))
    for base in (root.absolute(), root.resolve()):
        path = path.relative_to(base) if path.is_relative_to(base) else path
    if path.is_absolute() or pathlib.PureWindowsPath(text).is_absolute() or ".." in path.parts:
        raise InputError(f"{index}: its file {name!r} does not lie inside this folder; name one that does.")
    return root / path


def check_there(index: pathlib.Path, files: Iterable[pathlib.Path | None]) -> None:
    """Raises InputError where a file that an index names is missing, for each."""
    missing = [path for path in files if path and not os.path.isfile(path)]  # also of names that cannot be
    raise_all([f"{path}: is missing, though {index.name} names it; fetch it again." for path in missing])


def other_count(index: pathlib.Path, *counts: int) -> tuple[str, ...]:
    """A sentence where an index's numTraining is none of these counts of training cases."""
    listed = read_json(index).get("numTraining", counts[0])
    if listed in counts:
        return ()
    return (f"{index}: its numTraining is {listed!r}, and it has {counts[0]} training cases.",)


def given_labels(source: Source) -> dict[str, int]:
    """Name -> value of every structure by config.data.labels; raises InputError where that is empty."""
    if not source.labels:
        raise InputError(
            f"config.data.labels: is empty, and layout '{source.layout}' does not name the structures; give their "
            "values in the config file or by --config.data.labels=LV=3,MYO=2."
        )
    return dict(source.labels)


def check_labels(where: Any, labels: Mapping[str, Any], *unlabeled: int, kept: bool = True) -> None:
    """Raises InputError unless these are structures' values.

    Args:
      where: what names them, for the message.
      labels: name of a structure -> its value: each another, a whole number from 1 to 255 and none of `unlabeled`.
      unlabeled: values of pixels nobody annotated.
      kept: whether a case holds the values that `in_case` gives, instead of new ones.
    """
    if not labels:
        raise InputError(f"{where}: names no structure; add one with its value.")
    for name, value in labels.items():
        if type(value) is not int or not 1 <= value <= 255:
            raise InputError(f"{where}: {name} is {value!r}; give a whole number from 1 to 255.")
        if value in unlabeled:
            raise InputError(
                f"{where}: {name} has the value {value} of pixels nobody annotated; give each its own, or say by "
                "--config.data.unlabeled=VALUE which these pixels have."
            )
    if len(set(labels.values())) < len(labels):
        raise InputError(f"{where}: two structures have one value in {dict(labels)}; give each its own.")
    if kept and len({in_case(value) for value in labels.values()}) < len(labels):
        raise InputError(
            f"{where}: structures have the values 254 and 255, of which a data set may use one; change one."
        )


def values(labels: Mapping[str, int], *unlabeled: int) -> dict[int, int]:
    """Value in a file -> value in a case, where the file has the labels' values and pixels nobody annotated."""
    return {value: in_case(value) for value in (0, *labels.values())} | dict.fromkeys(unlabeled, UNLABELED)


def label_map(image: volumes.Volume, labels: volumes.Volume, values: Mapping[int, int]) -> np.ndarray:
    """What a case holds for a file of labels: uint8 (slice, y, x).

    Args:
      image: the image whose labels these are.
      labels: the file.
      values: value in the file -> value in the case.

    Raises:
      InputError: the grids differ, or the file holds another value.
    """
    labels = volumes.labels_on_grid_of(image, labels)
    volumes.check_values(labels, set(values))
    table = np.zeros(256, np.uint8)
    table[list(values)] = list(values.values())
    return table[labels.voxels]


def read_label_map(image: volumes.Volume, path: pathlib.Path | None, values: Mapping[int, int]) -> np.ndarray | None:
    """The same of a volume's file; None where there is none."""
    return None if path is None else label_map(image, volumes.read_labels(path), values)


def of_image(image: volumes.Volume, *remarks: str) -> dict[str, Any]:
    """The fields of a Case that its image's file gives, and remarks on the data set it is of."""
    return {
        "image": image.voxels,
        "spacing": image.spacing,
        "units": image.units,
        "directions": image.directions,
        "remarks": (*image.remarks, *remarks),
    }
