"""From a config to everything it stands for: the data set, who is in which split, the method, the network."""

from collections.abc import Iterable, Mapping, Sequence, Set
import dataclasses
import errno
import json
import os
import pathlib
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from msl_jax import atomic, methods, paths
from msl_jax.checks import Refused, check_config, check_resumable, completed, parse_labels, refuse_all
from msl_jax.data import builder, splits
from msl_jax.data.case import UNLABELED, Source, shared_unit
from msl_jax.data.intensity import NORMALIZATIONS
from msl_jax.data.pipeline import DRAWN, Preparation, Weakening
from msl_jax.data.table import TRAIN, Table, read_table
from msl_jax.data.weak_labels import RECIPES, Style
from msl_jax.models.dual_branch import NETWORKS, DualBranchUNet
from msl_jax.protocols import PROTOCOLS
from msl_jax.tables import few

CHOICES = {
    "data.axis": (0, 1, 2),
    "data.normalization": tuple(NORMALIZATIONS),
    "data.weak": (*RECIPES, DRAWN),
    "eval.protocol": tuple(PROTOCOLS),
}
"""Settings -> what they may be."""
CACHE = "~/tensorflow_datasets"
"""Where TFDS builds a data set unless it is told otherwise."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What only writing fails with, and building writes into the cache alone."""
LONGEST = 120
"""Characters of what array_record says that are passed on."""
GROUPS = {"data", "eval", "method", "model"}
"""What a run's config.json holds, beside what else it may."""


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A config that was checked and opened.

    Attributes:
      config: with every default filled in; `config.json` of the run.
      data: the data set, built.
      split: "train", "validation", "test" -> patients.
      strong: training patients whose full masks are used; the others are the weak set.
      recipes: patient -> where its weak labels come from, in place of config.data.weak.
      method: terms, weights and whatever else it sets.
    """

    config: ConfigDict
    data: builder.Built
    split: splits.Split
    strong: list[str]
    recipes: dict[str, str]
    method: methods.Method

    def weak(self) -> list[str]:
        """The training patients that are not strong."""
        return [patient for patient in self.split["train"] if patient not in self.strong]

    def entries(self, patients: list[str]) -> list[builder.Entry]:
        """The cases of these patients."""
        return self.data.of_patients(patients)

    def structures(self, patients: list[str]) -> dict[str, int]:
        """Name -> class of every trained structure that a mask of these patients holds."""
        return structures_of(self.config, self.entries(patients))

    def weakening(self) -> Weakening:
        """Where the weak labels of the training patients come from."""
        data = self.config.data
        return Weakening(data.weak, Style(data.weak_background, data.weak_radius, data.weak_every), self.recipes)

    def claim(self, workdir: epath.Path) -> None:
        """Writes config.json and splits.json into a run's folder, or refuses a folder that holds another run."""
        config = json.loads(self.config.to_json())
        roles = {**self.split, "strong": self.strong, "weak": self.weak()}
        if self.recipes:
            roles["recipes"] = self.recipes
        if (workdir / "config.json").exists():
            before = _read_object(workdir / "config.json", GROUPS)
            check_resumable(before, config, workdir, longer=len(self.method.stages()) == 1)
            if "directions" not in before["data"] and any(entry.turned for entry in self.data.entries):
                raise Refused(
                    f"{workdir}: was begun when images were not turned to lie alike, and these are stored in several "
                    "orientations; give another --workdir."
                )
        if (workdir / "splits.json").exists() and _read_object(workdir / "splits.json", {"train"}) != roles:
            raise Refused(
                f"{workdir}: its splits.json names other patients or weak labels than now; give another --workdir."
            )
        if jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            atomic.write_text(workdir / "config.json", json.dumps(config, indent=2) + "\n")
            atomic.write_text(workdir / "splits.json", json.dumps(roles, indent=2) + "\n")

    def training_sets(self, method: methods.Method) -> dict[str, list[builder.Entry]]:
        """The sets that a method uses: "strong", "weak" -> cases."""
        patients = {"strong": self.strong, "weak": self.weak()}
        if "weak" in method.sets() and not self.weak():
            all_strong = f"method '{self.config.method.name}'" if method.all_strong else "config.data.strong"
            raise Refused(f"{all_strong}: takes every training patient's mask and leaves none weak; give fewer.")
        return {name: self.entries(patients[name]) for name in method.sets()}


def open_experiment(config: ConfigDict) -> Experiment:
    """Checks a config, builds or opens its data set and settles who is what for.

    Raises:
      Refused: a setting or a file cannot work.
    """
    check_config(config)
    for key, known in CHOICES.items():
        group, name = key.split(".")
        if config[group][name] not in known:
            raise Refused(f"config.{key}: is {config[group][name]}; give one of {', '.join(map(str, known))}.")
    method = method_of(config)
    data = _build(config)
    table = read_table(config.data.table, data.groups()) if config.data.table else {}
    filled = filled_in(config, method, data.labels, data.channels, data.contents, data.directions)
    _check_structures(filled, {"": data.entries} if data.masked(full=False) else {})
    split, strong = _roles(config, method, data, table)
    recipes = {patient: row["weak"] for patient, row in table.items() if row.get("weak")}
    experiment = Experiment(filled, data, split, strong, recipes, method)
    _check_masks(experiment)
    _check_structures(filled, {"strong ": experiment.entries(strong), "test ": experiment.entries(split["test"])})
    shared_unit(experiment.entries(split["test"]))
    if not experiment.structures(split["validation"]) and config.eval.checkpoint == "best":
        raise Refused("config.eval.checkpoint: is best, and no validation case has a trained structure; give last.")
    for name in experiment.training_sets(method):
        size = config.train[f"{name}_batch"]
        if size % (jax.device_count() * config.train.accumulate):
            raise Refused(
                f"config.train.{name}_batch: is {size}; give a multiple of the {jax.device_count()} devices times "
                f"config.train.accumulate={config.train.accumulate}."
            )
    return experiment


def _build(config: ConfigDict) -> builder.Built:
    """The data set, built into config.data.cache; raises Refused where it cannot be written there."""
    cure = "give a folder to build data sets in by --config.data.cache=FOLDER"
    cache = paths.expanded(config.data.cache or os.environ.get("TFDS_DATA_DIR") or CACHE, cure)
    cache = cache if "://" in cache else os.path.abspath(cache)
    try:
        return builder.build(source_of(config), cache)
    except (OSError, RuntimeError) as error:  # the latter of array_record, where a disk is full
        place = getattr(error, "filename", None) or cache
        above = pathlib.Path(place) in pathlib.Path(cache).parents
        if not (cache in str(error) or above or getattr(error, "errno", None) in FULL):
            raise
        said = getattr(error, "strerror", None) or " ".join(str(error).split())[:LONGEST]
        raise Refused(f"{place}: {said}; {cure}.") from error


def source_of(config: ConfigDict) -> Source:
    """Where a config's data set lies and how it is read."""
    data = config.data
    labels = parse_labels(data.labels, "config.data.labels") if data.labels else {}
    return Source(data.layout, data.source, labels, data.unlabeled, data.patient, data.axis)


def _roles(
    config: ConfigDict, method: methods.Method, data: builder.Built, table: Table
) -> tuple[splits.Split, list[str]]:
    """Split and strong patients: as the table, the config's lists or the data set itself say, or else drawn.

    A draw is among those whose masks are full; who is named needs a mask, which may leave voxels open.
    """
    groups = {**data.groups(), **{patient: row["group"] for patient, row in table.items() if "group" in row}}
    full = data.masked(full=True)
    lists, roles = config.data.split, {patient: row["role"] for patient, row in table.items() if "role" in row}
    listed = any(lists[role] for role in splits.ROLES)
    if listed and roles:
        raise Refused(f"config.data.split: lists patients, and so does {config.data.table}; leave one of them out.")
    said = {} if listed else roles or data.roles()
    if listed:
        split = splits.listed_split(groups, lists)
    elif said:
        parts = {"train": (TRAIN, "strong", "weak"), "validation": ("validation",), "test": ("test",)}
        lists = {role: [patient for patient in groups if said.get(patient) in names] for role, names in parts.items()}
        split = splits.listed_split(groups, lists)
    else:
        split = splits.split_patients(groups, full, config.data.split_sizes, config.data.split_seed)
    train = {patient: groups[patient] for patient in split["train"]}
    named = [patient for patient in train if said.get(patient) == "strong"] or config.data.strong
    strong = "all" if method.all_strong else named
    able = data.masked(full=isinstance(strong, int | str))
    strong = splits.draw_strong(train, [patient for patient in train if patient in able], strong, config.seed)
    if config.data.fold:
        split = splits.fold(split, strong, groups, config.data.fold, config.data.split_seed)
        strong = [patient for patient in strong if patient in split["train"]]
    return split, strong


def _check_masks(experiment: Experiment) -> None:
    """Refuses to need a mask that is not there."""
    masked, weakening = set(experiment.data.masked(full=False)), experiment.weakening()
    recipes = {patient: weakening.recipe_of(patient) for patient in experiment.split["train"]}
    refuse_all(
        [
            f"{patient}: is there for {role} and has no mask, or one without a label; give it one, or take it out."
            for role in ("validation", "test")
            for patient in experiment.split[role]
            if patient not in masked
        ]
        + [
            f"{patient}: has no mask from which config.data.weak={recipe} could be made; give config.data.weak={DRAWN} "
            "for what was drawn."
            for patient, recipe in recipes.items()
            if recipe not in (DRAWN, "none") and patient not in masked
        ]
    )


def structures_of(config: ConfigDict, entries: Iterable[builder.Entry]) -> dict[str, int]:
    """Name -> class of every structure of a filled-in config that a mask of these cases holds."""
    class_of_value = preparation_of(config).class_of_value()
    held = {int(class_of_value[value]) for entry in entries for value in entry.values}
    return {name: c for c, name in enumerate(config.data.classes, start=1) if c in held}


def _check_structures(config: ConfigDict, cases: Mapping[str, Sequence[builder.Entry]]) -> None:
    """Refuses where there is nothing to learn or to test; cases by what they are called in the sentence."""
    trained = ", ".join(f"{name}={value}" for name, value in config.data.classes.items())
    problems = []
    for kind, entries in cases.items():
        if not structures_of(config, entries):
            held = sorted({value for entry in entries for value in entry.values})
            values = ", ".join("unlabelled" if value == UNLABELED else str(value) for value in held)
            problems.append(
                f"{few([entry.name for entry in entries])}: no mask of these {kind}cases holds a voxel of {trained}, "
                f"only {values}; choose other cases, or correct config.data.labels and config.data.unlabeled, which is "
                f"{config.data.unlabeled}."
            )
    refuse_all(problems)


def method_of(config: ConfigDict) -> methods.Method:
    """The method a config names, with the settings it gives."""
    method = methods.resolve(config.method.to_dict(), config.model.dropout, config.train.steps)
    if config.model.dropout is None and not method.dropout:
        method = dataclasses.replace(method, dropout=NETWORKS[config.model.name].dropout)
    return method


def preparation_of(config: ConfigDict) -> Preparation:
    """How images are made ready, of a filled-in config."""
    return Preparation(
        size=(config.data.size, config.data.size),
        normalization=config.data.normalization,
        percentiles=tuple(config.data.percentiles),
        window=tuple(config.data.window),
        values=(0, *config.data.classes.values()),
    )


def directions_of(config: ConfigDict) -> np.ndarray | None:
    """Which way the slices lie that a filled-in config's network takes, as orientation.py has it; None if unknown."""
    return None if config.data.directions is None else np.asarray(config.data.directions)


def model_of(config: ConfigDict) -> DualBranchUNet:
    """The network of a filled-in config."""
    return DualBranchUNet(
        network=config.model.name,
        width=config.model.width,
        depth=config.model.depth,
        classes=1 + len(config.data.classes),
        dropout=config.model.dropout,
        remat=config.model.remat,
        dtype=jnp.dtype(config.model.dtype),
    )


def read_config(workdir: epath.Path) -> ConfigDict:
    """The filled-in config of a run folder; raises Refused where there is none."""
    path = workdir / "config.json"
    if not path.exists():
        raise Refused(f"{path}: is missing; give the folder of a run as --workdir.")
    return _in_order(completed(_read_object(path, GROUPS)))


def _read_object(path: epath.Path, keys: Set[str]) -> dict[str, Any]:
    """A JSON object of a run's folder; raises Refused unless it is one and has these keys."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not keys <= found.keys():
        raise Refused(f"{path}: is damaged or no run's; give another --workdir.")
    return found


def filled_in(
    config: ConfigDict,
    method: methods.Method,
    labels: Mapping[str, int],
    channels: int,
    contents: str,
    directions: np.ndarray | None,
) -> ConfigDict:
    """A config with every default in its place.

    Args:
      config: as given.
      method: what `method_of` makes of it.
      labels: name -> value of every structure of the data set.
      channels: of its images.
      contents: a text that changes whenever the data do.
      directions: which way its slices lie, as orientation.py has it; None where that is not known.

    Raises:
      Refused: a structure or a class weight is of no structure there is.
    """
    asked = config.data.classes
    names = tuple(labels) if asked == "all" else (asked,) if asked in labels else asked.split("+")
    for name in names:
        if name not in labels:
            raise Refused(f"config.data.classes: there is no '{name}'; there are {', '.join(labels)} and all.")
    filled = json.loads(config.to_json())
    filled["data"]["classes"] = {name: value for name, value in labels.items() if name in names}
    filled["data"] |= {"channels": channels, "contents": contents}
    filled["data"]["directions"] = None if directions is None else directions.tolist()
    filled["method"] |= {
        "weak_weight": None,  # it has gone into the terms
        "terms": {term: method.terms.get(term, 0.0) for term in methods.TERMS},
        "rampup": {term: method.rampup.get(term, 0) for term in methods.TERMS},
        **{key: getattr(method, key) if method.reads(key) else None for key in methods.CHOICES},
        **{key: getattr(method, key) for key in methods.LIMITS},
        "class_weights": methods.class_weights(filled["method"]["class_weights"], list(filled["data"]["classes"])),
    }
    filled["model"]["dropout"] = method.dropout
    return _in_order(filled)


def _in_order(tree: Mapping[str, Any]) -> ConfigDict:
    """A ConfigDict that keeps the order of its keys at every level: that of the classes is that of the channels."""
    return ConfigDict({k: _in_order(v) if isinstance(v, dict) else v for k, v in tree.items()}, sort_keys=False)
