"""One run on phantoms, its files and its predictions, shared by all tests of the commands."""

import json

import nibabel as nib
import numpy as np
import pytest

from files import one_sentence
from processes import run


@pytest.fixture(scope="session")
def settings(tiny_flags):
    """Flags of a run on phantoms that takes seconds."""
    values = {
        "model.depth": 3,  # of which a dozen steps teach the student something
        "train.steps": 12,
        "train.report_every": 3,
        "train.checkpoint_every": 2,
        "train.validate_every": 6,
        "optimizer.learning_rate": 0.01,
        "method.terms.w": 1.0,
    }
    return [
        "--config=configs/phantom.py:method=kl_ent,strong=2,seed=1",
        *tiny_flags,
        *(f"--config.{key}={value}" for key, value in values.items()),
    ]


@pytest.fixture(scope="session")
def workdir(once, settings):
    """A run that was trained and evaluated."""
    return once("run", lambda folder: run("main", *settings, f"--workdir={folder}"))


@pytest.fixture(scope="session")
def summary(workdir):
    return json.loads((workdir / "results" / "test.json").read_text())


@pytest.fixture(scope="session")
def hospital(tmp_path_factory, workdir, phantoms):
    """The test cases as NIfTI files: images in a folder per patient, references NAME_gt together in another folder."""
    folder = tmp_path_factory.mktemp("hospital")
    (folder / "references").mkdir()
    patients = json.loads((workdir / "splits.json").read_text())["test"]
    for index, entry in enumerate(phantoms.of_patients(patients)):
        case = phantoms.case(entry)
        affine = np.diag([*case.spacing[::-1], 1.0])
        affine[:3, 3] = (10 * index, -20, 30.5)
        if index == 0:
            affine[:2] = -affine[:2]
        image = folder / "images" / case.patient / f"{case.name}.nii.gz"
        image.parent.mkdir(parents=True, exist_ok=True)
        reference = folder / "references" / f"{case.name}_gt.nii.gz"
        for path, volume in ((image, case.image[..., 0]), (reference, case.mask)):
            file = nib.Nifti1Image(volume.T, affine)
            file.header.set_xyzt_units("mm")
            nib.save(file, path)
    return folder


@pytest.fixture(scope="session")
def predicted(tmp_path_factory, workdir, hospital):
    """The folder of the student's label maps and probabilities, and the output of the command."""
    folder = tmp_path_factory.mktemp("predicted") / "new"
    flags = [f"--workdir={workdir}", f"--input={hospital}/images", f"--output={folder}", "--branch=student"]
    return folder, run("predict", *flags, "--save_probabilities")


@pytest.fixture(scope="session")
def drawn(untrained):
    """An untrained run, with its initial network."""
    return untrained("method=kl_ent,strong=2,seed=1")


@pytest.fixture
def refused(command, tmp_path, caplog):
    """check(argv, words): the command ends in one sentence with these words and changes no file in tmp_path.

    Two exceptions: a complete data set may be built in its cache before the error, and `prepare` writes its messages
    into new/report.txt.
    """
    cache, report = tmp_path / "cache", tmp_path / "new" / "report.txt"

    def contents():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def check(argv, words):
        before = contents()
        code, err = command(*argv)
        one_sentence(code, err, [*words, "; "])  # the advice follows
        assert not caplog.messages, "a library logs, too"
        assert not any("incomplete" in path.name for path in cache.rglob("*"))
        after = {path: now for path, now in contents().items() if not path.is_relative_to(cache)}
        reported = after.pop(report, b"").decode()
        assert not reported or (argv[0] == "prepare" and reported in err.replace("msl_jax: ", "error: "))
        assert after == {path: now for path, now in before.items() if path != report}

    return check
