"""Bad input ends in one sentence, whatever the command."""

import errno
import itertools
import os
import re

import nibabel as nib
import pytest

from files import arrays, one_sentence, save

MAIN = ["main", "--workdir=NEW", "SETTINGS"]
PREDICT = ["predict", "--workdir=RUN", "--output=NEW"]
EVALUATE = ["evaluate", "--predictions=PREDICTED", "--output=NEW.json"]
SWEEP = ["sweep", "--workdir=NEW", "SETTINGS", "--seeds=0"]
REFUSED = {
    "unknown flag": (["predict", "--wrokdir=x"], ["wrokdir"]),
    "missing flag": (["main", "--workdir=NEW"], ["--config"]),
    "argument": ([*MAIN, "train"], ["'train'", "--NAME=VALUE"]),
    "config key": ([*MAIN, "--config.model.widht=4"], ["widht"]),
    "config value": ([*MAIN, "--config.train.steps=many"], ["many"]),
    "config setting": ([*MAIN, "--config.train.steps=0"], ["config.train.steps", "is 0"]),
    "config file": (["main", "--workdir=NEW", "--config=configs/nowhere.py"], ["configs/nowhere.py"]),
    "config arg": (["main", "--workdir=NEW", "--config=configs/phantom.py:strnog=3"], ["strnog=3", "strong"]),
    "other run": (["main", "--workdir=RUN", "SETTINGS", "--config.seed=2"], ["seed was 1 and is 2"]),
    "no run to start from": (["main", "--workdir=NEW", "SETTINGS", "--config.init_from=EMPTY"], ["EMPTY", "no run"]),
    "a network of another size to start from": (
        ["main", "--workdir=NEW", "SETTINGS", "--config.init_from=RUN", "--config.model.width=4"],
        ["config.model.width: is 4, but 2", "RUN"],
    ),
    "class weights of an unknown structure": (
        ["main", "--workdir=NEW", "SETTINGS", "--config.method.class_weights={'LW': 2}"],
        ["config.method.class_weights", "'LW'", "background, LV"],
    ),
    "no run to predict with": (["predict", "--workdir=NEW", "--input=IMAGES", "--output=NEW"], ["config.json"]),
    "folds to evaluate": (
        ["evaluate", "--workdir=FOLDS", "SETTINGS", "--output=NEW.json"],
        ["FOLDS", "fold0", "give one of these"],
    ),
    "folds to export": (["export", "--workdir=FOLDS", "--format=safetensors"], ["FOLDS", "fold0", "give one of these"]),
    "other runs as folds": (
        ["predict", "--workdir=FOLDS", "--input=IMAGES", "--output=NEW"],
        ["FOLDS: fold0", "not the folds of one cross-validation"],
    ),
    "no images": ([*PREDICT, "--input=EMPTY"], ["EMPTY", "contains no images"]),
    "no such image": ([*PREDICT, "--input=EMPTY/nothing.nii.gz"], ["EMPTY/nothing.nii.gz", "cannot be read"]),
    "no such branch": ([*PREDICT, "--input=IMAGES", "--branch=master"], ["master", "student", "teacher"]),
    "output exists": (["predict", "--workdir=RUN", "--input=IMAGES", "--output=PREDICTED"], ["exists", "--overwrite"]),
    "labels": ([*EVALUATE, "--references=REFERENCES", "--labels=LV"], ["--labels", "'LV'", "NAME=VALUE"]),
    "no references": ([*EVALUATE, "--references=EMPTY", "--labels=LV=3"], ["EMPTY", "contains no volumes"]),
    "no such folder": ([*EVALUATE, "--references=NEW", "--labels=LV=3"], ["NEW", "no such folder"]),
    "a structure twice": ([*EVALUATE, "--references=EMPTY", "--labels=LV=3,LV=2"], ["LV=3,LV=2", "twice"]),
    "results that are no JSON": (
        ["evaluate", "--predictions=PREDICTED", "--references=EMPTY", "--labels=LV=3", "--output=NEW.csv"],
        [".csv", "is not a .json file"],
    ),
    "a value that nobody has": (
        [*EVALUATE, "--references=REFERENCES", "--labels=LV=9", "--reference_suffix=_gt"],
        ["value 9 of LV"],
    ),
    "a sweep over an unknown method": ([*SWEEP, "--methods=kl,klx", "--strong=2"], ["klx", "kl_ent"]),
    "a sweep over too many strong patients": ([*SWEEP, "--methods=kl", "--strong=2,9"], ["data.strong", "9", "5"]),
    "a sweep over no numbers": ([*SWEEP, "--methods=kl", "--strong=few"], ["--strong=few", "whole numbers"]),
    "a sweep of one fold": ([*SWEEP, "--methods=kl", "--strong=2", "--folds=1"], ["--folds=1", ">= 2"]),
    "a sweep of more folds than strong patients": (
        [*SWEEP, "--methods=kl", "--strong=2", "--folds=3"],
        ["config.data.fold", "0/3", "only 2 patients", "fewer folds"],
    ),
    "a sweep of all folds and of one": (
        [*SWEEP, "--methods=kl", "--strong=2", "--folds=2", "--config.data.fold=0/2"],
        ["config.data.fold: is 0/2", "--folds"],
    ),
    "a sweep on a host too many": ([*SWEEP, "--methods=kl", "--strong=2", "--share=3/2"], ["--share=3/2"]),
    "a sweep from no run": ([*SWEEP, "--methods=kl", "--strong=2", "--config.init_from=EMPTY"], ["EMPTY", "no run"]),
    "a sweep in a bucket": ([*SWEEP, "--methods=kl", "--strong=2", "--workdir=gs://a/b"], ["gs://a/b", "mounted"]),
    "no reference of that name": ([*EVALUATE, "--references=REFERENCES", "--labels=LV=3"], ["0 references named"]),
}


@pytest.mark.parametrize(("argv", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_input_ends_in_one_sentence(command, argv, words, settings, workdir, hospital, predicted, tmp_path):
    (tmp_path / "EMPTY").mkdir()
    new = tmp_path / "new"
    (tmp_path / "folds").mkdir()
    (tmp_path / "folds" / "fold0").symlink_to(workdir)
    folders = {
        "FOLDS": tmp_path / "folds",
        "RUN": workdir,
        "PREDICTED": predicted[0],
        "EMPTY": tmp_path / "EMPTY",
        "NEW": new,
    }
    folders |= {"FOLDS": tmp_path / "folds", "IMAGES": hospital / "images", "REFERENCES": hospital / "references"}

    def filled(text):
        return re.sub("|".join(folders), lambda match: str(folders[match[0]]), text)

    before = {path: path.stat().st_mtime_ns for folder in (workdir, predicted[0]) for path in folder.rglob("*")}
    flat = itertools.chain.from_iterable(settings if text == "SETTINGS" else [filled(text)] for text in argv)
    code, err = command(*flat)
    one_sentence(code, err, map(filled, words))
    assert not new.exists(), "a refused command wrote something"
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_overwrite_replaces(command, workdir, hospital, tmp_path):
    image = next((hospital / "images").rglob("*.nii.gz"))
    (tmp_path / image.name).write_text("an old file")
    argv = ["predict", f"--workdir={workdir}", f"--input={image}", f"--output={tmp_path}"]
    assert command(*argv)[0] == 2 and (tmp_path / image.name).read_text() == "an old file"
    command(*argv, "--overwrite")
    assert nib.load(tmp_path / image.name).shape == nib.load(image).shape


def test_prepare_names_every_file_that_cannot_be_used(command, tmp_path):
    for name in ("a", "b", "c"):
        image, mask, _ = arrays(name)
        save(tmp_path / "data" / "images" / f"{name}.nii.gz", image)
        save(tmp_path / "data" / "masks" / f"{name}.nii.gz", mask + (name != "b"))
    data = {"source": tmp_path / "data", "labels": "A=1,B=2,C=3", "cache": tmp_path / "cache"}
    settings = [f"--config.data.{key}={value}" for key, value in data.items()]
    code, err = command("prepare", "--config=configs/nifti.py", *settings, f"--output={tmp_path / 'look'}")
    known = "has the unknown label values [4], not among [0, 1, 2, 3, 255]; correct the file or the data set's labels."
    faults = [f"{tmp_path / 'data' / 'masks' / name}.nii.gz: {known}" for name in ("a", "c")]
    assert code == 2
    assert [line for line in err.splitlines() if "Building" not in line] == [f"msl_jax: {fault}" for fault in faults]
    assert (tmp_path / "look" / "report.txt").read_text() == "".join(f"error: {fault}\n" for fault in faults)


def test_a_full_disk_ends_in_one_sentence(command, workdir, hospital, monkeypatch, tmp_path):
    def full(file, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(nib, "save", full)
    flags = [f"--workdir={workdir}", f"--input={hospital}/images", f"--output={tmp_path / 'new'}"]
    one_sentence(*command("predict", *flags), ["No space left on device", "check the path"])
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_file()]
