"""A run's config.json and splits.json: written at the start, compared on resume, read for inference."""

from collections.abc import Mapping, Sequence, Set
import json
import os
import re
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict

from msl_jax import plugins
from msl_jax.errors import InputError
from msl_jax.experiments.experiment import Experiment
from msl_jax.settings.auto import numbers_for, with_values
from msl_jax.settings.objects import in_order
from msl_jax.settings.older import completed, unknown_terms
from msl_jax.system import atomic

GROUPS = {"data", "eval", "method", "model"}
"""Keys that every config.json has, among others."""
MAY_DIFFER_ON_RESUME = (
    *("data.source", "data.cache", "data.batches_ahead", "eval"),
    *("train.keep", "train.report_every", "train.checkpoint_every", "train.validate_every"),
)
"""Settings that may differ when a run is resumed: they do not affect training. Data may move; data.contents stays."""
DERIVED = ("data.directions",)
"""Settings that follow from data.contents and data.axis; older runs lack them."""


def resumed(config: ConfigDict, workdir: epath.Path) -> ConfigDict:
    """A copy of a config with the numbers of the run in `workdir`, if there is one, in place of "auto".

    So a run keeps its numbers on another machine and in later versions. data.axis stays "auto": it depends only on the
    data, and names their build.

    Raises:
      InputError: the run's config.json is damaged, or needs plugins or terms that are not loaded.
    """
    path = workdir / "config.json"
    return with_values(config, numbers_for(config, _read_known(path) if path.exists() else {}))


def claim(experiment: Experiment, workdir: epath.Path) -> None:
    """Writes config.json and splits.json into a run's folder; raises InputError if another run is there."""
    config, plugin_names = json.loads(experiment.config.to_json()), plugins.LOADED
    roles: dict[str, Any] = {**experiment.roles()}
    if experiment.recipes:
        roles["recipes"] = experiment.recipes
    if experiment.unannotated:
        roles["unannotated"] = {patient: list(classes) for patient, classes in experiment.unannotated.items()}
    if (workdir / "config.json").exists():
        before = _read_known(workdir / "config.json")
        plugin_names = before.get(plugins.KEY, ())
        check_resumable(before, config, workdir, longer=len(experiment.method.stages()) == 1)
        if "directions" not in before["data"] and any(entry.turned for entry in experiment.data.entries):
            raise InputError(
                f"{workdir}: was started by a version that did not reorient images, and these have several "
                "orientations; give another workdir."
            )
    if (workdir / "splits.json").exists() and _read_object(workdir / "splits.json", {"train"}) != roles:
        raise InputError(f"{workdir}: its splits.json names other patients or weak labels; give another workdir.")
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        atomic.write_text(workdir / "config.json", as_text(config, plugin_names))
        atomic.write_text(workdir / "splits.json", json.dumps(roles, indent=2) + "\n")


def as_text(config: Mapping[str, Any], plugin_names: Sequence[str]) -> str:
    """The text of config.json, for a run started with these plugins."""
    return json.dumps({**config, **({plugins.KEY: list(plugin_names)} if plugin_names else {})}, indent=2) + "\n"


def check_resumable(before: dict, now: dict, workdir: os.PathLike, *, longer: bool = False) -> None:
    """Checks that a resumed run has the settings that it started with, except those that may differ.

    Args:
      before: the run's config.json.
      now: the current settings, in the same form.
      workdir: the run's folder, for the message.
      longer: whether train.steps may be larger.

    Raises:
      InputError: lists all settings that must not differ but do, with old and new value.
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
            f"{workdir}: contains a run with other settings ({'; '.join(changed)}); give another workdir (only "
            f"{', '.join(MAY_DIFFER_ON_RESUME)} may differ, and train.steps may grow in a run of one stage)."
        )


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested config as a flat one: key, like "data.source" -> value as JSON."""
    leaves: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = json.dumps(value)
    return leaves


def read(workdir: epath.PathLike) -> dict[str, Any]:
    """A run's config.json, with defaults for settings missing from older runs.

    Raises:
      InputError: it is missing or damaged, or needs plugins or terms that are not loaded.
    """
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        folds = [fold.name for fold in _folds(path.parent)]
        if folds:
            raise InputError(f"{workdir}: is no run, but contains the folds {', '.join(folds)}; give one of these.")
        raise InputError(f"{path}: is missing; give the folder of a run as workdir.")
    return completed(_read_known(path))


def read_config(workdir: epath.PathLike) -> ConfigDict:
    """The filled-in config of a run folder; raises InputError as `read`."""
    return in_order(read(workdir))


def runs_in(workdir: epath.Path) -> list[epath.Path]:
    """The folders of the runs in `workdir`: the folder itself, or the folds of a cross-validation, fold0, fold1, ...

    Raises:
      InputError: there is no run, the folds are not those of one cross-validation, or some are missing or unfinished.
    """
    if (workdir / "config.json").exists():
        return [workdir]
    folders = _folds(workdir)
    if not folders:
        raise InputError(
            f"{workdir}/config.json: is missing, and there are no folds (fold0, fold1); give the folder of a run or "
            "of all its folds as workdir."
        )
    found = {read(folder)["data"]["fold"]: folder for folder in folders}
    folds = next(iter(found)).partition("/")[2]
    wanted = [f"{index}/{folds}" for index in range(int(folds or 0))]
    if not found.keys() <= set(wanted) or len(found) < len(folders):
        raise InputError(
            f"{workdir}: {', '.join(folder.name for folder in folders)} are not the folds of one cross-validation; "
            "give the folders of single runs."
        )
    unfinished = [fold for fold in wanted if fold not in found or not (found[fold] / "results" / "test.json").exists()]
    if unfinished:
        raise InputError(
            f"{workdir}: the runs with config.data.fold={', '.join(unfinished)} are missing or unfinished; train them, "
            "or give the folders of the others."
        )
    return [found[fold] for fold in wanted]


def _folds(workdir: epath.Path) -> list[epath.Path]:
    """The runs in folders fold0, fold1, ... of `workdir`, in this order."""
    named = [path for path in workdir.glob("fold*") if re.fullmatch(r"fold\d+", path.name)]
    return sorted(
        (path for path in named if (path / "config.json").exists()),
        key=lambda path: int(path.name.removeprefix("fold")),
    )


def _read_known(path: epath.Path) -> dict[str, Any]:
    """A config.json as stored; raises InputError if it is damaged, or needs plugins or terms that are not loaded."""
    content = _read_object(path, GROUPS)
    plugins.check(content.get(plugins.KEY, []), path)
    terms = unknown_terms(content)
    if terms:
        raise InputError(
            f"{path}: the run was trained with {', '.join(terms)}, an unknown term of the loss; load the module that "
            "registers it, --plugins=MODULE."
        )
    return content


def _read_object(path: epath.Path, keys: Set[str]) -> dict[str, Any]:
    """A JSON object from a run's folder; raises InputError unless it is an object with these keys."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or not keys <= content.keys():
        raise InputError(f"{path}: is damaged or not from a run; give another workdir.")
    return content
