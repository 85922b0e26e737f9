"""How uncertain a run is about images without annotation, and which to annotate first.

Disagreement of two networks that learned from different labels is query by committee (Seung et al., COLT 1992).
"""

from collections.abc import Mapping
import dataclasses
import pathlib

from etils import epath
import numpy as np
from scipy import special

from msl_jax.data.formats import volumes
from msl_jax.data.readers import READERS
from msl_jax.errors import InputError, raise_all, warn_all
from msl_jax.evaluation import metrics
from msl_jax.inference.images import read_image, remarks, turn_of
from msl_jax.inference.segmenter import load_network
from msl_jax.pictures import plots
from msl_jax.runs.config import read_config
from msl_jax.system import atomic, text
from msl_jax.system.paths import check_output

SHOWN = 6
"""How many cases are drawn."""
LISTED = 10
"""How many cases are named in the terminal."""
COLUMNS = ("rank", "case", "score", "entropy", "disagreement", "slice")


@dataclasses.dataclass(frozen=True)
class Doubt:
    """How little a run knows of a volume.

    Attributes:
      entropy: mean over the voxels that a branch takes for a structure, as a share of log(classes); 1 where it finds no
        structure at all.
      disagreement: 1 less the branches' mean Dice over structures that either finds, 0 where none does; None where
        there is one branch alone.
      slice: index of the slice with the largest sum of entropy.
      of_slice: that slice's entropy, float (y, x), as a share of log(classes).
    """

    entropy: float
    disagreement: float | None
    slice: int
    of_slice: np.ndarray

    @property
    def score(self) -> float:
        """The mean of what there is of entropy and disagreement."""
        return self.entropy if self.disagreement is None else (self.entropy + self.disagreement) / 2


def doubt(probabilities: Mapping[str, np.ndarray]) -> Doubt:
    """Measures it, by the probabilities of a volume: branch -> (slice, y, x, classes), the student last."""
    labels = [p.argmax(-1) for p in probabilities.values()]
    *_, asked = probabilities.values()
    entropy = special.entr(asked).sum(-1) / np.log(asked.shape[-1])
    structure = np.any([label > 0 for label in labels], axis=0)
    worst = int(entropy.sum((1, 2)).argmax())
    return Doubt(
        entropy=float(entropy[structure].mean()) if structure.any() else 1.0,
        disagreement=None if len(labels) == 1 else _disagreement(*labels),
        slice=worst,
        of_slice=entropy[worst],
    )


def _disagreement(one: np.ndarray, other: np.ndarray) -> float:
    found = np.union1d(one[one > 0], other[other > 0])
    return float(np.mean([1 - metrics.dice(one == c, other == c) for c in found])) if found.size else 0.0


def unannotated(folder: pathlib.Path, layout: str) -> dict[str, tuple[pathlib.Path, ...]]:
    """Images below a folder without a mask or annotation beside or below it: name of the case -> its files.

    A file that is no image in this layout belongs to the case whose name its own is, or begins with before a "_".

    Raises:
      InputError: there is no such image.
    """
    cases = READERS[layout].images(folder)
    images = {path for files in cases.values() for path in files}
    others = {volumes.stem(path) for path in volumes.find_all(folder) if path not in images}
    names = {pathlib.PurePath(case).name for case in cases}
    annotated = {owner for other in others if (owner := _owner(other, names))}
    bare = {case: files for case, files in cases.items() if pathlib.PurePath(case).name not in annotated}
    if not bare:
        raise InputError(
            f"{folder}: of its {len(cases)} images none is without annotation; give a folder of such images."
        )
    if len(bare) < len(cases):
        print(f"Passing over {text.counted(len(cases) - len(bare), 'image')} with a mask or annotation.")
    return bare


def _owner(name: str, cases: set[str]) -> str:
    """The longest of the cases' names that this name is, or begins with before a "_"; "" where there is none."""
    while name and name not in cases:
        name = name.rpartition("_")[0]
    return name


def suggest(workdir: epath.Path, folder: pathlib.Path, output: pathlib.Path) -> list[tuple[str, Doubt]]:
    """Writes suggest.csv and suggest.png into `output`; returns the cases in the order in which to annotate them.

    Raises:
      InputError: the folder holds no image without annotation; or, once all others are ranked, what is wrong with each
        file that is no image or has other channels than in training.
    """
    config = read_config(workdir)
    check_output(output)
    cases = unannotated(folder, config.data.layout)
    segmenter, variables, _ = load_network(workdir, config.eval.checkpoint)
    ranked: list[tuple[str, Doubt]] = []
    shown: dict[str, plots.Segmented] = {}
    problems = []
    for name, files in cases.items():
        try:
            image = read_image(config, files)
        except InputError as refused:
            problems.append(str(refused))
            continue
        warn_all(remarks(config, image))
        turn, _ = turn_of(config, image)
        volume = turn.apply(image.voxels)
        probabilities = segmenter.probabilities(variables, volume)
        found = doubt(probabilities)
        stored = dataclasses.replace(found, slice=len(volume) - 1 - found.slice) if turn.flips[0] else found
        ranked = sorted([*ranked, (name, stored)], key=lambda pair: (-pair[1].score, pair[0]))
        shown[name] = plots.Segmented(
            name=f"{name}, slice {stored.slice + 1}",
            image=volume[found.slice, ..., 0],
            predictions={branch: p[found.slice].argmax(-1) for branch, p in probabilities.items()},
            entropy=found.of_slice,
            spacing=turn.spacing(image.spacing),
        )
        shown = {first: shown[first] for first, _ in ranked[:SHOWN] if first in shown}
    if ranked:
        output.mkdir(parents=True, exist_ok=True)
        atomic.write_text(epath.Path(output / "suggest.csv"), text.csv_text([COLUMNS, *_rows(ranked)]))
        plots.save(plots.entropies(list(shown.values()), "to annotate first"), output / "suggest.png")
    if problems and ranked:
        problems.append(f"{output}: holds the ranking of the other {text.counted(len(ranked), 'image')} of {folder}.")
    raise_all(problems)
    return ranked


def report(ranked: list[tuple[str, Doubt]], output: pathlib.Path) -> str:
    """The first cases as a table, and where the others are that `suggest` wrote into `output`."""
    cases, drawn = text.counted(len(ranked), "case"), min(SHOWN, len(ranked))
    table = text.markdown(COLUMNS, _rows(ranked)[:LISTED])
    return f"{table}\n\n{cases} ranked in {output / 'suggest.csv'}, the first {drawn} drawn beside it"


def _rows(ranked: list[tuple[str, Doubt]]) -> list[tuple]:
    """A row of COLUMNS for each case."""
    return [
        (rank, name, *(_rounded(value) for value in (found.score, found.entropy, found.disagreement)), found.slice + 1)
        for rank, (name, found) in enumerate(ranked, 1)
    ]


def _rounded(share: float | None) -> str:
    return "" if share is None else f"{share:.4f}"
