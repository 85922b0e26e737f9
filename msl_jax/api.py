"""The Python API: train a run, load it, segment arrays, score label maps.

    import msl_jax
    run = msl_jax.train("configs/acdc_cpu.py:strong=3", workdir="runs/a", **{"data.source": "ACDC"})
    run = msl_jax.load("runs/a")
    labels = run.predict(image, spacing=(8, 1.4, 1.4))
    msl_jax.evaluate(labels, reference, labels={"LV": 3}, spacing=(8, 1.4, 1.4))

Volumes are NumPy arrays (slice, y, x), with several channels (slice, y, x, channel). Voxel sizes are (slice, y, x),
usually in mm. The commands do the same with files and give the same results.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import os
from typing import Any

from absl import logging
from etils import epath
from ml_collections import ConfigDict
import numpy as np

from msl_jax.data.formats import volumes
from msl_jax.data.preparation import NATIVE, STRETCH
from msl_jax.errors import InputError, warn_all
from msl_jax.evaluation.folders import unlabeled_value
from msl_jax.evaluation.results import score
from msl_jax.inference.ensemble import Ensemble
from msl_jax.runs import journal
from msl_jax.settings.objects import preparation_of
from msl_jax.settings.parsing import parse_config, with_settings
from msl_jax.system import machine
from msl_jax.system.paths import expanded
from msl_jax.training.complete import train_and_evaluate

PathLike = str | os.PathLike[str]


class Run:
    """One or more trained runs, whose probabilities are averaged. Returned by `train` and `load`.

    Attributes:
      workdirs: the runs' folders.
    """

    def __init__(self, workdirs: Sequence[PathLike]):
        """Reads the configs of one or more runs; each network is read once, when first used.

        Raises:
          InputError: a folder contains no run, or the runs have different structures or kinds of images.
        """
        if not workdirs:
            raise InputError("workdir: is empty; give the folder of one or more runs.")
        self._ensemble = Ensemble([_folder(workdir, "workdir") for workdir in workdirs])
        self.workdirs = self._ensemble.workdirs

    def __repr__(self) -> str:
        """The call that loads the runs."""
        folders = [os.fspath(workdir) for workdir in self.workdirs]
        return f"msl_jax.load({folders[0]!r})" if len(folders) == 1 else f"msl_jax.load({folders!r})"

    @property
    def config(self) -> ConfigDict:
        """All settings of the run; with several runs, of the first."""
        return self._ensemble.configs[0]

    @property
    def splits(self) -> dict[str, Any]:
        """splits.json: "train", "validation", "test", "strong", "weak" -> patients.

        Raises:
          InputError: there are several runs, or the file is missing or damaged.
        """
        return self._json("splits.json")

    @property
    def history(self) -> dict[str, np.ndarray]:
        """metrics.csv: column -> float64 (reports,), NaN if not measured; empty without the file.

        Raises:
          InputError: there are several runs.
        """
        rows = journal.read(self._only() / "metrics.csv")
        return {column: np.array([row[column] for row in rows], np.float64) for column in (rows[0] if rows else ())}

    @property
    def results(self) -> dict[str, Any]:
        """results/test.json: Dice, HD95 and ASSD of the test split, by branch and structure.

        Raises:
          InputError: there are several runs, or the file is missing or damaged.
        """
        return self._json("results/test.json")

    def predict(
        self, image: np.ndarray, *, spacing: Sequence[float] | None = None, branch: str | None = None
    ) -> np.ndarray:
        """The label map of a volume, with only the largest component of the structures for which the runs selected it.

        Args:
          image: (slice, y, x) or (slice, y, x, channel), intensities as stored, in the orientation of the run's
            training slices.
          spacing: voxel size along (slice, y, x), in the unit of the training images. Slices are resampled to the
            run's `config.data.spacing`; only if that is "stretch" or "native", it may be left out.
          branch: "teacher" or "student"; None for the one that each run selected, or the student without validation.

        Returns:
          uint8 (slice, y, x), the data set's own label values.

        Raises:
          InputError: an argument is wrong, or a network cannot be read.
        """
        voxels, spacing = self._voxels(image), self._spacing(spacing)
        with _command_environment():
            self._ensemble.load(branch)
            label_map, _ = self._ensemble.label_map(voxels, spacing, self._ensemble.turns_of_slices(), branch)
            return self._ensemble.keep_largest(label_map, self._ensemble.selected_structures(branch))

    def probabilities(
        self,
        image: np.ndarray,
        *,
        spacing: Sequence[float] | None = None,
        branch: str | None = None,
        calibrated: bool = False,
    ) -> np.ndarray:
        """The probability of each class in each voxel of a volume; with several runs, the mean.

        Args:
          image: as in `predict`.
          spacing: as in `predict`.
          branch: as in `predict`.
          calibrated: scale each run's probabilities by the temperature that was fitted on its validation cases.

        Returns:
          float32 (slice, y, x, class) on the volume's own grid, background first, then as in `config.data.classes`.

        Raises:
          InputError: as `predict`, or a run has no temperature.
        """
        voxels, spacing = self._voxels(image), self._spacing(spacing)
        with _command_environment():
            self._ensemble.load(branch, calibrated)
            turns = self._ensemble.turns_of_slices()
            return self._ensemble.probabilities(voxels, spacing, turns, branch, calibrated=calibrated)

    def _voxels(self, image: np.ndarray) -> np.ndarray:
        """An image as float32 (slice, y, x, channel); raises InputError if it cannot be segmented."""
        image = _array(image, "image")
        if image.ndim not in (3, 4):
            raise InputError(f"image: has {image.ndim} axes; give (slice, y, x) or (slice, y, x, channel).")
        channels, expected = image.shape[3] if image.ndim == 4 else 1, self.config.data.channels
        if channels != expected:
            raise InputError(
                f"image: has {channels} channels, the run was trained on {expected}; give (slice, y, x, {expected})."
            )
        return volumes.as_voxels(image, "image")

    def _spacing(self, spacing: Sequence[float] | None) -> Sequence[float]:
        """The checked voxel size, or 1 where no run needs it; raises InputError if it is wrong or missing."""
        if spacing is None:
            targets = [preparation_of(config).spacing for config in self._ensemble.configs]
            needed = next((target for target in targets if target not in (STRETCH, NATIVE)), None)
            if needed is not None:
                raise InputError(
                    f"spacing: is missing, but the run resamples slices to pixels of {needed[0]:g} x {needed[1]:g}; "
                    "give the voxel size along (slice, y, x)."
                )
            return (1.0, 1.0, 1.0)
        _check_spacing(spacing)
        return spacing

    def _only(self) -> epath.Path:
        """The folder of the only run; raises InputError if there are several."""
        if len(self.workdirs) > 1:
            raise InputError(f"workdir: {len(self.workdirs)} runs were loaded, each with its own files; load only one.")
        return self.workdirs[0]

    def _json(self, name: str) -> dict[str, Any]:
        path = self._only() / name
        if not path.exists():
            raise InputError(f"{path}: is missing; finish training the run.")
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: is damaged; train the run again.") from error


def train(config: PathLike | ConfigDict, workdir: PathLike, **settings: Any) -> Run:
    """Trains an experiment and evaluates its test split; resumes an unfinished run in `workdir`.

    Args:
      config: an experiment of the package ("phantom") or a config file, which is executed, either with an optional
        ":ARG" ("configs/acdc.py:strong=3,seed=1"); or a ConfigDict from `settings.load`.
      workdir: the run's folder, created if missing.
      **settings: settings to change, by dotted keys: `**{"data.source": "ACDC", "train.steps": 100}`.

    Returns:
      The run.

    Raises:
      InputError: a setting, a file or the folder is invalid.
      Interrupted: SIGINT or SIGTERM was received; the state is saved, and the same call resumes the run.
    """
    folder = _folder(workdir, "workdir")
    if isinstance(config, str | os.PathLike):
        parsed = parse_config(os.fspath(config), f"config={os.fspath(config)}")
    elif isinstance(config, ConfigDict):
        parsed = config
    else:
        raise InputError(f"config: is of type {type(config).__name__}; give a name, a path or a ConfigDict.")
    parsed = with_settings(parsed, settings, "config")
    with _command_environment():
        train_and_evaluate(parsed, folder)
    return Run([folder])


def load(workdir: PathLike | Sequence[PathLike]) -> Run:
    """Loads a trained run, or several, like seeds or folds, to average their probabilities.

    Args:
      workdir: the folder of a run or of all folds of a cross-validation, or several folders.

    Raises:
      InputError: a folder contains no run or not all folds, or the runs have different structures or kinds of images.
    """
    return Run([workdir] if isinstance(workdir, str | os.PathLike) else list(workdir))


def evaluate(
    prediction: np.ndarray,
    reference: np.ndarray,
    labels: Mapping[str, int],
    spacing: Sequence[float],
    *,
    unlabeled: int | None = None,
) -> dict[str, dict[str, float]]:
    """Dice, 95 % Hausdorff distance and average symmetric surface distance of the structures of one case, in 3-D.

    A structure missing from one of the two has Dice 0, from both Dice 1; its distances are NaN. Values that are not in
    `labels` count as background, with a warning.

    Args:
      prediction: label map (slice, y, x), whole numbers from 0 to 255.
      reference: label map of the same shape.
      labels: name -> value of every structure to score, from 1 to 255.
      spacing: voxel size along (slice, y, x); the distances have its unit.
      unlabeled: value of unlabelled voxels of the reference, which are not scored; None for 255, unless a structure has
        it.

    Returns:
      Structure -> {"dice": .., "hd95": .., "assd": ..}, Dice in [0, 1].

    Raises:
      InputError: an argument is wrong, or the reference has no labelled voxel.
    """
    labels = _labels(labels)
    if unlabeled is not None and unlabeled not in range(256):
        raise InputError(f"unlabeled: is {unlabeled}; give a label value from 0 to 255.")
    unlabeled = unlabeled_value(labels, unlabeled, "labels", "unlabeled")
    _check_spacing(spacing)
    prediction, reference = _label_map(prediction, "prediction"), _label_map(reference, "reference")
    if prediction.shape != reference.shape:
        raise InputError(
            f"prediction: has shape {prediction.shape}, the reference {reference.shape}; give equal shapes."
        )
    known = reference != unlabeled
    if not known.any():
        raise InputError(f"reference: every voxel is unlabelled ({unlabeled}); label some to score it.")
    warn_all(_warnings(set(np.unique(prediction[known]).tolist()), set(np.unique(reference[known]).tolist()), labels))
    return score(np.where(known, prediction, 0), np.where(known, reference, 0), labels, tuple(map(float, spacing)))


@contextlib.contextmanager
def _command_environment() -> Iterator[None]:
    """Sets up JAX as the commands do, and stops libraries from logging errors that they also raise."""
    machine.set_up()
    before = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _warnings(predicted: set[int], present: set[int], labels: Mapping[str, int]) -> list[str]:
    """Warnings about the values of two label maps, a sentence each."""
    warnings = []
    absent = [f"{value} of {name}" for name, value in labels.items() if value not in predicted | present]
    if absent:
        warnings.append(
            f"labels: neither prediction nor reference has the value {', '.join(absent)}, so the Dice is 1; check it."
        )
    for name, values in (("reference", present), ("prediction", predicted - present)):
        others = sorted(values - {0, *labels.values()})
        if others:
            warnings.append(f"{name}: also has the values {others}, which count as background; add them to labels.")
    return warnings


def _folder(path: PathLike, argument: str) -> epath.Path:
    """A folder's path with `~` expanded; raises InputError if it is empty or not a path."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{argument}: is of type {type(path).__name__}; give a path.")
    if not os.fspath(path):
        raise InputError(f"{argument}: is empty; give a folder.")
    return epath.Path(expanded(os.fspath(path)))


def _array(array: np.ndarray, argument: str) -> np.ndarray:
    """Any NumPy-compatible array as a NumPy array; raises InputError if it is empty or not numeric."""
    if not hasattr(array, "__array__"):
        raise InputError(f"{argument}: is of type {type(array).__name__}; give a NumPy array.")
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{argument}: has values of type {array.dtype}; give plain numbers.")
    if not array.size:
        raise InputError(f"{argument}: has shape {array.shape}, which has no voxel; give a volume.")
    return array


def _label_map(array: np.ndarray, argument: str) -> np.ndarray:
    """A label map as uint8 (slice, y, x)."""
    array = _array(array, argument)
    if array.ndim != 3:
        raise InputError(f"{argument}: has {array.ndim} axes; give (slice, y, x).")
    with np.errstate(invalid="ignore"):
        labels = array.astype(np.uint8)
    wrong = array[labels != array]
    if wrong.size:
        raise InputError(f"{argument}: contains {wrong[0]:g}; give only whole numbers from 0 to 255.")
    return labels


def _labels(labels: Mapping[str, int]) -> dict[str, int]:
    """Checks structures and their values."""
    if not isinstance(labels, Mapping) or not labels:
        raise InputError(f"labels: is {labels!r}; give structures and their values, like {{'LV': 3}}.")
    for name, value in labels.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or not 1 <= value <= 255:
            raise InputError(f"labels: {name} has the value {value!r}; give a whole number from 1 to 255.")
    if len(set(labels.values())) < len(labels):
        raise InputError(f"labels: {dict(labels)} gives two structures the same value; give each its own.")
    return {name: int(value) for name, value in labels.items()}


def _check_spacing(spacing: Sequence[float]) -> None:
    """Raises InputError unless it is three positive finite numbers."""
    try:
        sizes = np.asarray(spacing, np.float64)
    except (TypeError, ValueError):
        sizes = np.array(np.nan)
    if sizes.shape != (3,) or not np.all(np.isfinite(sizes) & (sizes > 0)):
        raise InputError(f"spacing: is {spacing}; give three positive numbers, the voxel size along (slice, y, x).")
