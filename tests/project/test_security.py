"""What a file from elsewhere may do: be read, or be refused. A config file is Python, and may do all."""

import ast
import contextlib
import gzip
import json
import os
import pathlib
import pickle
import shutil

import h5py
import nibabel as nib
import numpy as np
import pytest

from files import arrays, assert_input_error, at, save
from msl_jax.data.formats import volumes
from msl_jax.data.patient_table import read_table
from msl_jax.data.readers import READERS
from msl_jax.errors import InputError
from msl_jax.inference.files import predict
from msl_jax.inference.segmenter import load_network
from msl_jax.runs import journal
from processes import ROOT

# No code from data

MODULES = ("pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "torch", "yaml", "jsonpickle")
BUILTINS = ("eval", "exec", "compile", "__import__")
ATTRIBUTES = ("literal_eval", "read_pickle", "system", "popen", "import_module", "run_path")
ARGUMENTS = ("allow_pickle", "shell")


def dangers(source: str) -> set[str]:
    """What of a module could run code that it reads."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                found |= {name.name for name in node.names if name.name.split(".")[0] in MODULES}
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
                found.add(module)
            case ast.Name(id=name) if name in BUILTINS:
                found.add(name)
            case ast.Attribute(attr=name) if name in ATTRIBUTES:
                found.add(name)
            case ast.keyword(arg=name) if name in ARGUMENTS:
                found.add(name)
    return found


SOURCES = sorted([*ROOT.glob("msl_jax/**/*.py"), *ROOT.glob("configs/*.py")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_module_can_run_what_it_reads(path):
    """But for the config file and plugins, which are Python and named by the user, and PyTorch's files of tensors."""
    allowed = {"configs.py": {"run_path"}, "plugins.py": {"import_module"}, "released_weights.py": {"torch"}}
    assert dangers(path.read_text(encoding="utf-8")) == allowed.get(path.name, set())


def test_pytorch_is_asked_for_weights_alone():
    tree = ast.parse((ROOT / "msl_jax" / "runs" / "released_weights.py").read_text())
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "load"]
    assert len(calls) == 1
    assert {k.arg: getattr(k.value, "value", None) for k in calls[0].keywords}["weights_only"] is True


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import torch.serialization as t",
        "import numpy as np\nnp.load(file, allow_pickle=True)",
        "print(eval(text))",
        "run = exec",
        "from yaml import load",
        "import shelve as s",
        "pd.read_pickle(path)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_such_a_module_would_be_found(source):
    assert dangers(source)


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return pathlib.Path.touch, (self.marker,)


@pytest.fixture
def payload(tmp_path):
    """A pickle that leaves a mark, which no test may find."""
    marker = tmp_path / "ran"
    contents = pickle.dumps(Payload(marker))
    pickle.loads(contents)
    assert marker.exists(), "the payload does not work"
    marker.unlink()
    yield contents
    assert not marker.exists(), "what was read was run"


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("ending", volumes.ENDINGS)
def test_a_pickle_in_place_of_a_volume_is_not_run(tmp_path, payload, kind, ending):
    for name, voxels in zip(("images", "masks"), arrays("a"), strict=False):
        save(tmp_path / "set" / name / f"a{ending}", voxels)
    path = tmp_path / "set" / kind / f"a{ending}"
    path.write_bytes(gzip.compress(payload) if ending == ".nii.gz" else payload)
    source = at("folder", tmp_path / "set", labels={"A": 1, "B": 2, "C": 3})
    assert_input_error(lambda: [load() for load in READERS["folder"].read(source)], "read|gzip", path)


@pytest.mark.parametrize(
    "layout, file",
    [
        ("msd", "dataset.json"),
        ("nnunet", "dataset.json"),
        ("acdc", "training/patient001/Info.cfg"),
        ("png_tree", "val/Img/a_1.png"),
        ("wsl4mis", "ACDC_training_volumes/a.h5"),
    ],
)
def test_a_pickle_in_a_data_set_is_not_run(tmp_path, payload, layout, file):
    for folder in ("imagesTr", pathlib.PurePath(file).parent):
        (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "set" / file).write_bytes(payload)
    source = at(layout, tmp_path / "set", labels={"A": 1})
    assert_input_error(
        lambda: [load() for load in READERS[layout].read(source)], "read|no line", tmp_path / "set" / file
    )


def test_a_pickle_in_hdf5_is_not_run(tmp_path, payload):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.void(payload)
    source = at("wsl4mis", tmp_path)
    assert_input_error(lambda: [load() for load in READERS["wsl4mis"].read(source)], "its 'image' has type", tmp_path)


def test_a_pickle_in_place_of_a_table_is_not_run(tmp_path, payload):
    (tmp_path / "roles.csv").write_bytes(payload)
    assert_input_error(lambda: read_table(str(tmp_path / "roles.csv"), ["a"]), "read", tmp_path / "roles.csv")


@pytest.fixture(scope="module")
def run(untrained):
    """A run's folder, untrained."""
    return untrained("seed=0")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of Orbax, which gives up midway
def test_a_pickle_in_a_run_is_not_run(tmp_path, payload, run):
    """In place of each of a run's files in turn; what a damaged run is refused by, other tests say."""
    read = (load_network, lambda folder: journal.read(folder / "metrics.csv"))
    files = sorted(path.relative_to(run) for path in pathlib.Path(run).rglob("*") if path.is_file())
    assert {"config.json", "_METADATA", "_CHECKPOINT_METADATA", "_sharding"} <= {file.name for file in files}
    copy = type(run)(shutil.copytree(run, tmp_path / "run"))
    for file in [*files, pathlib.Path("metrics.csv")]:
        (copy / file).write_bytes(payload)
        for ask in read:
            with contextlib.suppress(Exception):
                ask(copy)
        shutil.copy(run / file, copy / file) if (run / file).exists() else (copy / file).unlink()


# Names in data stay in its folder


OUTSIDE = ["../secret.nii.gz", "imagesTr/../../secret.nii.gz", "SECRET", "/../SECRET", "a/./../../secret.nii.gz"]


@pytest.mark.parametrize("key", ["image", "label"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_decathlons_index_cannot_name_what_lies_outside(tmp_path, name, key):
    secret = save(tmp_path / "secret.nii.gz", arrays("secret")[0])
    for kind in ("imagesTr", "labelsTr"):
        save(tmp_path / "set" / kind / "a.nii.gz", arrays("a")[0])
    entry = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz", key: name.replace("SECRET", str(secret))}
    index = {"labels": {"0": "background", "1": "A"}, "modality": {"0": "MRI"}, "training": [entry]}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(index))
    reader = READERS["msd"]
    for ask in (reader.fingerprint, lambda source: list(reader.read(source))):
        assert_input_error(
            lambda ask=ask: ask(at("msd", tmp_path / "set")), "is outside of this folder", tmp_path / "set"
        )


@pytest.mark.parametrize("name", ["a" * 300 + ".nii.gz", "a\0b.nii.gz", "\ud800.nii.gz", "a/" * 3000 + "b.nii.gz"])
def test_a_decathlons_index_may_name_what_cannot_be(tmp_path, name):
    index = {"labels": {"1": "A"}, "modality": {"0": "MRI"}, "training": [{"image": name}]}
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    assert_input_error(lambda: list(READERS["msd"].read(at("msd", tmp_path))), "is missing", tmp_path)


def test_an_index_of_nnunet_names_no_files(tmp_path):
    """What it says of a file's ending is compared with those known."""
    save(tmp_path / "set" / "imagesTr" / "a_0000.nii.gz", arrays("a")[0])
    save(tmp_path / "secret_0000.nii.gz", arrays("secret")[0])
    index = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "A": 1}}
    for ending in ("/../../secret_0000.nii.gz", "", "_0000.nii.gz"):
        (tmp_path / "set" / "dataset.json").write_text(json.dumps(index | {"file_ending": ending}))
        source = at("nnunet", tmp_path / "set")
        assert_input_error(lambda source=source: list(READERS["nnunet"].read(source)), "file_ending", tmp_path / "set")


def test_a_frame_of_acdc_is_a_number(tmp_path):
    folder = tmp_path / "training" / "patient001"
    folder.mkdir(parents=True)
    for frame in ("../../secret", "1/../../x", "9" * 5000, "-1", ""):
        (folder / "Info.cfg").write_text(f"ED: {frame}\nES: 1\nGroup: DCM\n")
        source = at("acdc", tmp_path)
        assert_input_error(
            lambda source=source: [load() for load in READERS["acdc"].read(source)],
            "Info.cfg: (ED is|has no lines 'ED)",
            folder,
        )


def test_a_table_names_patients_alone(tmp_path):
    (tmp_path / "roles.csv").write_text("patient,role\n../secret,strong\n")
    assert_input_error(lambda: read_table(str(tmp_path / "roles.csv"), ["a"]), "no patient '../secret'", tmp_path)
    (tmp_path / "roles.csv").write_text("patient,role\n" + "a" * 200_000 + ",strong\n")
    assert_input_error(lambda: read_table(str(tmp_path / "roles.csv"), ["a"]), "is not a readable CSV file", tmp_path)


def test_links_are_the_owners_and_are_followed(tmp_path):
    """A link lies in the folder because somebody with access put it there; a file that names a path does not count."""
    image, mask, _ = arrays("a")
    save(tmp_path / "elsewhere" / "x.nii.gz", image)
    save(tmp_path / "elsewhere" / "masks" / "a.nii.gz", mask)
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "a.nii.gz").symlink_to(tmp_path / "elsewhere" / "x.nii.gz")
    (tmp_path / "set" / "masks").symlink_to(tmp_path / "elsewhere" / "masks")
    (load,) = READERS["folder"].read(at("folder", tmp_path / "set", labels={"A": 1, "B": 2, "C": 3}))
    case = load()
    np.testing.assert_array_equal(case.image[..., 0], image)
    np.testing.assert_array_equal(case.mask, mask)


def test_names_that_are_no_text_are_refused_where_they_are_cases_and_passed_over_elsewhere(tmp_path):
    for folder in ("set/images", "training/patient001"):
        save(tmp_path / folder / "a.nii.gz", arrays("a")[0])
        (tmp_path / folder / os.fsdecode(b"a\xff.nii.gz")).touch()
    source = at("folder", tmp_path / "set", labels={"A": 1})
    assert_input_error(lambda: READERS["folder"].fingerprint(source), "its name is not valid UTF-8; rename it", "'/")
    assert len(READERS["acdc"].fingerprint(at("acdc", tmp_path))) == 64


# Predictions stay in --output


HOSTILE = [
    "..nii.gz",
    "...nii.gz",
    "-rf.nii.gz",
    "a\nb.nii.gz",
    "a$\\frac{$.nii.gz",
    "~root.nii.gz",
    "..\\..\\a.nii.gz",
    "C:\\a.nii.gz",
    "$(touch x);`touch y`.nii.gz",
    "%2e%2e%2fa.nii.gz",
    "a" * 243 + ".nii.gz",
    "é" * 121 + ".nii.gz",
    "😀" * 60 + ".nii.gz",
]


def everything(folder: pathlib.Path) -> set[pathlib.Path]:
    return set(folder.rglob("*"))


@pytest.fixture(scope="module")
def image(phantoms):
    """A case as NIfTI, of few voxels."""
    volume = phantoms.case(phantoms.entries[0]).image[:2, ..., 0]
    return nib.Nifti1Image(volume.T, np.diag([1.5, 1.5, 8, 1])).to_bytes()


@pytest.mark.parametrize("single", [True, False], ids=["file", "folder"])
def test_predictions_lie_below_the_output_whatever_the_input_is_called(tmp_path, run, image, single):
    source, output = tmp_path / "in" / "deeper", tmp_path / "out" / "deeper"
    source.mkdir(parents=True)
    output.parent.mkdir()
    for name in HOSTILE:
        (source / name).write_bytes(gzip.compress(image))
    before = everything(tmp_path)
    inputs = [source / name for name in HOSTILE[:3]] if single else [source]
    written = [path for one in inputs for path in predict([run], one, output, save_probabilities=True)]
    names = HOSTILE[:3] if single else [name for name in HOSTILE if not name.startswith(".")]
    assert {path.name for path in written} == set(names)
    made = everything(tmp_path) - before
    assert made and all(path == output or path.parent == output for path in made)
    assert len(made) == 1 + 2 * len(names)


def test_names_that_cannot_be_written_are_refused_before_anything_is(tmp_path, run, image):
    def ask(name, **kwargs):
        source = tmp_path / "in" / "x"
        source.mkdir(parents=True)
        (source / os.fsdecode(name)).write_bytes(gzip.compress(image))
        try:
            predict([run], source, tmp_path / "out", **kwargs)
        finally:
            shutil.rmtree(tmp_path / "in")

    longest = b"a" * 248 + b".nii.gz"
    with pytest.raises(InputError, match="is too long for a file name"):
        ask(longest, save_probabilities=True)
    with pytest.raises(InputError, match="its name is not valid UTF-8"):
        ask(b"a\xff.nii.gz")
    assert not (tmp_path / "out").exists()
    ask(longest)
    assert [path.name.encode() for path in (tmp_path / "out").iterdir()] == [longest]


def test_no_output_is_written_twice_or_over_an_image(tmp_path, run, image):
    for name in ("a.nii.gz", "a_prob.nii.gz"):
        (tmp_path / name).write_bytes(gzip.compress(image))
    with pytest.raises(InputError, match=r"_prob.* would be both a label map and probabilities"):
        predict([run], tmp_path, tmp_path / "out", save_probabilities=True)
    with pytest.raises(InputError, match="is one of the images"):
        predict([run], tmp_path, tmp_path / "out" / "..", overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"a.nii.gz", "a_prob.nii.gz"}


def test_a_link_in_the_output_is_replaced_not_followed(tmp_path, run, image):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(image))
    (tmp_path / "out").mkdir()
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "out" / "a.nii.gz").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="exists"):
        predict([run], tmp_path / "a.nii.gz", tmp_path / "out")
    predict([run], tmp_path / "a.nii.gz", tmp_path / "out", overwrite=True)
    assert (tmp_path / "precious").read_text() == "kept" and not (tmp_path / "out" / "a.nii.gz").is_symlink()
