"""Ranks unannotated images by a run's uncertainty, to choose which to annotate first.

Disagreement of two networks that learned from different labels is query by committee (Seung et al., COLT 1992).
"""

from collections.abc import Iterable, Mapping
import dataclasses
import pathlib

from etils import epath
import numpy as np
from scipy import special

from msl_jax.data.formats import volumes
from msl_jax.data.readers import READERS
from msl_jax.errors import InputError, raise_all, warn_all
from msl_jax.evaluation import metrics
from msl_jax.inference.ensemble import Ensemble
from msl_jax.inference.images import readable_images, remarks
from msl_jax.inference.segmenter import joined, most_probable
from msl_jax.pictures import plots
from msl_jax.system import atomic, text
from msl_jax.system.paths import check_output

SHOWN = 6
"""Number of cases in the picture."""
LISTED = 10
"""Number of cases in the terminal."""
COLUMNS = ("rank", "case", "score", "entropy", "disagreement", "slice")


@dataclasses.dataclass(frozen=True)
class Uncertainty:
    """A run's uncertainty about a volume.

    Attributes:
      entropy: mean entropy / log(classes) over the voxels that any branch labels as a structure; 1 if there are none.
      disagreement: 1 - mean Dice between the branches, over structures that either predicts; 0 if there are none, None
        with only one branch.
      slice: index of the slice with the largest sum of entropy.
      slice_entropy: entropy / log(classes) of that slice, float (y, x).
      slice_classes: branch -> the most probable class in that slice, uint8 (y, x).
    """

    entropy: float
    disagreement: float | None
    slice: int
    slice_entropy: np.ndarray
    slice_classes: Mapping[str, np.ndarray]

    @property
    def score(self) -> float:
        """The mean of entropy and disagreement; with one branch, the entropy."""
        return self.entropy if self.disagreement is None else (self.entropy + self.disagreement) / 2


def uncertainty(slabs: Iterable[Mapping[str, np.ndarray]]) -> Uncertainty:
    """Computes it from the probabilities of consecutive slices: branch -> (n, y, x, classes), the student last."""
    parts, entropies = [], []
    for slab in slabs:
        *_, last = slab.values()
        parts.append(most_probable(slab))
        entropies.append(special.entr(last).sum(-1) / np.log(last.shape[-1]))
    classes, entropy = joined(parts), np.concatenate(entropies)
    structure = np.any([labels > 0 for labels in classes.values()], axis=0)
    worst = int(entropy.sum((1, 2)).argmax())
    return Uncertainty(
        entropy=float(entropy[structure].mean()) if structure.any() else 1.0,
        disagreement=None if len(classes) == 1 else _disagreement(*classes.values()),
        slice=worst,
        slice_entropy=entropy[worst],
        slice_classes={branch: labels[worst] for branch, labels in classes.items()},
    )


def _disagreement(one: np.ndarray, other: np.ndarray) -> float:
    classes = np.union1d(one[one > 0], other[other > 0])
    return float(np.mean([1 - metrics.dice(one == c, other == c) for c in classes])) if classes.size else 0.0


def unannotated(folder: pathlib.Path, layout: str) -> dict[str, tuple[pathlib.Path, ...]]:
    """Images below a folder without a mask or annotation there: name of the case -> its files.

    A file that is no image in this layout annotates the case NAME if it is named NAME or NAME_anything.

    Raises:
      InputError: there is no such image.
    """
    cases = READERS[layout].images(folder)
    images = {path for files in cases.values() for path in files}
    others = {volumes.stem(path) for path in volumes.find_all(folder) if path not in images}
    names = {pathlib.PurePath(case).name for case in cases}
    annotated = {owner for other in others if (owner := _owner(other, names))}
    selected = {case: files for case, files in cases.items() if pathlib.PurePath(case).name not in annotated}
    if not selected:
        raise InputError(f"{folder}: all of its {len(cases)} images are annotated; give unannotated ones.")
    if len(selected) < len(cases):
        print(f"Skipping {text.counted(len(cases) - len(selected), 'image')} with a mask or annotation.")
    return selected


def _owner(name: str, cases: set[str]) -> str:
    """The longest case name that equals `name`, or `name` up to a "_"; "" if there is none."""
    while name and name not in cases:
        name = name.rpartition("_")[0]
    return name


def suggest(workdir: epath.Path, folder: pathlib.Path, output: pathlib.Path) -> list[tuple[str, Uncertainty]]:
    """Writes suggest.csv and suggest.png into `output`; returns the cases in the order to annotate them.

    Args:
      workdir: the folder of a run, or of the folds of a cross-validation, whose probabilities are averaged.
      folder: images, searched recursively; those with a mask or annotation are skipped.
      output: the output folder.

    Raises:
      InputError: there is no run, or not all folds, or the folder contains no unannotated image. Files that are no
        images or have other channels than in training are listed after all others are ranked.
    """
    ensemble = Ensemble([workdir])
    config = ensemble.configs[0]
    check_output(output)
    cases = unannotated(folder, config.data.layout)
    ensemble.load()
    ranked: list[tuple[str, Uncertainty]] = []
    shown: dict[str, plots.Segmented] = {}
    problems: list[str] = []
    for name, image in readable_images(config, cases, problems):
        warn_all(remark for run_config in ensemble.configs for remark in remarks(run_config, image))
        turn, *_ = turns = ensemble.turns(image.directions)
        volume, spacing = turn.apply(image.voxels), turn.spacing(image.spacing)
        turned = uncertainty(ensemble.slabs_by_branch(image.voxels, image.spacing, turns))
        stored = dataclasses.replace(turned, slice=len(volume) - 1 - turned.slice) if turn.flips[0] else turned
        ranked = sorted([*ranked, (name, stored)], key=lambda pair: (-pair[1].score, pair[0]))
        shown[name] = plots.Segmented(
            name=f"{name}, slice {stored.slice + 1}",
            image=volume[turned.slice, ..., 0],
            predictions=turned.slice_classes,
            entropy=turned.slice_entropy,
            spacing=spacing,
        )
        shown = {first: shown[first] for first, _ in ranked[:SHOWN] if first in shown}
    if ranked:
        output.mkdir(parents=True, exist_ok=True)
        atomic.write_text(epath.Path(output / "suggest.csv"), text.csv_text([COLUMNS, *_rows(ranked)]))
        plots.save(plots.entropies(list(shown.values()), "to annotate first"), output / "suggest.png")
    if problems and ranked:
        problems.append(
            f"{output}: contains the ranking of the other {text.counted(len(ranked), 'image')} of {folder}."
        )
    raise_all(problems)
    return ranked


def report(ranked: list[tuple[str, Uncertainty]], output: pathlib.Path) -> str:
    """The first cases as a table, and the path of the full ranking in `output`."""
    cases, shown = text.counted(len(ranked), "case"), min(SHOWN, len(ranked))
    table = text.markdown(COLUMNS, _rows(ranked)[:LISTED])
    return f"{table}\n\n{cases} ranked in {output / 'suggest.csv'}, the first {shown} shown in suggest.png beside it"


def _rows(ranked: list[tuple[str, Uncertainty]]) -> list[tuple]:
    """A row of COLUMNS for each case."""
    return [
        (rank, name, *(_rounded(value) for value in (case.score, case.entropy, case.disagreement)), case.slice + 1)
        for rank, (name, case) in enumerate(ranked, 1)
    ]


def _rounded(share: float | None) -> str:
    return "" if share is None else f"{share:.4f}"
