"""What the readers of folders share: files by name, labels as they are given, label maps as a case wants them."""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import numpy as np

from msl_jax import paths
from msl_jax.checks import Refused, refuse_all
from msl_jax.data import volumes
from msl_jax.data.case import UNLABELED, Source


def folder(source: Source, *holds: str) -> pathlib.Path:
    """The data set's folder; raises Refused unless it is one and holds these."""
    path = pathlib.Path(paths.expanded(source.path))
    if not path.is_dir():
        raise Refused(f"{path}: no such folder; give the data set's by --config.data.source=FOLDER.")
    for name in holds:
        if not (path / name).exists():
            raise Refused(f"{path}: holds no {name}; give the folder that does, or another --config.data.layout.")
    return path


def by_name(folder: pathlib.Path, endings: tuple[str, ...] = volumes.ENDINGS) -> dict[str, pathlib.Path]:
    """Name without ending -> file, sorted by name; of a folder that is not there, nothing.

    Raises:
      Refused: the folder holds anything else that is not hidden, two files of one name, or one of no text in UTF-8.
    """
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        volumes.check_name(path)
        end = next((end for end in endings if path.name.endswith(end)), None)
        if end is None or path.is_dir():
            raise Refused(f"{path}: is no file that ends in {', '.join(endings)}; convert it or move it elsewhere.")
        name = path.name.removesuffix(end)
        if name in found:
            raise Refused(f"{path}: lies beside {found[name].name}; keep one of them.")
        found[name] = path
    return dict(sorted(found.items()))


def check_have_images(images: Mapping[str, Any], files: Mapping[str, pathlib.Path]) -> None:
    """Raises Refused where files, by the name of a case, have no image."""
    refuse_all(
        [
            f"{path}: has no image of that name; add it, or take this file away."
            for name, path in files.items()
            if name not in images
        ]
    )


def read_json(path: pathlib.Path, **keys: type) -> dict[str, Any]:
    """A file that holds a JSON object; raises Refused unless it does, with these keys and values of these types."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{path}: is no readable JSON file ({error}); fetch it again.") from error
    for key, kind in keys.items():
        if not isinstance(contents, dict) or not isinstance(contents.get(key), kind):
            raise Refused(f"{path}: has no {kind.__name__} '{key}'; restore the file that comes with the data set.")
    return contents


def given_labels(source: Source) -> dict[str, int]:
    """Name -> value of every structure by config.data.labels; raises Refused where that is empty."""
    if not source.labels:
        raise Refused(
            f"config.data.labels: is empty, and layout '{source.layout}' does not name the structures; give their "
            "values in the config file or by --config.data.labels=LV=3,MYO=2."
        )
    return dict(source.labels)


def check_labels(where: Any, labels: Mapping[str, Any], *unlabeled: int, highest: int = UNLABELED - 1) -> None:
    """Raises Refused unless these are structures' values, each another from 1 up and none of `unlabeled`."""
    if not labels:
        raise Refused(f"{where}: names no structure; add one with its value.")
    for name, value in labels.items():
        if type(value) is not int or not 1 <= value <= highest:
            raise Refused(f"{where}: {name} is {value!r}; give a whole number from 1 to {highest}.")
        if value in unlabeled:
            raise Refused(f"{where}: {name} has the value {value} of pixels nobody annotated; give each its own.")
    if len(set(labels.values())) < len(labels):
        raise Refused(f"{where}: two structures have one value in {dict(labels)}; give each its own.")


def values(labels: Mapping[str, int], *unlabeled: int) -> dict[int, int]:
    """Value in a file -> value in a case, where the file has the labels' values and pixels nobody annotated."""
    return {value: value for value in (0, *labels.values())} | dict.fromkeys(unlabeled, UNLABELED)


def label_map(image: volumes.Volume, labels: volumes.Volume, values: Mapping[int, int]) -> np.ndarray:
    """What a case holds for a file of labels: uint8 (slice, y, x).

    Args:
      image: the image whose labels these are.
      labels: the file.
      values: value in the file -> value in the case.

    Raises:
      Refused: the grids differ, or the file holds another value.
    """
    volumes.check_same_grid(image, labels)
    volumes.check_values(labels, set(values))
    table = np.zeros(256, np.uint8)
    table[list(values)] = list(values.values())
    return table[labels.voxels]


def read_label_map(image: volumes.Volume, path: pathlib.Path | None, values: Mapping[int, int]) -> np.ndarray | None:
    """The same of a volume's file; None where there is none."""
    return None if path is None else label_map(image, volumes.read_labels(path), values)


def of_image(image: volumes.Volume) -> dict[str, Any]:
    """The fields of a Case that its image's file gives."""
    return {
        "image": image.voxels,
        "spacing": image.spacing,
        "units": image.units,
        "orientation": image.orientation,
        "remarks": image.remarks,
    }
