"""Scores of a folder of predictions against a folder of references."""

from collections.abc import Collection, Iterator, Mapping, Sequence
import dataclasses
import pathlib
import re
from typing import Any

import numpy as np

from msl_jax.data.case import shared_unit
from msl_jax.data.formats import volumes
from msl_jax.errors import InputError, warn_all
from msl_jax.evaluation.results import Row, results, score
from msl_jax.labels import UNLABELED
from msl_jax.system.text import counted, few


def evaluate_folders(
    predictions: pathlib.Path,
    references: pathlib.Path,
    labels: Mapping[str, int],
    suffix: str = "",
    unlabeled: int | None = None,
) -> tuple[dict[str, Any], list[Row]]:
    """Scores every prediction against the reference of the same name + `suffix`, wherever below the folders they lie.

    References without a prediction, or that leave every voxel open, are left out, with a warning that names them, and
    so are probabilities beside the label map they are of. A patient is what a name says before its frame
    (patient001_frame01 is one of patient001); a name without a frame is a patient of its own.

    Args:
      predictions: folder of label maps.
      references: folder of label maps.
      labels: name -> value of every structure to score.
      suffix: of the references' names.
      unlabeled: value of voxels that a reference leaves open, which are not scored; None for UNLABELED, unless a
        structure has it.

    Raises:
      InputError: a folder is missing or empty, a prediction has no reference or two, or they lie on different grids.
    """
    unlabeled = open_value(labels, unlabeled, "--labels", "--unlabeled")
    found: dict[str, list[pathlib.Path]] = {}
    for path in _files(references):
        found.setdefault(volumes.stem(path), []).append(path)
    given: dict[str, pathlib.Path] = {}
    for path in _files(predictions):
        name = volumes.stem(path)
        if name in given:
            raise InputError(f"{path}: is the second prediction named {name} below {predictions}; one is needed.")
        given[name] = path
    rows, measured, unknown = [], [], []
    present, predicted = set(), set()
    for name, path in given.items():
        if name.endswith("_prob") and name.removesuffix("_prob") in given:
            continue
        matches = found.get(name + suffix, [])
        if len(matches) != 1:
            raise InputError(
                f"{path}: has {len(matches)} references named {name}{suffix} below {references}; one is needed."
            )
        prediction = volumes.read_labels(path)
        reference = volumes.labels_on_grid_of(prediction, volumes.read_labels(matches[0]))
        known = reference.voxels != unlabeled
        if not known.any():
            unknown.append(name + suffix)
            continue
        predicted.update(np.unique(prediction.voxels[known]).tolist())
        measured.append(dataclasses.replace(reference, voxels=np.empty(0)))
        present.update(np.unique(reference.voxels).tolist())
        scores = score(
            np.where(known, prediction.voxels, 0), np.where(known, reference.voxels, 0), labels, reference.spacing
        )
        patient = re.sub(r"_frame\d+$", "", name)
        rows.append({"case": name, "patient": patient, "branch": "prediction", "scores": scores})
    for structure, value in labels.items():
        if value not in present:
            raise InputError(
                f"--labels: no reference below {references} has the value {value} of {structure}; correct it."
            )
    others = present - {0, unlabeled, *labels.values()}
    warn_all(_unscored(set(found).difference(unknown), rows, suffix))
    warn_all(_left_out(unknown, others, predicted - others - {0, *labels.values()}))
    return results(rows, shared_unit(measured), None), rows


def open_value(labels: Mapping[str, int], unlabeled: int | None, labels_name: str, unlabeled_name: str) -> int | None:
    """The value of voxels that references leave open: UNLABELED unless given or a structure's; None for no value.

    Args:
      labels: name -> value of every structure to score.
      unlabeled: the value, if given.
      labels_name: what the caller names `labels` by, for the message.
      unlabeled_name: what the caller names `unlabeled` by.

    Raises:
      InputError: a structure has the value that is given.
    """
    if unlabeled is None:
        return None if UNLABELED in labels.values() else UNLABELED
    if unlabeled in labels.values():
        raise InputError(
            f"{labels_name}: {unlabeled} is a structure and the value of voxels that references leave open; give "
            f"another value as {unlabeled_name}."
        )
    return unlabeled


def _unscored(references: Collection[str], rows: Sequence[Row], suffix: str) -> Iterator[str]:
    """Of the references without a prediction, a sentence."""
    scored = {row["case"] + suffix for row in rows}
    missing = sorted(name for name in references if name.endswith(suffix) and name not in scored)
    if missing:
        yield (
            f"{counted(len(missing), 'reference')} without a prediction, which the means leave out: "
            f"{few(missing)}; predict these, too, to score them."
        )


def _left_out(unknown: Sequence[str], in_references: Collection[int], in_predictions: Collection[int]) -> Iterator[str]:
    """Of references that leave every voxel open, and of values that are not given, a sentence each."""
    if unknown:
        yield (
            f"{counted(len(unknown), 'reference')} with every voxel open, which the means leave out: {few(unknown)}; "
            "label these to score them."
        )
    if in_references:
        yield (
            f"The references also hold the values {sorted(in_references)}, which count as background; give them by "
            "--labels, or the one of open voxels by --unlabeled."
        )
    if in_predictions:
        yield (
            f"The predictions hold the values {sorted(in_predictions)}, which count as background; if they are "
            "structures, give them the references' values."
        )


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one that holds label maps.")
    files = volumes.find_all(folder)
    if not files:
        raise InputError(
            f"{folder}: holds no volumes; give a folder of files that end in {', '.join(volumes.ENDINGS)}."
        )
    return files
