"""What "auto" stands for: the rules as numbers worked out by hand, and runs that keep theirs."""

import dataclasses

from etils import epath
import nibabel as nib
import numpy as np
import pytest

from msl_jax import settings
from msl_jax.errors import InputError
from msl_jax.experiments import opening
from msl_jax.experiments.fingerprint import Fingerprint, fingerprint_of
from msl_jax.experiments.opening import open_experiment
from msl_jax.experiments.planning import MEMORY, RULES, lines, settle, step_memory
from msl_jax.runs.config import claim, read_config, resumed
from msl_jax.settings.auto import WITH, unsettled
from msl_jax.settings.rules import check_config
from msl_jax.system.machine import Machine
from msl_jax.training import complete

LAPTOP, GPU, SMALL_GPU = Machine(False, 1, 8 * 2**30), Machine(True, 1, 80 * 2**30), Machine(True, 1, 4 * 2**30)
HIPPOCAMPUS = Fingerprint((1.0, 1.0, 1.0), (50, 35), (50, 35), None, "")
HEART = Fingerprint((10.0, 1.5, 1.5), (256, 216), (384, 324), None, "")
ABDOMEN = Fingerprint((5.0, 0.8, 0.8), (512, 512), (409.6, 409.6), (-96.5, 215.25), "dataset.json says CT")
ALL = {key: "auto" for key in WITH}


def open_config(**given):
    config = settings.defaults()
    config.update_from_flattened_dict(ALL | given)
    check_config(config)
    return config


def settled(fingerprint, machine, **given):
    """(spacing, size, depth, width, both batches, steps) for a config that is "auto" but for the given settings."""
    config, _ = settle(open_config(**given), fingerprint, machine)
    check_config(config)
    assert not unsettled(config)
    return (
        *(config.data.spacing, config.data.size, config.model.depth, config.model.width),
        *(config.train.strong_batch, config.train.weak_batch, config.train.steps),
    )


@pytest.mark.parametrize(
    ("fingerprint", "machine", "expected"),
    [
        # 35 pixels leave 4 after three halvings; multiples of 8. 4e9 pixels and channels are 6,975 steps of 16 x 2,240
        # pixels and 16 channels.
        (HIPPOCAMPUS, LAPTOP, ((1, 1), (56, 40), 4, 16, 8, 8, 7_000)),
        (HIPPOCAMPUS, GPU, ((1, 1), (56, 40), 4, 64, 8, 8, 20_000)),
        # 256 x 216 pixels, 27/16 of twice 128 x 128: 1.299 times larger ones are 197 x 166; the patch is half of that.
        (HEART, LAPTOP, ((1.949, 1.949), (128, 112), 5, 8, 4, 4, 4_000)),
        (HEART, GPU, ((1.5, 1.5), (256, 224), 5, 64, 8, 8, 20_000)),
        # 512 x 512 pixels are 8 times twice 128 x 128.
        (ABDOMEN, LAPTOP, ((2.263, 2.263), (128, 128), 5, 8, 4, 4, 4_000)),
        (ABDOMEN, GPU, ((0.8, 0.8), (512, 512), 5, 32, 4, 4, 20_000)),
    ],
)
def test_settings_follow_from_the_medians_and_the_machine(fingerprint, machine, expected):
    assert settled(fingerprint, machine) == expected


def test_a_patch_shrinks_until_a_step_fits_the_memory():
    _, (y, x), depth, width, strong, weak, _ = settled(ABDOMEN, SMALL_GPU)
    assert strong == weak == 4 and y == x < 512
    assert step_memory(8, y * x, width, depth) <= MEMORY * SMALL_GPU.memory < step_memory(8, 512 * 512, 32, 5)


def test_a_patch_shrinks_no_further_than_one_pixel_at_the_coarsest_level():
    assert settled(HEART, Machine(False, 1, 1), **{"model.depth": 5})[1] == (16, 16)


def test_given_settings_stay_and_the_others_fit_them():
    # With a given size pixels keep their median size: configs that name it do not depend on the machine.
    assert settled(HEART, LAPTOP, **{"data.size": 96})[:3] == ((1.5, 1.5), 96, 5)
    assert settled(HEART, LAPTOP, **{"data.size": (100, 60)})[2] == 3
    assert settled(HEART, LAPTOP, **{"model.depth": 2, "data.spacing": 3.0})[:2] == (3.0, (128, 108))
    assert settled(HEART, LAPTOP, **{"data.spacing": "native", "model.width": 2})[:2] == ("native", (128, 112))
    assert settled(HEART, dataclasses.replace(GPU, devices=3), **{"train.weak_batch": 6})[4:6] == (9, 6)


@pytest.mark.parametrize("key", ALL)
def test_every_setting_alone_may_be_auto(key):
    alone = settings.defaults()
    alone.update_from_flattened_dict({key: "auto"})
    config, found = settle(alone, HEART, LAPTOP)
    check_config(config)
    assert {one.name for one in found} == {key, "data.spacing"}  # whose default is auto


def test_ct_gets_a_window_and_other_images_percentiles():
    config, _ = settle(open_config(), ABDOMEN, LAPTOP)
    assert (config.data.normalization, config.data.window) == ("window", (-96.5, 215.25))
    for other in (HEART, dataclasses.replace(ABDOMEN, foreground=None), dataclasses.replace(ABDOMEN, ct="")):
        config, _ = settle(open_config(), other, LAPTOP)
        assert config.data.normalization == "percentiles" and config.data.window == (-160.0, 240.0)


def test_each_settled_value_has_a_line_with_its_reason():
    text = lines(tuple(settle(open_config(), ABDOMEN, LAPTOP)[1]))
    assert [line.split()[0] for line in text] == [*RULES, "data.window"]
    assert "2.83 times as large" in text[0] and "512 x 512" not in text[1] and "181 x 181" in text[1]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model.width", "wide", "give auto, or a whole number"),
        ("train.weak_batch", 2.5, "give auto, or a whole number"),
        ("data.size", "big", "give auto, a whole number of pixels"),
        ("data.axis", "z", "give one of 0, 1, 2, auto"),
    ],
)
def test_other_words_and_numbers_raise(key, value, words):
    with pytest.raises(InputError, match=f"config.{key}: is {value}; {words}"):
        open_config(**{key: value})


# Fingerprints


def test_the_fingerprint_is_the_median_of_all_cases(phantoms):
    entries = tuple(
        dataclasses.replace(
            entry, spacing=(8, 1 + i, 2), shape=(10 * (1 + i), 30), foreground=foreground, lowest=(-9.0,)
        )
        for i, (entry, foreground) in enumerate(
            zip(phantoms.entries[:3], [((1.0,), (5.0,)), None, ((3.0,), (9.0,))], strict=True)
        )
    )
    expected = Fingerprint((8, 2, 2), (20, 30), (40, 60), (2.0, 7.0), "")
    assert fingerprint_of(dataclasses.replace(phantoms, entries=entries)) == expected


@pytest.mark.parametrize(
    ("modalities", "lowest", "foreground", "is_ct"),
    [
        (("CT",), 0.0, (10.0, 90.0), True),
        (("ct", "CT"), 0.0, (10.0, 90.0), True),
        (("CT", "PET"), -1000.0, (10.0, 90.0), False),
        (("MRI",), -1000.0, (10.0, 90.0), False),
        ((), -1000.0, (-50.0, 300.0), True),
        ((), -400.0, (-50.0, 300.0), False),
        ((), -30000.0, (-25000.0, 30000.0), False),
        ((), -1000.0, None, True),
    ],
)
def test_ct_by_its_name_or_by_hounsfield_units(phantoms, modalities, lowest, foreground, is_ct):
    limits = None if foreground is None else tuple((limit,) for limit in foreground)
    entries = tuple(dataclasses.replace(e, lowest=(lowest,), foreground=limits) for e in phantoms.entries)
    assert bool(fingerprint_of(dataclasses.replace(phantoms, entries=entries, modalities=modalities)).ct) == is_ct


def test_a_folder_of_ct_across_its_thick_axis(tmp_path):
    """Everything is auto, for sagittal slices: air, soft tissue and a structure of 100 to 300 Hounsfield units."""
    rng, bodies = np.random.default_rng(0), {}
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b", "c"):
        body = np.full((4, 40, 30), -1000, np.int16)
        body[:, 5:35, 5:25] = 40
        mask = np.zeros(body.shape, np.uint8)
        mask[:, 10:20, 10:20] = 1
        body[mask == 1] = bodies[name] = rng.integers(100, 301, mask.sum())
        for folder, array in (("images", body), ("masks", mask)):
            nib.save(nib.Nifti1Image(array, np.diag([5.0, 0.75, 0.75, 1])), tmp_path / folder / f"{name}.nii.gz")
    config = settings.load("nifti").unlock()
    config.data.source, config.data.cache, config.data.labels = str(tmp_path), str(tmp_path / "cache"), "A=1"
    config.data.split_sizes, config.data.strong, config.method.name = ((None, 0, 1),), "all", "lower_bound"
    experiment = open_experiment(config, LAPTOP)
    data = experiment.config.data
    assert (data.axis, data.spacing, data.size, data.normalization) == (0, [0.75, 0.75], [32, 40], "window")
    expected = np.median([np.percentile(values, (0.5, 99.5)) for values in bodies.values()], axis=0)
    np.testing.assert_allclose(data.window, expected, rtol=1e-4)
    assert {entry.slices for entry in experiment.data.entries} == {4}


# Runs


def test_a_run_has_numbers_and_keeps_them_on_another_machine(tiny_config, tmp_path, monkeypatch):
    config, workdir = tiny_config("method=lower_bound"), epath.Path(tmp_path)
    config.update_from_flattened_dict(ALL | {"data.axis": "auto", "data.spacing": 16.0, "model.width": 2})
    config.train.steps = config.train.checkpoint_every = 1
    scored = []
    monkeypatch.setattr(complete, "evaluate_test", lambda *run: scored.append(run))
    complete.train_and_evaluate(config, workdir)
    before = (workdir / "config.json").read_text()
    run = read_config(workdir)
    assert not unsettled(run) and run.data.axis in (0, 1, 2)
    assert (run.model.depth, run.train.strong_batch, run.train.weak_batch) == (3, 8, 8)

    monkeypatch.setattr(opening, "this_machine", lambda: Machine(True, 4, memory=1))
    with pytest.raises(InputError, match=r"train\.weak_batch was 8 and is 4"):
        claim(open_experiment(config), workdir)
    complete.train_and_evaluate(config, workdir)
    assert (workdir / "config.json").read_text() == before and len(scored) == 2
    config.model.depth = 2  # a value that the user gives
    with pytest.raises(InputError, match=r"model\.depth was 3 and is 2"):
        claim(open_experiment(resumed(config, workdir)), workdir)
