"""A run's config.json and splits.json: written once, compared when the run is resumed, read for inference."""

from collections.abc import Mapping, Sequence, Set
import json
import os
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict

from msl_jax import plugins
from msl_jax.errors import InputError
from msl_jax.experiments.experiment import Experiment
from msl_jax.settings.older import completed, unknown_terms
from msl_jax.settings.resolved import in_order
from msl_jax.system import atomic

GROUPS = {"data", "eval", "method", "model"}
"""What a run's config.json holds, beside what else it may."""
MAY_DIFFER_ON_RESUME = (
    *("data.source", "data.cache", "data.batches_ahead", "eval"),
    *("train.keep", "train.report_every", "train.checkpoint_every", "train.validate_every"),
)
"""Settings that a run which goes on may have changed: they alter no step. Data may move, but data.contents must not."""
DERIVED = ("data.directions",)
"""Settings that follow from data.contents and data.axis, and that older runs lack."""


def claim(experiment: Experiment, workdir: epath.Path) -> None:
    """Writes config.json and splits.json into a run's folder, or refuses a folder that holds another run."""
    config, begun_with = json.loads(experiment.config.to_json()), plugins.LOADED
    roles: dict[str, Any] = {**experiment.roles()}
    if experiment.recipes:
        roles["recipes"] = experiment.recipes
    if (workdir / "config.json").exists():
        before = _read_known(workdir / "config.json")
        begun_with = before.get(plugins.KEY, ())
        check_resumable(before, config, workdir, longer=len(experiment.method.stages()) == 1)
        if "directions" not in before["data"] and any(entry.turned for entry in experiment.data.entries):
            raise InputError(
                f"{workdir}: was begun when images were not turned to lie alike, and these are stored in several "
                "orientations; give another --workdir."
            )
    if (workdir / "splits.json").exists() and _read_object(workdir / "splits.json", {"train"}) != roles:
        raise InputError(
            f"{workdir}: its splits.json names other patients or weak labels than now; give another --workdir."
        )
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        atomic.write_text(workdir / "config.json", as_text(config, begun_with))
        atomic.write_text(workdir / "splits.json", json.dumps(roles, indent=2) + "\n")


def as_text(config: Mapping[str, Any], begun_with: Sequence[str]) -> str:
    """The text of config.json, of a run that was begun with these plugins."""
    return json.dumps({**config, **({plugins.KEY: list(begun_with)} if begun_with else {})}, indent=2) + "\n"


def check_resumable(before: dict, now: dict, workdir: os.PathLike, *, longer: bool = False) -> None:
    """Refuses to go on with a run under other settings than it began with, but for those that may differ.

    Args:
      before: the run's config.json.
      now: what the command asks for, in the same form.
      workdir: the run's folder, for the message.
      longer: whether there may be more train.steps.

    Raises:
      InputError: lists every setting that differs and may not, old value and new.
    """
    old, new = flat(completed(before)), flat(completed(now))
    changed = [
        f"{key} was {old.get(key)} and is {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith((*MAY_DIFFER_ON_RESUME, *DERIVED, plugins.KEY))
        if not (longer and key == "train.steps" and int(new[key]) > int(old[key]))
    ]
    if changed:
        raise InputError(
            f"{workdir}: holds a run with other settings ({'; '.join(changed)}); give another --workdir (what may "
            f"differ: {', '.join(MAY_DIFFER_ON_RESUME)}, and more train.steps in a run of one stage)."
        )


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A config's dictionary as key, like "data.source" -> value as JSON."""
    leaves: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = json.dumps(value)
    return leaves


def read(workdir: epath.PathLike) -> dict[str, Any]:
    """A run's config.json, with what came after it was written.

    Raises:
      InputError: there is none, it is damaged, or it needs what is not known here.
    """
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        raise InputError(f"{path}: is missing; give the folder of a run as --workdir.")
    return completed(_read_known(path))


def read_config(workdir: epath.PathLike) -> ConfigDict:
    """The filled-in config of a run folder; raises InputError as `read`."""
    return in_order(read(workdir))


def _read_known(path: epath.Path) -> dict[str, Any]:
    """A config.json as it is; raises InputError where it is damaged, or was trained with what is not known here."""
    found = _read_object(path, GROUPS)
    plugins.check(found.get(plugins.KEY, []), path)
    terms = unknown_terms(found)
    if terms:
        raise InputError(
            f"{path}: the run was trained with {', '.join(terms)}, no term of the loss that is known here; give the "
            "module that registers it, --plugins=MODULE."
        )
    return found


def _read_object(path: epath.Path, keys: Set[str]) -> dict[str, Any]:
    """A JSON object of a run's folder; raises InputError unless it is one and has these keys."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not keys <= found.keys():
        raise InputError(f"{path}: is damaged or no run's; give another --workdir.")
    return found
