"""Invalid settings, folders and outputs: a row is the input and the words of the message."""

import os
import shutil

import nibabel as nib
import pytest

from files import NOTHING, arrays, write

IMAGE, MASK, _ = arrays("b")

# settings, by main

SETTINGS = {
    "an unknown key": (["batch_size=4"], ["no setting 'batch_size'"]),
    "a misspelt key": (["train.step=4"], ["no setting 'step'", '"steps"']),
    "text for a number": (["train.keep=many"], ["train.keep", "'many'", "--help"]),
    "a word for the steps": (["train.steps=many"], ["train.steps", "many", "give auto, or a whole number"]),
    "a float for a whole number": (["train.keep=1e3"], ["train.keep", "'1e3'"]),
    "text for a float": (["optimizer.learning_rate=high"], ["learning_rate", "'high'"]),
    "text for yes or no": (["model.remat=maybe"], ["model.remat", "maybe"]),
    "text for two numbers": (["data.percentiles=('low','high')"], ["data.percentiles", "'low'", "two numbers"]),
    "three for two numbers": (["data.window=(0,1,2)"], ["data.window", "(0, 1, 2)", "two numbers"]),
    "a number for rows": (["data.split_sizes=5"], ["data.split_sizes", "rows of three"]),
    "a value for a group": (["data.augment={'flip':True}"], ["--config.data.augment", "group of settings"]),
    "steps from 0": (["train.steps=0"], ["config.train.steps", "is 0", "at least 1"]),
    "an infinite rate": (["optimizer.learning_rate=inf"], ["learning_rate", "inf", "above 0"]),
    "an endless turn": (["data.augment.rotation=inf"], ["data.augment.rotation", "inf"]),
    "a seed below 0": (["seed=-1"], ["config.seed", "-1", "from 0"]),
    "a split seed below 0": (["data.split_seed=-1"], ["config.data.split_seed", "-1", "from 0"]),
    "a size that halves to no whole": (["data.size=30"], ["config.data.size", "30", "multiple of 4"]),
    "a batch that devices cannot share": (["train.strong_batch=3"], ["train.strong_batch", "3", "4 devices"]),
    "an unknown method": (["method.name=kl-ent"], ["config.method.name", "kl-ent", "kl_ent"]),
    "an unknown layout": (["data.layout=ACDC"], ["config.data.layout", "'ACDC'", "acdc"]),
    "an unknown recipe": (["data.weak=boxes"], ["config.data.weak", "boxes", "box"]),
    "classes that the labels lack": (["data.classes=LV+LA"], ["config.data.classes", "'LA'", "RV, MYO, LV"]),
    "labels without values": (["data.labels=LV,MYO"], ["config.data.labels", "'LV,MYO'", "LV=3,MYO=2"]),
    "more strong patients than there are": (["data.strong=6"], ["config.data.strong", "6", "5 training patients"]),
    "a strong patient who is not there": (["data.strong=['x']"], ["config.data.strong", "['x']", "each once"]),
    "other numbers of patients": (["data.split_sizes=((9,9,9),)"], ["data.split_sizes", "9+9+9", "8 patients"]),
    "a patient in two splits": (
        ["data.split.train=('phantom001','phantom002')", "data.split.test=('phantom002',)"],
        ["config.data.split.test", "'phantom002' is already in train", "each once"],
    ),
    "a patient of no data set": (
        ["data.split.train=('patient1',)", "data.split.test=('phantom002',)"],
        ["config.data.split.train", "'patient1'"],
    ),
    "no test patients": (["data.split.train=('phantom001',)"], ["config.data.split.test", "empty"]),
    "no pattern": (["data.patient=(p"], ["config.data.patient", "'(p'", "correct it"]),
    "a fold of none": (["data.fold=4/4"], ["config.data.fold", "4/4", "like 0/4"]),
    "no source": (["data.source="], ["config.data.source", "empty"]),
    "a folder that is not there": (["data.layout=acdc", "data.source=nowhere"], ["nowhere", "no such folder"]),
    "no number of phantoms": (["data.source=patients=few"], ["config.data.source", "patients=40,seed=0"]),
    "no table": (["data.table=nowhere.csv"], ["nowhere.csv", "No such file", "give a CSV"]),
    "a cache that is a file": (["data.cache=README.md"], ["README.md", "Not a directory", "--config.data.cache="]),
    "a run that is none": (["init_from=configs"], ["config.init_from", "configs", "contains no run"]),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_a_setting_that_cannot_be_used(refused, settings, tmp_path, case):
    values, words = SETTINGS[case]
    kept = [flag for flag in settings if flag.split("=")[0][9:] not in {value.split("=")[0] for value in values}]
    flags = [f"--config.{value}" for value in values]
    refused(["main", *kept, *flags, f"--workdir={tmp_path / 'new'}"], words)


CONFIGS = {
    "the settings' former place": (
        "import configs\ndef get_config(arg=None):\n    return configs.apply(None, arg)\n",
        ["module 'configs' has no attribute 'apply'", "write `from msl_jax import settings`", "settings.apply"],
    ),
    "an experiment's former place": (
        "from configs import nowhere\n",
        ["cannot import name 'nowhere' from 'configs'", "write `from msl_jax import settings`"],
    ),
    "a syntax error": ("def get_config(arg=None:\n    pass\n", ["SyntaxError", "line 1", "correct it"]),
    "a name unknown": ("def get_config(arg=None):\n    return confg\n", ["NameError", "'confg'"]),
    "a module unknown": ("import nowhere_at_all\n", ["ModuleNotFoundError", "'nowhere_at_all'"]),
    "no get_config": ("config = 1\n", ["get_config"]),
    "nothing returned": ("def get_config(arg=None):\n    pass\n", ["NoneType"]),
    "no Python": ("\0", ["SyntaxError"]),
    "a setting misspelt": (
        "data.clases = 'LV'",
        ["unknown or missing settings: data.clases;", "msl_jax/settings/defaults.py"],
    ),
    "a setting of another type": ("train.keep = 'many'", ["TypeError", "keep"]),
    "settings left out": (
        "data.augment = dict(flip=True)",
        ["missing settings: data.augment.blur, data.augment.brightness, data.augment.contrast and 6 more"],
    ),
}
"""The text of a config file, or a line in a copy of the template."""
TEMPLATE = """
from msl_jax import settings
def get_config(arg=None):
    config = settings.load("nifti", arg).unlock()
    config.{}
    return config
"""


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_file_that_cannot_be_used(refused, tmp_path, case):
    text, words = CONFIGS[case]
    text = text if "\n" in text or "\0" in text else TEMPLATE.format(text)
    file = write(tmp_path, {"mine.py": text}) / "mine.py"
    refused(["main", f"--config={file}", f"--workdir={tmp_path / 'new'}"], [f"--config={file}", *words])


TABLES = {
    "semicolons": ("patient;role\nphantom001;strong\n", ["columns are patient;role", "give patient"]),
    "empty": ("", ["columns are", "give patient"]),
    "UTF-16": ("patient,role\n".encode("utf-16"), ["not UTF-8 text"]),
    "a patient unknown": ("patient,role\nanna,strong\n", ["line 2", "no patient 'anna'", "correct the name"]),
    "a patient twice": ("patient,role\nphantom001,test\nphantom001,weak\n", ["line 3", "listed twice", "keep one"]),
    "a role unknown": ("patient,role\nphantom001,full\n", ["line 2", "role is 'full'", "strong, weak"]),
    "zero bytes": ("patient,role\nphantom001,\0\n", ["line 2", "role is"]),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_cannot_be_used(refused, settings, tmp_path, case):
    text, words = TABLES[case]
    file = write(tmp_path, {"roles.csv": text}) / "roles.csv"
    refused(["main", *settings, f"--config.data.table={file}", f"--workdir={tmp_path / 'new'}"], [str(file), *words])


# folders and outputs

PREDICT = ["predict", "--workdir=RUN", "--output=TMP/new"]
SUGGEST = ["suggest", "--workdir=RUN", "--output=TMP/new"]
EVALUATE = ["evaluate", "--labels=LV=3", "--predictions=TMP/labels", "--references=TMP/labels"]
LONG = "n" * 300
FOLDERS = {
    "a workdir that is a file": (["main", "SETTINGS", "--workdir=TMP/file"], ["TMP/file", "is a file", "as workdir"]),
    "a workdir of another run": (["main", "SETTINGS", "--workdir=RUN"], ["RUN", "other settings", "rate was"]),
    "an empty workdir": (["main", "SETTINGS", "--workdir="], ["--workdir", "is empty"]),
    "no run": ([*PREDICT, "--workdir=TMP/images", "--input=TMP/images"], ["config.json", "is missing"]),
    "no runs": ([*PREDICT, "--workdir=", "--input=TMP/images"], ["--workdir", "is empty"]),
    "a run cut off": ([*PREDICT, "--workdir=TMP/cut", "--input=TMP/images"], ["TMP/cut/config.json", "damaged"]),
    "another program's": ([*SUGGEST, "--workdir=TMP/other", "--input=TMP/images"], ["other/config.json", "from a run"]),
    "a run not trained": ([*PREDICT, "--workdir=TMP/bare", "--input=TMP/images"], ["TMP/bare", "no last checkpoint"]),
    "an image that is not there": ([*PREDICT, "--input=TMP/b.nii.gz"], ["TMP/b.nii.gz", "No such file"]),
    "a folder that is not there": ([*PREDICT, "--input=TMP/nowhere"], ["TMP/nowhere", "not a file of a known format"]),
    "no folder to suggest from": ([*SUGGEST, "--input=TMP/nowhere"], ["TMP/nowhere", "No such file"]),
    "a folder without images": ([*PREDICT, "--input=TMP/bare"], ["TMP/bare", "contains no images"]),
    "an image that is a link to nothing": ([*PREDICT, "--input=TMP/linked"], ["TMP/linked/x.nii.gz", "No such file"]),
    "a picture": ([*PREDICT, "--input=TMP/picture.jpg"], ["TMP/picture.jpg", "known format", ".nii.gz"]),
    "a name too long": ([*PREDICT, f"--input=TMP/{LONG}.nii"], [LONG, "name too long", "check the path"]),
    "predictions into the images": ([*PREDICT, "--input=TMP/images", "--output=TMP/images"], ["one of the images"]),
    "predictions into a file": ([*PREDICT, "--input=TMP/images", "--output=TMP/file"], ["TMP/file", "is a file"]),
    "predictions below a file": ([*PREDICT, "--input=TMP/images", "--output=TMP/file/x"], ["TMP/file:", "is a file"]),
    "predictions that exist": ([*PREDICT, "--input=TMP/images", "--output=TMP/old"], ["TMP/old/a.nii", "--overwrite"]),
    "probabilities that exist": (
        [*PREDICT, "--input=TMP/images", "--output=TMP/older", "--save_probabilities"],
        ["TMP/older/a_prob.nii.gz", "exists", "--overwrite"],
    ),
    "a report into a file": (["prepare", "SETTINGS", "--output=TMP/file"], ["TMP/file", "is a file", "--output"]),
    "a ranking into a file": ([*SUGGEST, "--input=TMP/images", "--output=TMP/file"], ["TMP/file", "is a file"]),
    "results into a folder": ([*EVALUATE, "--output=TMP/taken.json"], ["TMP/taken.json", "is not a .json file"]),
    "cases into a folder": ([*EVALUATE, "--output=TMP/half.json"], ["TMP/half.csv", "is a directory"]),
    "results by no name": ([*EVALUATE, "--output="], ["--output", "is empty"]),
    "cases with voxel sizes and without": (
        [*EVALUATE, "--predictions=TMP/mixed", "--references=TMP/mixed", "--output=TMP/new.json"],
        ["have voxel sizes and some do not", "evaluate them separately"],
    ),
    "no predictions": ([*EVALUATE, "--predictions=TMP/no", "--output=TMP/new.json"], ["TMP/no", "no such folder"]),
    "a flag unknown": ([*PREDICT, "--input=TMP/images", "--overwrte"], ["overwrte", "overwrite"]),
}  # fmt: skip


@pytest.fixture
def places(tmp_path, drawn):
    """The paths in FOLDERS: folders of images and other files, existing files, damaged runs."""
    config = (drawn / "config.json").read_text()
    write(tmp_path, {"images/a.nii": IMAGE, "old/a.nii": "an old file", "older/a_prob.nii.gz": "an old file"})
    write(tmp_path, {"file": "a file", "picture.jpg": "a picture", "bare/config.json": config})
    write(tmp_path, {"cut/config.json": config[:99], "other/config.json": "{}"})
    unknown = nib.Nifti1Image(MASK.T, None).to_bytes()
    write(tmp_path, {"labels/a.nii": MASK, "mixed/a.nii": MASK, "mixed/b.nii": unknown})
    write(tmp_path, {"taken.json/x": "", "half.csv/x": "", "linked/x.nii.gz": NOTHING})
    return {"RUN": str(shutil.copytree(drawn, tmp_path / "run")), "TMP": str(tmp_path)}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_path_that_cannot_be_used(refused, places, settings, case):
    def filled(text):
        return text.replace("RUN", places["RUN"]).replace("TMP", places["TMP"])

    argv, words = FOLDERS[case]
    argv = [flag for text in argv for flag in (settings if text == "SETTINGS" else [filled(text)])]
    refused(argv, map(filled, words))


def forbid(monkeypatch, folder):
    """Removes the permission to read and write the folder; simulated for root, who has all permissions."""
    if os.geteuid():
        folder.chmod(0)
        return
    listdir, scandir, access = os.listdir, os.scandir, os.access

    def allowed(path):
        if os.fspath(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return path

    monkeypatch.setattr(os, "listdir", lambda path: listdir(allowed(path)))
    monkeypatch.setattr(os, "scandir", lambda path: scandir(allowed(path)))
    monkeypatch.setattr(os, "access", lambda path, mode: os.fspath(path) != str(folder) and access(path, mode))


def test_a_folder_that_may_not_be_read_or_written(refused, drawn, tmp_path, monkeypatch):
    data = write(tmp_path / "data", {"images/a.nii.gz": IMAGE, "masks/a.nii.gz": MASK})
    below = write(tmp_path, {"in/a.nii.gz": IMAGE, "in/deep/b.nii.gz": IMAGE}) / "in"
    with monkeypatch.context() as patched:
        for folder in (data / "masks", below / "deep"):
            forbid(patched, folder)
        new = f"--output={tmp_path / 'new'}"
        words = ["Permission denied", "check the path"]
        source = [f"--config.data.source={data}", f"--config.data.cache={tmp_path / 'cache'}"]
        refused(["prepare", "--config=configs/nifti.py", *source, new], [str(data / "masks"), *words])
        refused(["predict", f"--workdir={drawn}", f"--input={below}", new], [str(below / "deep"), *words])
        refused(["suggest", f"--workdir={drawn}", f"--input={below}", new], [str(below / "deep"), *words])
        forbid(patched, tmp_path)
        new = f"--output={tmp_path / 'newer'}"
        refused(["predict", f"--workdir={drawn}", f"--input={below}", new], [f"{tmp_path}: is not writable"])
        for folder in (data / "masks", below / "deep", tmp_path):
            folder.chmod(0o755)


def test_the_traceback_is_printed_on_request(command, tmp_path, monkeypatch):
    argv = ["evaluate", *EVALUATE[1:2], f"--predictions={tmp_path}", f"--references={tmp_path}", "--output=a.json"]
    assert "Traceback" not in command(*argv)[1]
    monkeypatch.setenv("MSL_JAX_TRACEBACK", "1")
    code, err = command(*argv)
    assert code == 2 and "Traceback" in err and "in _files" in err
    assert err.splitlines()[-1].startswith(f"msl_jax: {tmp_path}: contains no volumes")
