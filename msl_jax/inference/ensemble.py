"""One run, or several of the same structures: probabilities and label maps of volumes in memory."""

from collections.abc import Sequence
import dataclasses

from etils import epath
import numpy as np

from msl_jax.data.formats import orientation
from msl_jax.data.formats.orientation import UNTURNED, Turn
from msl_jax.errors import InputError
from msl_jax.inference.segmenter import Segmenter, load_network
from msl_jax.models.initial import Variables
from msl_jax.runs.config import read_config, runs_in
from msl_jax.settings.objects import directions_of, method_of, preparation_of

AGREE = ("layout", "classes", "channels")
"""Keys of config.data that must be equal in all runs of an ensemble."""


class Ensemble:
    """One or more runs whose probabilities are averaged. Each network is read once, when first needed.

    Attributes:
      workdirs: the runs' folders, one for each fold of a cross-validation.
      configs: their filled-in configs.
    """

    def __init__(self, workdirs: Sequence[epath.Path]):
        """Reads the runs' configs.

        Args:
          workdirs: the folders of runs or of the folds of a cross-validation, at least one.

        Raises:
          InputError: a folder contains no run or not all folds, or the runs have different structures or kinds of
            images.
        """
        self.workdirs = tuple(run for workdir in workdirs for run in runs_in(workdir))
        self.configs = tuple(read_config(workdir) for workdir in self.workdirs)
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
        """Each run's branch: `branch`, or by default the student, or the teacher if there is no student."""
        return [branch or list(method_of(config).branches())[-1] for config in self.configs]

    def load(self, branch: str | None = None) -> None:
        """Reads the networks that are not loaded yet.

        Raises:
          InputError: a run has no readable checkpoint, or did not train the branch.
        """
        for index, name in enumerate(self.branches(branch)):
            self._network(index, (name,))

    def turns(self, directions: np.ndarray | None) -> list[Turn]:
        """For each run, how to reorient a file's volume with these axis directions (None: unknown)."""
        return [orientation.turn_of(directions, directions_of(c), c.data.axis)[0] for c in self.configs]

    def turns_of_slices(self) -> list[Turn]:
        """For each run, how to reorient a volume that is oriented as the first run's training slices."""
        known = [directions for config in self.configs if (directions := directions_of(config)) is not None]
        if len(known) < len(self.configs):
            return [UNTURNED] * len(self.configs)
        return [orientation.nearest(known[0], directions)[0] for directions in known]

    def probabilities(self, voxels: np.ndarray, turns: Sequence[Turn], branch: str | None = None) -> np.ndarray:
        """Probabilities on the volume's own grid, the mean over the runs.

        Args:
          voxels: float32 (slice, y, x, channel), intensities as stored.
          turns: how to reorient the volume, one for each run.
          branch: "teacher" or "student"; None for the student, or the teacher if there is no student.

        Returns:
          float32 (slice, y, x, classes), background first.

        Raises:
          InputError: as `load`.
        """
        names = self.branches(branch)
        return np.mean([self._of_run(i, (names[i],), voxels, turn)[names[i]] for i, turn in enumerate(turns)], axis=0)

    def probabilities_by_branch(self, voxels: np.ndarray, turns: Sequence[Turn]) -> dict[str, np.ndarray]:
        """Probabilities of every branch of the first run's method: branch -> as `probabilities`, the student last."""
        names = tuple(method_of(self.configs[0]).branches())
        of_runs = [self._of_run(i, names, voxels, turn) for i, turn in enumerate(turns)]
        return {name: np.mean([of_run[name] for of_run in of_runs], axis=0) for name in names}

    def label_map(self, probabilities: np.ndarray) -> np.ndarray:
        """uint8 (slice, y, x): the most probable class as the data set's own label value."""
        return preparation_of(self.configs[0]).value_of_class()[probabilities.argmax(-1)]

    def _of_run(self, index: int, branches: tuple[str, ...], voxels: np.ndarray, turn: Turn) -> dict[str, np.ndarray]:
        """A run's probabilities on the volume's own grid: branch -> float32 (slice, y, x, classes)."""
        segmenter, variables = self._network(index, branches)
        turned = segmenter.probabilities(variables, turn.apply(voxels))
        return {branch: turn.undo(probabilities) for branch, probabilities in turned.items()}

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
