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
from msl_jax.runs.config import read_config
from msl_jax.settings.resolved import directions_of, method_of, preparation_of

AGREE = ("layout", "classes", "channels")
"""Keys of config.data in which runs must agree to segment together."""


class Ensemble:
    """Runs that segment together: the mean of their probabilities decides. Each network is read once, when needed.

    Attributes:
      workdirs: the runs' folders.
      configs: their filled-in configs.
    """

    def __init__(self, workdirs: Sequence[epath.Path], argument: str = "--workdir"):
        """Reads the runs' configs.

        Args:
          workdirs: the runs' folders, at least one.
          argument: what the caller names them by, for the message.

        Raises:
          InputError: a folder holds no run, or the runs do not segment the same structures of the same kind of images.
        """
        self.workdirs = tuple(workdirs)
        self.configs = tuple(read_config(workdir) for workdir in workdirs)
        self._networks: dict[int, tuple[Segmenter, Variables]] = {}
        first, *others = self.configs
        for workdir, other in zip(self.workdirs[1:], others, strict=True):
            for key in AGREE:
                here, there = (config.to_dict()["data"][key] for config in (first, other))
                if here != there or (key == "classes" and list(here) != list(there)):
                    raise InputError(
                        f"{argument}: {workdir} has data.{key} {there} and {self.workdirs[0]} {here}; they must agree."
                    )

    def branches(self, branch: str | None = None) -> list[str]:
        """Each run's branch: the one that is asked for; if None, the student, or the teacher where it is alone."""
        return [branch or list(method_of(config).branches())[-1] for config in self.configs]

    def load(self, branch: str | None = None) -> None:
        """Reads the networks that were not read yet.

        Raises:
          InputError: a run has no checkpoint that can be read, or has not trained the branch.
        """
        for index, name in enumerate(self.branches(branch)):
            self._network(index, name)

    def turns(self, directions: np.ndarray | None) -> list[Turn]:
        """How a file's volume that lies in these directions (None: unknown) is turned for each run."""
        return [orientation.turn_of(directions, directions_of(c), c.data.axis)[0] for c in self.configs]

    def turns_of_slices(self) -> list[Turn]:
        """How a volume that lies as the first run's training slices do is turned for each run."""
        directions = [found for config in self.configs if (found := directions_of(config)) is not None]
        if len(directions) < len(self.configs):
            return [UNTURNED] * len(self.configs)
        return [orientation.nearest(directions[0], found)[0] for found in directions]

    def probabilities(self, voxels: np.ndarray, turns: Sequence[Turn], branch: str | None = None) -> np.ndarray:
        """Probabilities on the volume's own grid, the mean over the runs.

        Args:
          voxels: float32 (slice, y, x, channel), intensities as stored.
          turns: of the volume, one for each run.
          branch: "teacher" or "student"; None for the student, or the teacher where it is alone.

        Returns:
          float32 (slice, y, x, classes), background first.

        Raises:
          InputError: as `load`.
        """
        found = []
        for index, (turn, name) in enumerate(zip(turns, self.branches(branch), strict=True)):
            segmenter, variables = self._network(index, name)
            found.append(turn.undo(segmenter.probabilities(variables, turn.apply(voxels))[name]))
        return np.mean(found, axis=0)

    def label_map(self, probabilities: np.ndarray) -> np.ndarray:
        """uint8 (slice, y, x): the likeliest class as the data set's own label value."""
        return preparation_of(self.configs[0]).value_of_class()[probabilities.argmax(-1)]

    def _network(self, index: int, branch: str) -> tuple[Segmenter, Variables]:
        """A run's network with one branch; the arrays of both branches are read at once."""
        workdir, config = self.workdirs[index], self.configs[index]
        trained = tuple(method_of(config).branches())
        if branch not in trained:
            raise InputError(
                f"--branch={branch}: method '{config.method.name}' trains {' and '.join(trained)} alone; ask for that."
            )
        if index not in self._networks:
            self._networks[index] = load_network(workdir, config.eval.checkpoint)[:2]
        segmenter, variables = self._networks[index]
        return dataclasses.replace(segmenter, branches=(branch,)), variables
