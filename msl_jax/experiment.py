"""From a config to everything it stands for: the data set, who is in which split, the method, the network."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from msl_jax import methods
from msl_jax.checks import Refused, check_config, check_resumable
from msl_jax.data import builder, splits, weak_labels
from msl_jax.data.pipeline import Preparation
from msl_jax.models.dual_branch import DualBranchUNet
from msl_jax.report import replace_text


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A config that was checked and opened.

    Attributes:
      config: with every default filled in; `config.json` of the run.
      data: the data set, built.
      split: "train", "validation", "test" -> patients.
      strong: training patients whose full masks are used; the others are the weak set.
      method: terms, weights and whatever else it sets.
    """

    config: ConfigDict
    data: builder.Built
    split: splits.Split
    strong: list[str]
    method: methods.Method

    def weak(self) -> list[str]:
        """The training patients that are not strong."""
        return [patient for patient in self.split["train"] if patient not in self.strong]

    def entries(self, patients: list[str]) -> list[builder.Entry]:
        """The cases of these patients."""
        return self.data.of_patients(patients)

    def claim(self, workdir: epath.Path) -> None:
        """Writes config.json and splits.json into a run's folder, or refuses a folder that holds another run."""
        config = json.loads(self.config.to_json())
        roles = {**self.split, "strong": self.strong, "weak": self.weak()}
        if workdir.exists() and not workdir.is_dir():
            raise Refused(f"{workdir}: is a file; give a folder as --workdir.")
        if (workdir / "config.json").exists():
            check_resumable(json.loads((workdir / "config.json").read_text()), config, workdir)
        if (workdir / "splits.json").exists() and json.loads((workdir / "splits.json").read_text()) != roles:
            raise Refused(
                f"{workdir}: its splits.json names other patients than the data set has now; give another --workdir."
            )
        if jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            replace_text(workdir / "config.json", json.dumps(config, indent=2) + "\n")
            replace_text(workdir / "splits.json", json.dumps(roles, indent=2) + "\n")

    def training_sets(self, method: methods.Method) -> dict[str, list[builder.Entry]]:
        """ "strong" and "weak" -> cases, those that a method uses."""
        patients = {"strong": self.strong, "weak": self.weak()}
        if "weak" in method.sets() and not self.weak():
            all_strong = f"method '{self.config.method.name}'" if method.all_strong else "config.data.strong"
            raise Refused(f"{all_strong}: takes every training patient's mask and leaves none weak; give fewer.")
        return {name: self.entries(patients[name]) for name in method.sets()}


def open_experiment(config: ConfigDict) -> Experiment:
    """Checks a config, builds or opens its data set and draws the split.

    Raises:
      Refused: a setting or a file cannot work.
    """
    check_config(config)
    method = method_of(config)
    if config.data.weak not in weak_labels.RECIPES:
        raise Refused(f"config.data.weak: is '{config.data.weak}'; give one of {', '.join(weak_labels.RECIPES)}.")
    data = builder.build(config.data.layout, config.data.source, config.data.cache)
    groups = data.groups()
    lists = config.data.split
    if any(lists[role] for role in splits.ROLES):
        split = splits.listed_split(groups, lists)
    else:
        split = splits.split_patients(groups, config.data.split_sizes, config.data.split_seed)
    train = {patient: groups[patient] for patient in split["train"]}
    strong = splits.draw_strong(train, len(train) if method.all_strong else config.data.strong, config.seed)
    experiment = Experiment(_filled_in(config, method, data), data, split, strong, method)
    units = {entry.units for entry in experiment.entries(split["test"])}
    if len(units) > 1:
        raise Refused("The test split: some cases have voxel sizes and some none, no mean distance covers both.")
    for name in experiment.training_sets(method):
        size = config.train[f"{name}_batch"]
        if size % (jax.device_count() * config.train.accumulate):
            raise Refused(
                f"config.train.{name}_batch: is {size}; give a multiple of the {jax.device_count()} devices times "
                f"config.train.accumulate={config.train.accumulate}."
            )
    return experiment


def method_of(config: ConfigDict) -> methods.Method:
    """The method a config names, with the settings it gives."""
    return methods.resolve(config.method.to_dict(), config.model.dropout, config.train.steps)


def preparation_of(config: ConfigDict) -> Preparation:
    """How images are made ready, of a filled-in config."""
    return Preparation(
        size=(config.data.size, config.data.size),
        percentiles=tuple(config.data.percentiles),
        values=(0, *config.data.classes.values()),
    )


def model_of(config: ConfigDict) -> DualBranchUNet:
    """The network of a filled-in config."""
    return DualBranchUNet(
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
    return _in_order(json.loads(path.read_text()))


def _filled_in(config: ConfigDict, method: methods.Method, data: builder.Built) -> ConfigDict:
    names = tuple(data.labels) if config.data.classes == "all" else config.data.classes.split("+")
    for name in names:
        if name not in data.labels:
            raise Refused(f"config.data.classes: there is no '{name}'; there are {', '.join(data.labels)} and all.")
    filled = json.loads(config.to_json())
    filled["data"]["classes"] = {name: value for name, value in data.labels.items() if name in names}
    filled["data"]["contents"] = data.contents
    filled["method"] |= {
        "terms": {term: method.terms.get(term, 0.0) for term in methods.TERMS},
        "rampup": {term: method.rampup.get(term, 0) for term in methods.TERMS},
        **{key: getattr(method, key) if method.reads(key) else None for key in methods.CHOICES},
        **{key: getattr(method, key) for key in methods.LIMITS},
    }
    filled["model"]["dropout"] = method.dropout
    return _in_order(filled)


def _in_order(tree: Mapping[str, Any]) -> ConfigDict:
    """A ConfigDict that keeps the order of its keys at every level: that of the classes is that of the channels."""
    return ConfigDict({k: _in_order(v) if isinstance(v, dict) else v for k, v in tree.items()}, sort_keys=False)
