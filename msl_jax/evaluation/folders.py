"""Scores a folder of predictions against a folder of references."""

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
    """Scores every prediction against the reference of the same name + `suffix`; both folders are searched recursively.

    References without a prediction, or without any labelled voxel, are skipped with a warning that names them.
    Probabilities next to their label map are skipped, too. The part of a name before the frame is the patient
    (patient001_frame01 belongs to patient001); a name without a frame is its own patient.

    Args:
      predictions: folder of label maps.
      references: folder of label maps.
      labels: name -> value of every structure to score.
      suffix: suffix of the references' names.
      unlabeled: value of unlabelled voxels of the references, which are not scored; None for UNLABELED, unless a
        structure has it.

    Raises:
      InputError: a folder is missing or empty, a prediction has no reference or several, or their grids differ.
    """
    unlabeled = unlabeled_value(labels, unlabeled, "--labels", "--unlabeled")
    reference_paths: dict[str, list[pathlib.Path]] = {}
    for path in _files(references):
        reference_paths.setdefault(volumes.stem(path), []).append(path)
    prediction_paths: dict[str, pathlib.Path] = {}
    for path in _files(predictions):
        name = volumes.stem(path)
        if name in prediction_paths:
            raise InputError(f"{path}: is the second prediction named {name} below {predictions}; one is needed.")
        prediction_paths[name] = path
    rows, scored, unlabeled_names = [], [], []
    present, predicted = set(), set()
    for name, path in prediction_paths.items():
        if name.endswith("_prob") and name.removesuffix("_prob") in prediction_paths:
            continue
        matches = reference_paths.get(name + suffix, [])
        if len(matches) != 1:
            raise InputError(
                f"{path}: has {len(matches)} references named {name}{suffix} below {references}; one is needed."
            )
        prediction = volumes.read_labels(path)
        reference = volumes.labels_on_grid_of(prediction, volumes.read_labels(matches[0]))
        known = reference.voxels != unlabeled
        if not known.any():
            unlabeled_names.append(name + suffix)
            continue
        predicted.update(np.unique(prediction.voxels[known]).tolist())
        scored.append(dataclasses.replace(reference, voxels=np.empty(0)))
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
    warn_all(_unpredicted(set(reference_paths).difference(unlabeled_names), rows, suffix))
    warn_all(_left_out(unlabeled_names, others, predicted - others - {0, *labels.values()}))
    return results(rows, shared_unit(scored), None), rows


def unlabeled_value(
    labels: Mapping[str, int], unlabeled: int | None, labels_name: str, unlabeled_name: str
) -> int | None:
    """The value of unlabelled voxels: as given, or else UNLABELED; None if that is the value of a structure.

    Args:
      labels: name -> value of every structure to score.
      unlabeled: the value, if given.
      labels_name: the caller's name of `labels`, for the message.
      unlabeled_name: the caller's name of `unlabeled`.

    Raises:
      InputError: a structure has the given value.
    """
    if unlabeled is None:
        return None if UNLABELED in labels.values() else UNLABELED
    if unlabeled in labels.values():
        raise InputError(
            f"{labels_name}: {unlabeled} is both a structure and the value of unlabelled voxels; give another value as "
            f"{unlabeled_name}."
        )
    return unlabeled


def _unpredicted(references: Collection[str], rows: Sequence[Row], suffix: str) -> Iterator[str]:
    """A warning about references without a prediction."""
    scored = {row["case"] + suffix for row in rows}
    missing = sorted(name for name in references if name.endswith(suffix) and name not in scored)
    if missing:
        yield (
            f"{counted(len(missing), 'reference')} without a prediction, not scored: {few(missing)}; predict these, "
            "too, to score them."
        )


def _left_out(
    unlabeled: Sequence[str], in_references: Collection[int], in_predictions: Collection[int]
) -> Iterator[str]:
    """Warnings about references without labelled voxels, and about unknown values."""
    if unlabeled:
        yield (
            f"{counted(len(unlabeled), 'reference')} without any labelled voxel, not scored: {few(unlabeled)}; label "
            "these to score them."
        )
    if in_references:
        yield (
            f"The references also contain the values {sorted(in_references)}, which count as background; add them to "
            "--labels, or give the one of unlabelled voxels as --unlabeled."
        )
    if in_predictions:
        yield (
            f"The predictions contain the values {sorted(in_predictions)}, which count as background; if they are "
            "structures, use the references' values."
        )


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one with label maps.")
    files = volumes.find_all(folder)
    if not files:
        raise InputError(f"{folder}: contains no volumes; give a folder with {', '.join(volumes.ENDINGS)} files.")
    return files
