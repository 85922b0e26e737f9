"""The loop: reports, checkpoints, stages, and resuming."""

import dataclasses
import logging
import math
import os
import signal

from etils import epath
import jax
import numpy as np
import optax
import pytest

from msl_jax.data import pipeline
from msl_jax.errors import InputError
from msl_jax.evaluation.test_split import evaluate_test
from msl_jax.experiments.opening import open_experiment
from msl_jax.inference.segmenter import Segmenter
from msl_jax.runs import checkpoints, journal
from msl_jax.runs.config import claim
from msl_jax.settings.optimizer import make_schedule
from msl_jax.system import signals
from msl_jax.training import loop as training
from msl_jax.training import recorder
from msl_jax.training.averages import guides
from msl_jax.training.batches import batches as original_batches
from msl_jax.training.batches import streams
from msl_jax.training.loop import train
from msl_jax.training.state import init_state
from msl_jax.training.validation import make_validator, one_class_warning
from trees import paths, unequal

# The loop


class Broken(Exception):
    pass


@dataclasses.dataclass
class Trained:
    experiment: object
    workdir: epath.Path
    state: object

    def table(self):
        return (self.workdir / "metrics.csv").read_bytes()

    def rows(self):
        header, *rows = (line.split(",") for line in self.table().decode().splitlines())
        return {int(row[0]): dict(zip(header, row, strict=True)) for row in rows}


@pytest.fixture(scope="module")
def loop(tmp_path_factory, tiny_config):
    """go(name, ...) -> a run with dropout; resumes an interrupted run of that name."""

    def go(name, report_every=1, method="kl_ent", steps=4, checkpoint_every=2, settings=()):
        config = tiny_config(f"method={method}")
        config.model.dropout = 0.3
        config.train.steps, config.train.report_every = steps, report_every
        config.train.checkpoint_every = config.train.validate_every = checkpoint_every
        config.update_from_flattened_dict(dict(settings))
        experiment, workdir = open_experiment(config), epath.Path(folder) / name
        claim(experiment, workdir)
        return Trained(experiment, workdir, jax.device_get(train(experiment, workdir)))

    folder = tmp_path_factory.mktemp("runs")
    return go


@pytest.fixture(scope="module")
def whole(loop):
    """An uninterrupted run with reports after 3 steps and at the end, and JAX's compilation messages."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            trained = loop("whole", report_every=3)
    finally:
        logger.removeHandler(handler)
    trained.compiled = [m for m in messages if m.startswith("Compiling jit(train_step)")]
    return trained


@pytest.fixture(scope="module")
def singles(loop):
    """The same run with a report after every step."""
    return loop("singles", report_every=1)


def broken_off(loop, at, *args, **kwargs):
    """A run interrupted after the report of step `at`, with the checkpoints before it on disk, then resumed."""

    def print_row(self, step, row):
        if step == at:
            raise Broken

    def save(manager, *items):
        original(manager, *items)
        manager.wait_until_finished()

    original = checkpoints.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal.Clock, "print_row", print_row)
        patch.setattr(checkpoints, "save", save)
        with pytest.raises(Broken):
            loop(*args, **kwargs)
    return loop(*args, **kwargs)


@pytest.fixture(scope="module")
def resumed(loop):
    """The same run as `whole`, interrupted after the report of step 3 and the checkpoint of step 2, then resumed."""
    return broken_off(loop, 3, "resumed", report_every=3)


def test_the_loop_compiles_its_step_once(whole):
    assert len(whole.compiled) == 1


def test_the_table_has_a_row_for_every_report_and_validation(whole, singles):
    columns = ["step", "learning_rate", "loss", *whole.experiment.method.terms]
    columns += ["validation_dice_teacher", "validation_dice_student", "skipped"]
    assert list(whole.rows()) == [2, 3, 4] and list(singles.rows()) == [1, 2, 3, 4]
    for trained in (whole, singles):
        for step, row in trained.rows().items():
            assert list(row) == columns
            assert (row["validation_dice_student"] != "") == (step in (2, 4))
            assert (row["loss"] != "") == (trained is singles or step in (3, 4))
    schedule = make_schedule(singles.experiment.config)
    for step, row in singles.rows().items():
        assert float(row["learning_rate"]) == pytest.approx(float(schedule(step - 1)))


def test_a_report_is_the_mean_since_the_last_one(whole, singles):
    one = singles.rows()
    for name in ("loss", *whole.experiment.method.terms):
        values = [float(one[step][name]) for step in (1, 2, 3, 4)]
        assert len(set(values)) == 4
        assert float(whole.rows()[3][name]) == pytest.approx(np.mean(values[:3]), rel=1e-6)
        assert float(whole.rows()[4][name]) == pytest.approx(values[3], rel=1e-6)


def test_reporting_changes_nothing(whole, singles):
    assert not unequal(whole.state.network(), singles.state.network())
    assert [whole.rows()[step]["validation_dice_student"] for step in (2, 4)] == [
        singles.rows()[step]["validation_dice_student"] for step in (2, 4)
    ]


def test_an_interrupted_run_resumes_bit_for_bit(whole, resumed):
    assert int(resumed.state.step) == 4
    assert not unequal(whole.state, resumed.state)
    assert resumed.table() == whole.table()


def test_a_run_without_running_statistics_resumes_bit_for_bit(loop):
    settings = {"model.norm": "instance"}
    whole = loop("instance", settings=settings)
    resumed = broken_off(loop, 3, "instance_resumed", settings=settings)
    assert whole.state.batch_stats == {} and whole.experiment.config.method.batch_norm is None
    assert not unequal(whole.state, resumed.state) and whole.table() == resumed.table()


def test_validation_names_every_structure_where_there_are_several(tiny_config):
    experiment = open_experiment(tiny_config("method=kl_ent,classes=RV+LV"))
    state = init_state(experiment.config, experiment.method, optax.adam(1e-3))
    row = make_validator(experiment, ("teacher", "student"))(state.network(), 0)
    assert list(row) == [
        f"validation_dice_{branch}{structure}" for branch in ("teacher", "student") for structure in ("", "_RV", "_LV")
    ]
    for branch in ("teacher", "student"):
        mean, *each = (row[f"validation_dice_{branch}{structure}"] for structure in ("", "_RV", "_LV"))
        assert mean == pytest.approx(np.mean(each))


def test_an_interrupted_run_has_the_same_results(whole, resumed):
    for trained in (whole, resumed):
        evaluate_test(trained.experiment, trained.workdir)
    for name in ("test.json", "test.csv"):
        assert (whole.workdir / "results" / name).read_bytes() == (resumed.workdir / "results" / name).read_bytes()


def test_a_run_that_diverged_is_not_evaluated(whole, monkeypatch):
    def diverged(segmenter, variables, volume, spacing):
        undefined = np.full((*volume.shape[:3], 2), np.nan, np.float32)
        yield slice(None), dict.fromkeys(segmenter.branches, undefined)

    monkeypatch.setattr(Segmenter, "slabs", diverged)
    with pytest.raises(InputError, match=r"learning_rate: the teacher's probabilities for phantom.* are not finite"):
        evaluate_test(whole.experiment, whole.workdir)


def test_resuming_a_finished_run_changes_nothing(loop, whole):
    before = whole.table()
    again = loop("whole", report_every=3)
    assert not unequal(again.state, whole.state) and again.table() == before


def test_the_newest_checkpoint_is_the_end_of_the_run(whole):
    manager = checkpoints.open_manager(whole.workdir)
    assert checkpoints.choose(manager, "last") == 4 and set(manager.all_steps()) == {2, 4}


@pytest.fixture
def without_checkpoints(singles):
    """The run `singles` without its checkpoints, which are moved back after the test."""
    checkpoint_folder, elsewhere = singles.workdir / "checkpoints", singles.workdir / "elsewhere"
    table = singles.table()
    checkpoint_folder.rename(elsewhere)
    yield singles
    checkpoint_folder.rmtree()
    elsewhere.rename(checkpoint_folder)
    (singles.workdir / "metrics.csv").write_bytes(table)


def test_a_run_that_lost_its_checkpoints_is_refused(loop, without_checkpoints):
    before = without_checkpoints.table()
    with pytest.raises(InputError, match="checkpoints are missing, but it had reached step 4"):
        loop("singles", report_every=1)
    assert without_checkpoints.table() == before


def test_a_run_interrupted_before_its_first_checkpoint_starts_again(loop, without_checkpoints):
    whole = without_checkpoints.table()
    (without_checkpoints.workdir / "metrics.csv").write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    again = loop("singles", report_every=1)
    assert not unequal(again.state, without_checkpoints.state) and again.table() == whole


@pytest.mark.parametrize("name", ["strong", "weak"])
def test_a_batch_that_devices_cannot_share_is_refused(tiny_config, name):
    config = tiny_config()
    config.train[f"{name}_batch"] = 6
    with pytest.raises(InputError, match=rf"config.train.{name}_batch: is 6; .*multiple of the 4 devices"):
        open_experiment(config)


# Guides and stages


TWO_STAGES = {"method": "proposals", "steps": 2, "checkpoint_every": 1}


@pytest.fixture(scope="module")
def proposals(loop):
    """Two stages of two steps, uninterrupted."""
    return loop("proposals", **TWO_STAGES)


@pytest.mark.parametrize("at", [3, pytest.param(4, marks=pytest.mark.soak)])
def test_stages_resume_bit_for_bit(loop, proposals, at):
    """Interrupted when the last checkpoint is the end of the first stage, or in the second stage."""
    resumed = broken_off(loop, at, f"proposals_{at}", **TWO_STAGES)
    assert list(proposals.rows()) == [1, 2, 3, 4]
    assert not unequal(proposals.state, resumed.state) and proposals.table() == resumed.table()


def test_the_first_stage_is_the_method_it_names_and_becomes_the_guide(loop, proposals):
    first = loop("first", method="lower_bound", steps=2)
    assert not unequal(proposals.state.guide, first.state.network())
    rows = proposals.rows()
    for step in (1, 2):
        assert rows[step]["s"] == first.rows()[step]["s"] and rows[step]["proposal"] == ""
        assert rows[step + 2]["proposal"] != "" and rows[step + 2]["learning_rate"] == rows[step]["learning_rate"]


@pytest.mark.parametrize(("given", "used"), [({}, ()), ({"background": 0}, (0.0, 1.0)), ({"LV": 3}, (1.0, 3.0))])
def test_class_weights_reach_the_step(loop, monkeypatch, given, used):
    def step(**settings):
        raise Broken(settings["classes"].weights)

    monkeypatch.setattr(training, "make_train_step", step)
    with pytest.raises(Broken) as raised:
        loop(f"weighted {given}", settings={"method.class_weights": given})
    assert raised.value.args == (used,)


@pytest.mark.parametrize("method", ["ua_mt", "ad_mt"])
def test_a_guide_resumes_bit_for_bit(loop, method):
    whole = loop(f"average_{method}", method=method)
    resumed = broken_off(loop, 3, f"average_{method}_resumed", method=method)
    assert not unequal(whole.state, resumed.state) and whole.table() == resumed.table()
    for guide in guides(whole.state):
        assert unequal(guide, whole.state.network()) == paths(guide)


# What ends a run early


def test_a_signal_saves_and_the_run_resumes_bit_for_bit(loop, singles, number=signal.SIGINT):
    """The signal comes during the report of step 2; step 3, usually without a checkpoint, is the last."""

    def print_row(self, step, row):
        if step == 2:
            os.kill(os.getpid(), number)

    name = f"signal{number}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal.Clock, "print_row", print_row)
        with pytest.raises(signals.Interrupted, match=f"{name}: stopped and saved after step 3 of 4") as interrupted:
            loop(name)
    assert interrupted.value.number == number
    again = loop(name)
    assert not unequal(singles.state, again.state) and again.table() == singles.table()


def with_broken(*steps):
    """A replacement of `batches` with images that are not finite at these steps."""

    def batches(experiment, method, streams, start, stop, sharding):
        stage = streams, start, stop, sharding
        for step, batch in enumerate(original_batches(experiment, method, *stage), start=start + 1):
            weak = batch["weak"]
            if step in steps:
                weak = weak | {"image": weak["image"] * jax.numpy.float32("nan")}
            yield batch | {"weak": weak}

    return batches


def test_a_step_without_a_finite_loss_changes_nothing_and_is_counted(loop, whole, monkeypatch):
    """The second of three steps is skipped: the report is the mean of the others."""
    monkeypatch.setattr(training, "batches", with_broken(2))
    broken = loop("broken", report_every=3)
    assert broken.rows()[3]["skipped"] == "1.0" and whole.rows()[3]["skipped"] == ""
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(broken.state))
    assert math.isfinite(float(broken.rows()[3]["loss"])) and int(broken.state.step) == 4
    assert int(broken.state.opt_state[0].count) == 3


def test_a_run_whose_losses_stay_infinite_stops_and_names_the_cases(loop, monkeypatch):
    monkeypatch.setattr(training, "batches", with_broken(3, 4))
    monkeypatch.setattr(recorder, "MOST_SKIPPED", 2)
    with pytest.raises(InputError) as error:
        loop("infinite", report_every=1)
    message = str(error.value)
    assert "none of the 2 steps up to 4 had a finite loss" in message and "the checkpoint of step 2 is kept" in message
    monkeypatch.undo()
    again = loop("infinite", report_every=1)
    method = again.experiment.method
    cases = pipeline.cases_of(streams(again.experiment, method), again.experiment.batch_sizes(method), step=2)
    assert cases and f"with slices of {', '.join(cases)};" in message


def test_a_branch_that_predicts_one_class_gives_a_warning(loop, singles, monkeypatch, capfd):
    def background(segmenter, variables, volume, spacing):
        yield slice(len(volume)), dict.fromkeys(segmenter.branches, np.eye(2)[np.zeros(volume.shape[:3], int)])

    monkeypatch.setattr(Segmenter, "slabs", background)
    loop("collapsed", steps=2)
    warnings = [
        line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: at step 2 the student")
    ]
    assert len(warnings) == 1 and "labels every voxel of the validation cases as background" in warnings[0]
    assert "lower config.method.terms.ent, which is 1" in warnings[0]
    config = singles.experiment.config.copy_and_resolve_references()
    with config.unlocked():
        config.method.terms.ent = 0.0
    assert "labels every voxel of the validation cases as LV; train longer" in one_class_warning(
        config, "student", 2, 1
    )


def test_a_damaged_checkpoint_is_set_aside_and_the_run_resumes_bit_for_bit(loop, singles, capfd):
    damaged = loop("damaged")
    newest = damaged.workdir / "checkpoints" / "4"
    (newest / "network" / "_METADATA").write_bytes(b"")
    again = loop("damaged")
    warning = capfd.readouterr().err
    assert f"{newest}: is damaged" in warning and f"using the earlier {newest.parent / '2'}." in warning
    assert not unequal(singles.state, again.state) and again.table() == singles.table()
    assert (damaged.workdir / "damaged_checkpoints" / "4").is_dir() and newest.is_dir()


def test_a_run_may_be_extended(loop, proposals):
    """The first steps keep the learning rates of the shorter run; a run of two stages may not be extended."""
    run = loop("longer", steps=2)
    short, results = run.rows(), run.workdir / "results" / "test.json"
    results.parent.mkdir()
    results.write_text("{}")
    long = loop("longer", steps=4)
    assert [long.rows()[step] for step in (1, 2)] == list(short.values()) and int(long.state.step) == 4
    assert not results.exists()
    with pytest.raises(InputError, match=r"train\.steps was 4 and is 2"):
        loop("longer", steps=2)
    with pytest.raises(InputError, match=r"train\.steps was 2 and is 4"):
        loop("proposals", **TWO_STAGES | {"steps": 4})
