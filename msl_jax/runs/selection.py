"""A run's selection.json: its branch for prediction, the structures reduced to their largest component, temperatures.

All are decided on the validation cases at the end of training (evaluation/selection.py).
"""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict

from msl_jax.errors import InputError
from msl_jax.settings.objects import method_of
from msl_jax.system import atomic

FILE = "selection.json"


@dataclasses.dataclass(frozen=True)
class Selection:
    """How a run predicts.

    Attributes:
      checkpoint: "last" or "best", config.eval.checkpoint when it was decided.
      postprocess: config.eval.postprocess when it was decided.
      step: step of that checkpoint; None if nothing was decided.
      branch: the branch that predicts.
      validation_dice: branch -> mean Dice over validation cases and structures, of the label maps that it would
        predict; empty without validation cases.
      largest_component: branch -> names of the structures of which only the largest component is kept.
      temperature: branch -> temperature at which its probabilities are calibrated (inference/temperature.py); empty
        without validation cases, and in runs of older versions.
      mirror: config.eval.mirror when it was decided; with another one, there is no temperature.
    """

    checkpoint: str
    postprocess: str
    step: int | None
    branch: str
    validation_dice: Mapping[str, float]
    largest_component: Mapping[str, tuple[str, ...]]
    temperature: Mapping[str, float] = dataclasses.field(default_factory=dict)
    mirror: bool = False

    def __str__(self) -> str:
        """The branch and the reason for it."""
        dice = ", ".join(f"{branch} {100 * value:.1f} %" for branch, value in self.validation_dice.items())
        return f"predicts with the {self.branch} ({f'validation Dice: {dice}' if dice else 'not chosen by validation'})"


def undecided(config: ConfigDict, step: int | None = None) -> Selection:
    """The selection without validation cases: the student, or the teacher if there is no student.

    Components are removed only with config.eval.postprocess=largest, in every structure.
    """
    branches = tuple(method_of(config).branches())
    structures = tuple(config.data.classes) if config.eval.postprocess == "largest" else ()
    return Selection(
        checkpoint=config.eval.checkpoint,
        postprocess=config.eval.postprocess,
        step=step,
        branch=branches[-1],
        validation_dice={},
        largest_component=dict.fromkeys(branches, structures),
        mirror=config.eval.mirror,
    )


def write(selection: Selection, workdir: epath.Path) -> None:
    """Writes a run's selection.json; only the first host does."""
    if jax.process_index() == 0:
        atomic.write_text(workdir / FILE, json.dumps(dataclasses.asdict(selection), indent=2) + "\n")


def read(workdir: epath.PathLike, config: ConfigDict) -> Selection:
    """The selection of a run, for its filled-in config, whose config.eval may differ from the one it was trained with.

    Returns:
      The content of selection.json; `undecided` if the file is missing (runs of older versions, unfinished runs), or
      was decided for another config.eval.checkpoint or config.eval.postprocess.

    Raises:
      InputError: the file is damaged.
    """
    path = epath.Path(workdir) / FILE
    if not path.exists():
        return undecided(config)
    try:
        selection = _parsed(json.loads(path.read_text(encoding="utf-8")), config)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: is damaged; rerun the training command, which writes it again, or remove it to predict with the "
            f"{undecided(config).branch}."
        ) from error
    if (selection.checkpoint, selection.postprocess) != (config.eval.checkpoint, config.eval.postprocess):
        return undecided(config)
    if selection.mirror != config.eval.mirror:
        return dataclasses.replace(selection, temperature={}, mirror=config.eval.mirror)
    return selection


def _parsed(content: Any, config: ConfigDict) -> Selection:
    """A selection from JSON; raises ValueError, TypeError, KeyError or AttributeError if it is none of this run."""
    branches, structures = method_of(config).branches(), config.data.classes
    dice = {branch: float(value) for branch, value in content["validation_dice"].items()}
    largest = {branch: tuple(names) for branch, names in content["largest_component"].items()}
    temperature = {branch: float(value) for branch, value in content.get("temperature", {}).items()}
    changed = {"validation_dice": dice, "largest_component": largest, "temperature": temperature}
    selection = Selection(**content | changed)
    valid = (
        selection.branch in branches
        and largest.keys() == branches.keys()
        and all(name in structures for names in largest.values() for name in names)
        and temperature.keys() <= branches.keys()
        and all(0 < value < float("inf") for value in temperature.values())
    )
    if not valid:
        raise ValueError("names other branches or structures, or has temperatures out of range")
    return selection
