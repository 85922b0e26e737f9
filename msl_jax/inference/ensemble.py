"""One run, or several of the same structures: probabilities and label maps of volumes in memory."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import pathlib

from etils import epath
import numpy as np

from msl_jax.data.formats import orientation
from msl_jax.data.formats.orientation import UNTURNED, Turn
from msl_jax.errors import InputError
from msl_jax.inference.components import largest_components
from msl_jax.inference.segmenter import Segmenter, Slab, load_network
from msl_jax.inference.temperature import scaled
from msl_jax.models.initial import Variables
from msl_jax.runs import selection
from msl_jax.runs.config import read_config, runs_in
from msl_jax.settings.objects import directions_of, method_of, preparation_of
from msl_jax.system import scratch

AGREE = ("layout", "classes", "channels")
"""Keys of config.data that must be equal in all runs of an ensemble."""


RunSlabs = Iterator[tuple[slice, list[np.ndarray]]]
"""Slices of the volume as a run turns it, and probabilities of some branches, float32 (n, y, x, classes)."""
MeanSlab = tuple[Turn, slice, list[np.ndarray]]
"""How the volume is turned (as for the first run), some of its slices then, and mean probabilities."""


class Ensemble:
    """One or more runs whose probabilities are averaged. Each network is read once, when first needed.

    Attributes:
      workdirs: the runs' folders, one for each fold of a cross-validation.
      configs: their filled-in configs.
      selections: how each of them predicts.
    """

    def __init__(self, workdirs: Sequence[epath.Path]):
        """Reads the runs' configs.

        Args:
          workdirs: the folders of runs or of the folds of a cross-validation, at least one.

        Raises:
          InputError: a folder contains no run, not all folds, or a damaged selection.json, or the runs have different
            structures or kinds of images.
        """
        self.workdirs = tuple(run for workdir in workdirs for run in runs_in(workdir))
        self.configs = tuple(read_config(workdir) for workdir in self.workdirs)
        self.selections = tuple(
            selection.read(workdir, config) for workdir, config in zip(self.workdirs, self.configs, strict=True)
        )
        self._networks: dict[int, tuple[Segmenter, Variables]] = {}
        first, *others = self.configs
        for workdir, other in zip(self.workdirs[1:], others, strict=True):
            for key in AGREE:
                here, there = (config.to_dict()["data"][key] for config in (first, other))
                if here != there or (key == "classes" and list(here) != list(there)):
                    raise InputError(
                        f"workdir: {workdir} has data.{key} {there} and {self.workdirs[0]} {here}; they must agree."
                    )

    def branches(self, branch: str | None = None) -> list[str]:
        """Each run's branch: `branch`, or by default the one that the run selected."""
        return [branch or selected.branch for selected in self.selections]

    def selected_structures(self, branch: str | None = None) -> list[str]:
        """The structures of which all runs selected to keep only the largest component."""
        kept = [s.largest_component[name] for s, name in zip(self.selections, self.branches(branch), strict=True)]
        return [name for name in kept[0] if all(name in names for names in kept)]

    def keep_largest(self, label_map: np.ndarray, structures: Sequence[str]) -> np.ndarray:
        """A label map, uint8 (slice, y, x), with only the largest component of these structures."""
        return largest_components(label_map, [self.configs[0].data.classes[name] for name in structures])

    def load(self, branch: str | None = None, calibrated: bool = False) -> None:
        """Reads the networks that are not loaded yet.

        Raises:
          InputError: a run has no readable checkpoint, did not train the branch, or has no temperature to calibrate it.
        """
        for index, name in enumerate(self.branches(branch)):
            self._network(index, (name,))
            if calibrated and name not in self.selections[index].temperature:
                raise InputError(
                    f"{self.workdirs[index]}: has no temperature of the {name}; with validation cases, rerun the "
                    "training command, which fits it without training; else do not ask for calibrated probabilities."
                )

    def turns(self, directions: np.ndarray | None) -> list[Turn]:
        """For each run, how to reorient a file's volume with these axis directions (None: unknown)."""
        return [orientation.turn_of(directions, directions_of(c), c.data.axis)[0] for c in self.configs]

    def turns_of_slices(self) -> list[Turn]:
        """For each run, how to reorient a volume that is oriented as the first run's training slices."""
        known = [directions for config in self.configs if (directions := directions_of(config)) is not None]
        if len(known) < len(self.configs):
            return [UNTURNED] * len(self.configs)
        return [orientation.nearest(known[0], directions)[0] for directions in known]

    def probabilities(
        self,
        voxels: np.ndarray,
        spacing: Sequence[float],
        turns: Sequence[Turn],
        branch: str | None = None,
        *,
        calibrated: bool = False,
    ) -> np.ndarray:
        """Probabilities on the volume's own grid, the mean over the runs.

        Args:
          voxels: float32 (slice, y, x, channel), intensities as stored.
          spacing: voxel size along (slice, y, x).
          turns: how to reorient the volume, one for each run.
          branch: "teacher" or "student"; None for the one that each run selected.
          calibrated: scale each run's probabilities by its temperature (inference/temperature.py) before the mean.

        Returns:
          float32 (slice, y, x, classes), background first.

        Raises:
          InputError: as `load`, or the disk has too little space for those of runs with different orientations.
        """
        result = np.empty(self._shape(voxels), np.float32)
        for turn, slices, (mean,) in self._slabs(voxels, spacing, turns, self._one_branch(branch), calibrated):
            turn.apply(result)[slices] = mean
        return result

    def label_map(
        self,
        voxels: np.ndarray,
        spacing: Sequence[float],
        turns: Sequence[Turn],
        branch: str | None = None,
        *,
        calibrated: bool = False,
        scratch_folder: pathlib.Path | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The most probable class in each voxel; arguments and errors as of `probabilities`.

        Returns:
          uint8 (slice, y, x), the data set's own label values; and the probabilities in a temporary file in
          `scratch_folder`, or None without a folder.
        """
        values = preparation_of(self.configs[0]).value_of_class()
        labels = np.empty(voxels.shape[:3], np.uint8)
        kept = None if scratch_folder is None else scratch.array(self._shape(voxels), scratch_folder)
        for turn, slices, (mean,) in self._slabs(voxels, spacing, turns, self._one_branch(branch), calibrated):
            turn.apply(labels)[slices] = values[mean.argmax(-1)]
            if kept is not None:
                turn.apply(kept)[slices] = mean
        return labels, kept

    def slabs_by_branch(
        self, voxels: np.ndarray, spacing: Sequence[float], turns: Sequence[Turn]
    ) -> Iterator[dict[str, np.ndarray]]:
        """Branch of the first run's method -> mean probabilities (n, y, x, classes), the student last, slab by slab.

        Slices are those of the first run. Arguments and errors are those of `probabilities`.
        """
        names = tuple(method_of(self.configs[0]).branches())
        for _, _, means in self._slabs(voxels, spacing, turns, [names] * len(self.configs)):
            yield dict(zip(names, means, strict=True))

    def _one_branch(self, branch: str | None) -> list[tuple[str, ...]]:
        return [(name,) for name in self.branches(branch)]

    def _shape(self, voxels: np.ndarray) -> tuple[int, ...]:
        return (*voxels.shape[:3], 1 + len(self.configs[0].data.classes))

    def _slabs(
        self,
        voxels: np.ndarray,
        spacing: Sequence[float],
        turns: Sequence[Turn],
        branches: Sequence[tuple[str, ...]],
        calibrated: bool = False,
    ) -> Iterator[MeanSlab]:
        """The mean over the runs, slab by slab; each run has as many `branches`, whose means are in that order."""
        runs = []
        lengths = set()
        for index, (turn, names) in enumerate(zip(turns, branches, strict=True)):
            segmenter, variables = self._network(index, names)
            turned, size = turn.apply(voxels), turn.spacing(spacing)
            lengths.add(segmenter.slab_length(turned.shape, size))
            temperatures = self.selections[index].temperature if calibrated else {}
            runs.append((turn, _of_branches(names, temperatures, segmenter.slabs(variables, turned, size))))
        alike = len(lengths) == 1 and len(set(turns)) == 1
        return _together(runs) if alike else _one_by_one(runs, (len(branches[0]), *self._shape(voxels)))

    def _network(self, index: int, branches: tuple[str, ...]) -> tuple[Segmenter, Variables]:
        """A run's network for some branches; the arrays of all branches are loaded together."""
        workdir, config = self.workdirs[index], self.configs[index]
        trained = tuple(method_of(config).branches())
        for branch in set(branches) - set(trained):
            raise InputError(
                f"branch: is '{branch}', but method '{config.method.name}' of {workdir} trains "
                f"{' and '.join(trained)}; give one of these."
            )
        if index not in self._networks:
            self._networks[index] = load_network(workdir, config.eval.checkpoint)[:2]
        segmenter, variables = self._networks[index]
        return dataclasses.replace(segmenter, branches=branches), variables


def _of_branches(names: Sequence[str], temperatures: Mapping[str, float], slabs: Iterator[Slab]) -> RunSlabs:
    """The branches' probabilities, at their temperatures if they have one."""
    for slices, slab in slabs:
        yield slices, [scaled(slab[name], temperatures[name]) if temperatures else slab[name] for name in names]


def _together(runs: Sequence[tuple[Turn, RunSlabs]]) -> Iterator[MeanSlab]:
    """The mean of runs that have the same turn and equal slabs."""
    turn = runs[0][0]
    for slabs in zip(*(slabs for _, slabs in runs), strict=True):
        of_branches = zip(*(probabilities for _, probabilities in slabs), strict=True)
        yield turn, slabs[0][0], [np.mean(probabilities, axis=0) for probabilities in of_branches]


def _one_by_one(runs: Sequence[tuple[Turn, RunSlabs]], shape: Sequence[int]) -> Iterator[MeanSlab]:
    """The mean of any runs, by way of their sums (branch, slice, y, x, classes) on disk."""
    totals = scratch.array(shape)
    for turn, slabs in runs:
        for slices, of_branches in slabs:
            for total, probabilities in zip(totals, of_branches, strict=True):
                turn.apply(total)[slices] += probabilities
    turn = runs[0][0]
    turned = [turn.apply(total) for total in totals]
    for first in range(len(turned[0])):
        slices = slice(first, first + 1)
        yield turn, slices, [np.asarray(total[slices]) / len(runs) for total in turned]
