import dataclasses
import functools
import importlib
import logging
import math
import pathlib

from etils import epath
import jax
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest

from msl_jax import checkpoints, evaluate, report
from msl_jax import train as training
from msl_jax.checks import Refused
from msl_jax.experiment import model_of, open_experiment
from msl_jax.inference import init_variables
from msl_jax.losses import UNLABELED
from msl_jax.methods import METHODS

CONFIGS = sorted(p.stem for p in (pathlib.Path(__file__).parents[1] / "configs").glob("*.py") if p.stem != "__init__")


@pytest.fixture(scope="module", autouse=True)
def compiled_programs(tmp_path_factory):
    """Programs compiled here are kept, since many a run below ends in the same one."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def synthetic(experiment, seed=0, n=4):
    """A batch of noise: images, full masks, and weak labels on about a tenth of the pixels."""
    generator = np.random.default_rng(seed)
    size, classes = experiment.config.data.size, 1 + len(experiment.config.data.classes)
    batch = {}
    for name in experiment.method.sets():
        label = generator.integers(0, classes, (n, size, size)).astype(np.int32)
        weak = np.where(generator.random(label.shape) < 0.1, label, UNLABELED).astype(np.int32)
        batch[name] = {"image": generator.random((n, size, size, 1), np.float32), "weak_label": weak}
    batch["strong"]["label"] = label
    return batch


PLAIN = {"dtype": jnp.float32, "dropout": 0.0}
"""Neither has a say in the parameters, so that models which differ in them alone share the drawing."""
drawn = functools.cache(init_variables)


class Run:
    """A method's step, jitted as `train.train` jits it, over the first `devices` devices."""

    def __init__(self, experiment, devices=4, optimizer=None):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
        self.replicated, self.sharded = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
        self.experiment = experiment
        self.optimizer = optimizer or optax.adam(1e-3)
        self.step_fn = jax.jit(
            training.make_train_step(
                apply_fn=model_of(experiment.config).apply,
                optimizer=self.optimizer,
                method=experiment.method,
                groups=devices,
                key=jax.random.key(experiment.config.seed),
            ),
            in_shardings=(self.replicated, self.sharded),
            out_shardings=self.replicated,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "init_variables", lambda model, *args: drawn(model.clone(**PLAIN), *args))
            self.start = self.put(training.init_state(experiment, self.optimizer))

    def put(self, state):
        return jax.device_put(state, self.replicated)

    def step(self, state, batch):
        return self.step_fn(state, jax.device_put(batch, self.sharded))


@pytest.fixture(scope="module")
def runs():
    """get(experiment, ...) -> Run, one for each program: settings that end in the same program share it."""
    made = {}

    def get(experiment, devices=4, optimizer=None):
        key = (repr(model_of(experiment.config)), repr(experiment.method), devices, optimizer is None)
        if key not in made:
            made[key] = Run(experiment, devices, optimizer)
        return made[key]

    return get


def unequal(before, after):
    """The paths of the leaves that differ."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    return {jax.tree_util.keystr(path) for (path, a), b in pairs if not np.array_equal(a, b)}


def paths(tree):
    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


# Arrangement


def test_split_gives_every_part_its_share_of_every_device():
    divided = training.split({"strong": {"image": jnp.arange(8)}}, groups=2, parts=2)
    np.testing.assert_array_equal(divided["strong"]["image"], [[[0, 1], [4, 5]], [[2, 3], [6, 7]]])


def test_rows_of_sets():
    assert training.rows_of_sets({"strong": 2, "weak": 3}) == {
        ("strong",): slice(0, 2),
        ("weak",): slice(2, 5),
        ("strong", "weak"): slice(0, 5),
    }
    assert training.rows_of_sets({"strong": 4}) == {("strong",): slice(0, 4)}


# The schedule


def test_schedule_falls_from_the_rate_to_0(tiny_config):
    config = tiny_config()
    config.optimizer.learning_rate, config.train.steps = 0.5, 10
    schedule = training.make_schedule(config)
    assert [float(schedule(step)) for step in (0, 5, 10)] == pytest.approx([0.5, 0.25, 0])
    assert 0 < schedule(9) < 0.5 * (1 - math.cos(math.pi / 10)) / 2 + 1e-6


def test_schedule_warms_up_when_asked(tiny_config):
    config = tiny_config()
    config.optimizer.learning_rate, config.optimizer.warmup_steps, config.train.steps = 0.5, 4, 10
    schedule = training.make_schedule(config)
    assert [float(schedule(step)) for step in (0, 1, 4, 7, 10)] == pytest.approx([0, 0.125, 0.5, 0.25, 0])


# One step


def shrunk(config, tiny):
    """A config's own method and settings on the phantom, at the size of the tiny one."""
    config = config.unlock()
    for key in ("layout", "source", "cache", "split_sizes", "size", "classes"):
        config.data[key] = tiny.data[key]
    config.model.width, config.model.depth = tiny.model.width, tiny.model.depth
    return config


@pytest.mark.parametrize("source", [*METHODS, *(f"configs/{name}.py" for name in CONFIGS)])
def test_one_step_moves_every_parameter(tiny_config, runs, source):
    if source in METHODS:
        config = tiny_config(f"method={source}")
    else:
        module = importlib.import_module(source.removesuffix(".py").replace("/", "."))
        config = shrunk(module.get_config(), tiny_config())
    experiment = open_experiment(config)
    run = runs(experiment)
    method = experiment.method
    assert set(run.start.params) == set(run.start.batch_stats) == {"encoder", *method.branches()}
    after = run.step(run.start, synthetic(experiment))
    assert finite(after) and int(after.step) == 1
    assert unequal(run.start.params, after.params) == paths(after.params)
    assert unequal(run.start.batch_stats, after.batch_stats) == paths(after.batch_stats)
    assert set(after.sums) == {"loss", "steps", *method.terms} and float(after.sums["steps"]) == 1
    weighted = sum(weight * float(after.sums[name]) for name, weight in method.terms.items())
    assert float(after.sums["loss"]) == pytest.approx(weighted, rel=1e-5) and weighted > 0
    assert {leaf.dtype for leaf in jax.tree.leaves((after.params, after.sums))} == {jnp.dtype("float32")}


def test_methods_without_a_student_have_none(tiny_config, runs):
    assert set(runs(open_experiment(tiny_config("method=lower_bound"))).start.params) == {"encoder", "teacher"}


def test_the_terms_are_means_over_the_images_they_name(tiny_config, runs):
    """At the first step both branches are known functions, so the weak images' labels can be taken away one by one."""
    experiment = open_experiment(tiny_config())
    run, batch = runs(experiment), synthetic(experiment)

    def sums(strong=None, weak=None):
        parts = {"strong": batch["strong"] | (strong or {}), "weak": batch["weak"] | (weak or {})}
        return {name: float(value) for name, value in run.step(run.start, parts).sums.items()}

    whole, nothing = sums(), np.full_like(batch["weak"]["weak_label"], UNLABELED)
    strong_alone, weak_alone = sums(weak={"weak_label": nothing}), sums(strong={"weak_label": nothing})
    counts = [(batch[name]["weak_label"] != UNLABELED).sum() for name in ("strong", "weak")]
    expected = (strong_alone["w"] * counts[0] + weak_alone["w"] * counts[1]) / sum(counts)
    assert whole["w"] == pytest.approx(expected, rel=1e-5)
    for other in (strong_alone, weak_alone):
        assert [other[name] for name in ("s", "kd", "ent")] == [whole[name] for name in ("s", "kd", "ent")]
    assert sums(strong={"label": 1 - batch["strong"]["label"]})["s"] != whole["s"]


def test_a_batch_without_a_weak_label_is_finite(tiny_config, runs):
    experiment = open_experiment(tiny_config())
    run, batch = runs(experiment), synthetic(experiment)
    for images in batch.values():
        images["weak_label"] = np.full_like(images["weak_label"], UNLABELED)
    after = run.step(run.start, batch)
    assert finite(after) and float(after.sums["w"]) == 0.0
    assert unequal(run.start.params, after.params) == paths(after.params)


def test_nothing_is_compiled_after_the_first_step(tiny_config, runs):
    experiment = open_experiment(tiny_config())
    run = Run(experiment)
    state = run.start
    for seed in range(3):
        state = run.step(state, synthetic(experiment, seed))
    assert run.step_fn._cache_size() == 1


def test_devices_exchange_sums_alone(tiny_config, runs):
    """Gradients and batch norm's sums travel, by all-reduce; no image or activation changes its device."""
    experiment = open_experiment(tiny_config())
    run = runs(experiment)
    batch = jax.device_put(synthetic(experiment), run.sharded)
    program = run.step_fn.lower(run.start, batch).compile().as_text()
    assert "all-reduce" in program
    for other in ("all-to-all", "all-gather", "collective-permute", "reduce-scatter", "collective-broadcast"):
        assert other not in program, other


def test_one_device_and_four_arrive_at_the_same(tiny_config, runs):
    """Plain gradient descent, which unlike Adam does not blow rounding up to full steps."""
    experiment = open_experiment(tiny_config())
    ends = []
    for devices in (1, 4):
        run = runs(experiment, devices, optax.sgd(0.1))
        state = run.start
        for seed in range(3):
            state = run.step(state, synthetic(experiment, seed))
        ends.append(jax.device_get(state))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), jax.device_get(run.start.params), ends[0].params)
    assert max(jax.tree.leaves(moved)) > 1e-2
    for a, b in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(ends[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_dropout_is_a_function_of_the_step(tiny_config, runs):
    config = tiny_config()
    config.model.dropout = 0.5
    experiment = open_experiment(config)
    run, batch = runs(experiment), synthetic(experiment)

    def loss(step):
        return float(run.step(run.start.replace(step=run.put(jnp.array(step, jnp.int32))), batch).sums["loss"])

    first, other, again = loss(5), loss(6), loss(5)
    assert first == again != other


def test_bfloat16_leaves_losses_and_parameters_float32(tiny_config, runs):
    config = tiny_config()
    config.model.dtype = "bfloat16"
    experiment = open_experiment(config)
    run, batch = runs(experiment), synthetic(experiment)
    after = run.step(run.start, batch)
    assert finite(after)
    assert {leaf.dtype for leaf in jax.tree.leaves((after.params, after.batch_stats, after.sums))} == {np.dtype("f4")}
    precise = runs(open_experiment(tiny_config()))
    expected = precise.step(precise.start, batch)
    for name, value in after.sums.items():
        assert float(value) == pytest.approx(float(expected.sums[name]), rel=0.05, abs=0.01)


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
def loop(tmp_path_factory, cache, phantoms):
    """go(name, ...) -> a run of 4 steps with dropout, reports after `report_every` and checkpoints after 2."""
    from configs import phantom

    def go(name, report_every):
        config = phantom.get_config().unlock()
        config.data.source, config.data.cache, config.data.split_sizes = "patients=8,seed=0", cache, ((5, 1, 2),)
        config.data.size, config.model.width, config.model.depth, config.model.dropout = 32, 2, 3, 0.3
        config.train.steps, config.train.report_every = 4, report_every
        config.train.checkpoint_every = config.train.validate_every = 2
        experiment, workdir = open_experiment(config), epath.Path(folder) / name
        experiment.claim(workdir)
        return Trained(experiment, workdir, jax.device_get(training.train(experiment, workdir)))

    folder = tmp_path_factory.mktemp("runs")
    return go


@pytest.fixture(scope="module")
def whole(loop):
    """A run that nothing disturbs, reporting after 3 steps and at the end; and what JAX compiled meanwhile."""
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
    """The same run, reporting after every step."""
    return loop("singles", report_every=1)


@pytest.fixture(scope="module")
def resumed(loop):
    """The same run as `whole`, broken off after step 3 was reported and step 2 checkpointed, then gone on with."""

    def say(self, step, row):
        if step == 3:
            raise Broken

    def save(manager, *args):
        original(manager, *args)
        manager.wait_until_finished()

    original = checkpoints.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report.Clock, "say", say)
        patch.setattr(checkpoints, "save", save)
        with pytest.raises(Broken):
            loop("resumed", report_every=3)
    return loop("resumed", report_every=3)


def test_the_loop_compiles_its_step_once(whole):
    assert len(whole.compiled) == 1


def test_the_table_has_a_row_for_every_report_and_validation(whole, singles):
    columns = ["step", "learning_rate", "loss", *whole.experiment.method.terms]
    columns += ["validation_dice_teacher", "validation_dice_student"]
    assert list(whole.rows()) == [2, 3, 4] and list(singles.rows()) == [1, 2, 3, 4]
    for trained in (whole, singles):
        for step, row in trained.rows().items():
            assert list(row) == columns
            assert (row["validation_dice_student"] != "") == (step in (2, 4))
            assert (row["loss"] != "") == (trained is singles or step in (3, 4))
    schedule = training.make_schedule(singles.experiment.config)
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


def test_a_run_that_broke_off_goes_on_bit_for_bit(whole, resumed):
    assert int(resumed.state.step) == 4
    assert not unequal(whole.state, resumed.state)
    assert resumed.table() == whole.table()


def test_a_run_that_broke_off_is_evaluated_alike(whole, resumed):
    for trained in (whole, resumed):
        evaluate.evaluate_test(trained.experiment, trained.workdir)
    for name in ("test.json", "test.csv"):
        assert (whole.workdir / "results" / name).read_bytes() == (resumed.workdir / "results" / name).read_bytes()


def test_a_finished_run_goes_on_to_nothing(loop, whole):
    before = whole.table()
    again = loop("whole", report_every=3)
    assert not unequal(again.state, whole.state) and again.table() == before


def test_the_newest_checkpoint_is_the_end_of_the_run(whole):
    manager = checkpoints.open_manager(whole.workdir)
    assert checkpoints.choose(manager, "last") == 4 and set(manager.all_steps()) == {2, 4}


@pytest.fixture
def without_checkpoints(singles):
    """The run of single reports, its checkpoints out of the way."""
    checkpoint_folder, elsewhere, table = (
        singles.workdir / "checkpoints",
        singles.workdir / "elsewhere",
        singles.table(),
    )
    checkpoint_folder.rename(elsewhere)
    yield singles
    checkpoint_folder.rmtree()
    elsewhere.rename(checkpoint_folder)
    (singles.workdir / "metrics.csv").write_bytes(table)


def test_a_run_that_lost_its_checkpoints_is_refused(loop, without_checkpoints):
    before = without_checkpoints.table()
    with pytest.raises(Refused, match="checkpoints are gone, though it had come to step 4"):
        loop("singles", report_every=1)
    assert without_checkpoints.table() == before


def test_a_run_that_broke_off_before_its_first_checkpoint_starts_anew(loop, without_checkpoints):
    whole = without_checkpoints.table()
    (without_checkpoints.workdir / "metrics.csv").write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    again = loop("singles", report_every=1)
    assert not unequal(again.state, without_checkpoints.state) and again.table() == whole


@pytest.mark.parametrize("name", ["strong", "weak"])
def test_a_batch_that_devices_cannot_share_is_refused(tiny_config, name):
    config = tiny_config()
    config.train[f"{name}_batch"] = 6
    with pytest.raises(Refused, match=rf"config.train.{name}_batch: is 6; .*multiple of the 4 devices"):
        open_experiment(config)
