"""Trains nnU-Net for some minutes on the ACDC patients of one of our runs, on the CPU, and scores the test patients.

python tests/benchmarks/nnunet.py --run=RUN --source=ACDC --minutes=30 --plan=2d --python=NNUNET/bin/python
    --work=WORK --output=FOLDER [--full]

RUN is the folder of a run; its splits.json names the patients. Strong patients have full masks, weak ones the experts'
scribbles, with nnU-Net's ignore label elsewhere; with --full, all training patients have full masks. nnU-Net (nnunetv2
2.8.1) has its own environment: --python is the Python there.

--plan=2d is nnU-Net's own 2d plan. --plan=cut has the smaller network, patch and batch of CUT. Everything else is
nnU-Net's, from preprocessing to mirroring at test time, except for the training's length (nnunet_trainer/minutes.py).
--minutes counts training alone: not planning, preprocessing and the start of nnU-Net.

WORK keeps the data sets, one with scribbles and one with full masks, and their preprocessing; later calls reuse them.
A training that has ended in FOLDER is not repeated; the prediction is. The scores are those of

python -m msl_jax.evaluate --predictions=FOLDER/predictions --references=WORK/raw/DATASET/labelsTs
    --labels=RV=1,MYO=2,LV=3 --output=FOLDER/scores.json

Prints their table, and one JSON line with iterations, seconds per iteration, minutes of training and of prediction.
Cores are those of this process: taskset -c 0,1 python ...
"""

import copy
import dataclasses
import json
import os
import pathlib
import subprocess
import time
from typing import Any

from absl import flags
from etils import epath
import numpy as np

from msl_jax import command
from msl_jax.data.case import Case, Source
from msl_jax.data.formats import volumes
from msl_jax.data.readers import acdc, layouts
from msl_jax.errors import InputError
from msl_jax.evaluation import results
from msl_jax.evaluation.folders import evaluate_folders
from msl_jax.labels import UNLABELED
from msl_jax.system import atomic

CUT: dict[str, Any] = {"features": [16, 32, 64, 128, 256, 256], "patch_size": [128, 128], "batch_size": 8}
"""The plan `cut`: half of nnU-Net's features; stages down to 4 x 4 pixels, which is nnU-Net's rule, too."""
DATASETS = {1: "Dataset001_scribbles", 2: "Dataset002_masks"}
SCRIBBLES, MASKS = DATASETS
IGNORE = 4
"""nnU-Net's ignore label, which must follow the last structure's value."""
TRAINER = "nnUNetTrainerMinutes"

Roles = dict[str, list[str]]
"""Role ("train", "validation", "test", "strong") -> patients."""


@dataclasses.dataclass(frozen=True)
class NnUNet:
    """nnU-Net's commands and folders.

    Attributes:
      python: the Python of its environment.
      work: folder of its data sets.
      output: folder of its trained networks.
      number: a key of DATASETS.
    """

    python: pathlib.Path
    work: pathlib.Path
    output: pathlib.Path
    number: int

    @property
    def raw(self) -> pathlib.Path:
        """Folder of the data set's images and labels."""
        return self.work / "raw" / DATASETS[self.number]

    @property
    def preprocessed(self) -> pathlib.Path:
        """Folder of its plans and preprocessed cases."""
        return self.work / "preprocessed" / DATASETS[self.number]

    def training(self, plan: str) -> pathlib.Path:
        """Folder of the training with this plan."""
        return self.output / DATASETS[self.number] / f"{TRAINER}__nnUNetPlans__{plan}" / "fold_0"

    def run(self, name: str, *arguments: object, minutes: float = 0) -> None:
        """Runs nnUNetv2_NAME; `minutes` is for the trainer."""
        settings = {
            "nnUNet_raw": self.work / "raw",
            "nnUNet_preprocessed": self.work / "preprocessed",
            "nnUNet_results": self.output,
            "nnUNet_extTrainer": pathlib.Path(__file__).with_name("nnunet_trainer").absolute(),
            "nnUNet_minutes": minutes,
            "nnUNet_compile": "f",
            "nnUNet_n_proc_DA": 1,
            "nnUNet_def_n_proc": 2,
        }
        program = self.python.with_name(f"nnUNetv2_{name}")
        if not program.is_file():
            raise InputError(f"--python={self.python}: has no {program.name} beside it; install nnunetv2 2.8.1 there.")
        environment = os.environ | {key: str(value) for key, value in settings.items()}
        code = subprocess.run([program, *map(str, arguments)], env=environment).returncode
        if code:
            raise InputError(f"{program}: ended with code {code}; see what it printed above.")


def main(_) -> None:
    """Makes the data set, trains, predicts and scores."""
    output = pathlib.Path(OUTPUT.value).absolute()
    roles = read_roles(pathlib.Path(RUN.value), FULL.value)
    number = MASKS if roles["strong"] == roles["train"] else SCRIBBLES
    nnunet = NnUNet(pathlib.Path(PYTHON.value).absolute(), pathlib.Path(WORK.value).absolute(), output, number)
    write_raw(nnunet.raw, roles, SOURCE.value)
    preprocess(nnunet, roles)
    training = train(nnunet, PLAN.value, MINUTES.value)
    prediction_minutes = predict(nnunet, PLAN.value)
    summary, rows = evaluate_folders(output / "predictions", nnunet.raw / "labelsTs", acdc.LABELS)
    results.write(summary, rows, epath.Path(output) / "scores.json")
    print(results.markdown(summary))
    report = {
        "plan": PLAN.value,
        "dataset": DATASETS[number],
        "iterations": training["iterations"],
        "seconds_per_iteration": round(60 * training["minutes"] / training["iterations"], 4),
        "training_minutes": round(training["minutes"], 2),
        "prediction_minutes": round(prediction_minutes, 2),
    }
    print(json.dumps(report))


def read_roles(run: pathlib.Path, full: bool) -> Roles:
    """The patients of a run; if `full`, all training patients are strong."""
    path = run / "splits.json"
    if not path.is_file():
        raise InputError(f"--run={run}: has no splits.json; give the folder of a run.")
    splits = layouts.read_json(path, train=list, validation=list, test=list, strong=list)
    return {
        "train": sorted(splits["train"]),
        "validation": sorted(splits["validation"]),
        "test": sorted(splits["test"]),
        "strong": sorted(splits["train"] if full else splits["strong"]),
    }


def write_raw(folder: pathlib.Path, roles: Roles, source: str) -> None:
    """Writes nnU-Net's raw data set, unless it exists; dataset.json, written last, contains the roles."""
    index = folder / "dataset.json"
    if index.exists():
        if layouts.read_json(index, roles=dict)["roles"] != roles:
            raise InputError(f"{folder}: is a data set of other patients; give another --work.")
        return
    if folder.exists():
        raise InputError(f"{folder}: is incomplete, because an earlier call was stopped; remove it.")
    images = {volumes.stem(path): path for [path] in acdc.READER.images(pathlib.Path(source)).values()}
    trained, found = {*roles["train"], *roles["validation"]}, set()
    for load in acdc.READER.read(Source("acdc", source)):
        case = load()
        found.add(case.patient)
        part = "Tr" if case.patient in trained else "Ts"
        if case.patient in trained or case.patient in roles["test"]:
            image = volumes.read_image(images[case.name])
            volumes.write(folder / f"images{part}" / f"{case.name}_0000.nii.gz", image.voxels[..., 0], image)
            volumes.write(folder / f"labels{part}" / f"{case.name}.nii.gz", labels(case, roles), image)
    missing = {*trained, *roles["test"]} - found
    if missing:
        raise InputError(f"--source={source}: lacks patients of the run: {', '.join(sorted(missing))}.")
    ignore = {"ignore": IGNORE} if roles["strong"] != roles["train"] else {}
    contents = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **acdc.LABELS, **ignore},
        "numTraining": len(list((folder / "labelsTr").iterdir())),
        "file_ending": ".nii.gz",
        "roles": roles,
    }
    atomic.write_text(epath.Path(index), json.dumps(contents, indent=2))


def labels(case: Case, roles: Roles) -> np.ndarray:
    """The case's scribble if its patient is weak, otherwise its mask."""
    weak = case.patient in roles["train"] and case.patient not in roles["strong"]
    chosen = case.annotation if weak else case.mask
    if chosen is None:
        raise InputError(f"{case.name}: has no {'scribble' if weak else 'mask'}; give an ACDC folder with one.")
    return np.where(chosen == UNLABELED, IGNORE, chosen).astype(np.uint8)


def preprocess(nnunet: NnUNet, roles: Roles) -> None:
    """Plans and preprocesses, unless done; splits_final.json is written last. Adds the plan `cut`."""
    folder = nnunet.preprocessed
    if not (folder / "splits_final.json").exists():
        nnunet.run("plan_and_preprocess", "-d", nnunet.number, "-c", "2d", "-npfp", 2, "-np", 2, "--no_pbar")
        cases = sorted(map(volumes.stem, (nnunet.raw / "labelsTr").iterdir()))
        fold = {
            "train": [case for case in cases if patient_of(case) in roles["train"]],
            "val": [case for case in cases if patient_of(case) in (roles["validation"] or roles["train"])],
        }
        atomic.write_text(epath.Path(folder / "splits_final.json"), json.dumps([fold], indent=2))
    path = folder / "nnUNetPlans.json"
    plans = layouts.read_json(path, configurations=dict)
    cut = cut_plan(plans["configurations"]["2d"])
    if plans["configurations"].get("cut") != cut:
        plans["configurations"]["cut"] = cut
        atomic.write_text(epath.Path(path), json.dumps(plans, indent=2))


def patient_of(case: str) -> str:
    """patient001 of patient001_frame01."""
    return case.partition("_")[0]


def cut_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """The configuration `cut` for nnUNetPlans.json: CUT's values, everything else as in `plan`."""
    architecture = copy.deepcopy(plan["architecture"])
    network, stages = architecture["arch_kwargs"], len(CUT["features"])
    for key in ("kernel_sizes", "strides", "n_conv_per_stage"):
        network[key] = network[key][:stages]
    network["n_conv_per_stage_decoder"] = network["n_conv_per_stage_decoder"][: stages - 1]
    network |= {"n_stages": stages, "features_per_stage": CUT["features"]}
    return {
        "inherits_from": "2d",
        "patch_size": CUT["patch_size"],
        "batch_size": CUT["batch_size"],
        "architecture": architecture,
    }


def train(nnunet: NnUNet, plan: str, minutes: float) -> dict[str, float]:
    """Trains, unless done, and returns the trainer's report."""
    path = nnunet.training(plan) / "training.json"
    if not path.exists():
        nnunet.run("train", nnunet.number, plan, 0, "-tr", TRAINER, "-device", "cpu", minutes=minutes)
    report = layouts.read_json(path, iterations=int)
    if report["limit_minutes"] != minutes:
        raise InputError(f"{path.parent}: was trained for {report['limit_minutes']} minutes; give another --output.")
    return report


def predict(nnunet: NnUNet, plan: str) -> float:
    """Predicts the test patients with the final checkpoint and returns the minutes that it took."""
    network = ("-d", nnunet.number, "-c", plan, "-f", 0, "-tr", TRAINER, "-device", "cpu")
    folders = ("-i", nnunet.raw / "imagesTs", "-o", nnunet.output / "predictions")
    start = time.monotonic()
    nnunet.run("predict", *network, *folders, "-npp", 1, "-nps", 1, "--disable_progress_bar")
    return (time.monotonic() - start) / 60


if __name__ == "__main__":
    RUN = command.define_path("run", None, "Folder of a run.")
    SOURCE = command.define_path("source", None, "Folder of ACDC.")
    MINUTES = flags.DEFINE_float("minutes", 30, "Length of the training.", lower_bound=0.01)
    PLAN = flags.DEFINE_enum("plan", "2d", ("2d", "cut"), "nnU-Net's own plan, or the smaller one.")
    FULL = flags.DEFINE_bool("full", False, "Full masks for all training patients.")
    PYTHON = command.define_path("python", None, "Python of nnU-Net's environment.")
    WORK = command.define_path("work", None, "Folder for data sets, reused by later calls.")
    OUTPUT = command.define_path("output", None, "Folder for the network, predictions and scores.")
    flags.mark_flags_as_required(["run", "source", "python", "work", "output"])
    command.run(main)
