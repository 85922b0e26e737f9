"""One step of every method and config: updates, means of terms, communication between devices."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest

from msl_jax import settings
from msl_jax.experiments.opening import open_experiment
from msl_jax.labels import UNLABELED
from msl_jax.methods.table import METHODS
from msl_jax.models.initial import init_variables
from msl_jax.settings.objects import model_of
from msl_jax.settings.optimizer import make_optimizer
from msl_jax.training.state import init_state
from msl_jax.training.step import in_groups, into_parts, join, make_train_step
from trees import paths, unequal


def synthetic(experiment, seed=0, n=4):
    """A batch of noise: images, full masks, and weak labels on about a tenth of the pixels."""
    generator = np.random.default_rng(seed)
    size, classes = experiment.config.data.size, 1 + len(experiment.config.data.classes)
    batch = {}
    for name in experiment.method.loaded_sets():
        label = generator.integers(0, classes, (n, size, size)).astype(np.int32)
        weak = np.where(generator.random(label.shape) < 0.1, label, UNLABELED).astype(np.int32)
        batch[name] = {"weak_label": weak} | {
            version: generator.random((n, size, size, 1), np.float32)
            for version in ("image", *experiment.method.versions()[name])
        }
    batch["strong"]["label"] = label
    return batch


PLAIN = {"dtype": jnp.float32, "dropout": 0.0}
"""Settings that do not affect the initial parameters: models that differ only in them share these."""
drawn = functools.cache(init_variables)


class Run:
    """A method's step, jitted as `train.train` jits it, over the first `devices` devices."""

    def __init__(self, experiment, devices=4, optimizer=None):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
        self.replicated, self.sharded = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
        self.experiment = experiment
        self.optimizer = optimizer or optax.adam(1e-3)
        self.step_fn = jax.jit(
            make_train_step(
                apply_fn=model_of(experiment.config).apply,
                optimizer=self.optimizer,
                method=experiment.method,
                devices=devices,
                key=jax.random.key(experiment.config.seed),
                average=experiment.config.train.average,
                levels=model_of(experiment.config).levels,
            ),
            in_shardings=(self.replicated, self.sharded),
            out_shardings=self.replicated,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "msl_jax.training.state.init_variables", lambda model, *args: drawn(model.clone(**PLAIN), *args)
            )
            state = None
            for method in experiment.method.stages():
                previous = state and state.network()
                state = init_state(experiment.config, method, self.optimizer, previous_network=previous)
        self.start = self.put(state)

    def put(self, state):
        return jax.device_put(state, self.replicated)

    def step(self, state, batch):
        return self.step_fn(state, jax.device_put(batch, self.sharded))


@pytest.fixture(scope="module")
def tiny_config(tiny_config):
    """The tiny experiment with two levels, so that there is a skip and decoders have batch norm."""

    def make(arg=""):
        config = tiny_config(arg)
        config.model.depth = 2
        return config

    return make


@pytest.fixture(scope="module")
def runs():
    """get(experiment, ...) -> Run; settings with the same compiled program share one."""
    made = {}

    def get(experiment, devices=4, optimizer=None):
        settings = repr(model_of(experiment.config)), repr(experiment.method), experiment.config.train.average
        key = (*settings, devices, optimizer is None)
        if key not in made:
            made[key] = Run(experiment, devices, optimizer)
        return made[key]

    return get


def finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


# Arrangement


def test_every_part_has_its_share_of_every_device():
    divided = into_parts(in_groups({"strong": {"image": jnp.arange(8)}}, devices=2), parts=2)
    np.testing.assert_array_equal(divided["strong"]["image"], [[[0, 1], [4, 5]], [[2, 3], [6, 7]]])


def test_join_concatenates_the_sets_in_order_and_drops_arrays_that_a_set_lacks():
    arrays = {"student": {"a": jnp.zeros((2, 1)), "b": jnp.ones((2, 3))}, "teacher": {"a": jnp.ones((2, 1))}}
    joined = join(arrays, ("b", "a"))
    assert set(joined) == {"student"}
    np.testing.assert_array_equal(joined["student"], [[1, 1, 1, 0]] * 2)
    assert set(join(arrays, ("a",))) == {"student", "teacher"}


# One step


def shrunk(config, tiny):
    """A config with its own method and settings, on the phantom and with the tiny network."""
    config = config.unlock()
    for key in ("layout", "source", "cache", "split_sizes", "strong", "size"):
        config.data[key] = tiny.data[key]
    config.model.width, config.model.depth = tiny.model.width, tiny.model.depth
    return config


@pytest.mark.parametrize("source", [*METHODS, *settings.EXPERIMENTS])
def test_one_step_moves_every_parameter(tiny_config, runs, source):
    if source in METHODS:
        config = tiny_config(f"method={source}")
    else:
        config = shrunk(settings.load(source), tiny_config())
    experiment = open_experiment(config)
    run = runs(experiment)
    method = experiment.method
    assert set(run.start.params) == set(run.start.batch_stats) == {"encoder", *method.branches()}
    after = run.step(run.start, synthetic(experiment))
    assert finite(after) and int(after.step) == 1
    assert unequal(run.start.params, after.params) == paths(after.params)
    assert unequal(run.start.batch_stats, after.batch_stats) == paths(after.batch_stats)
    assert set(after.sums) == {"loss", "steps", *method.terms} and float(after.sums["steps"]) == 1
    ramped = {name: math.exp(-5) if name in method.rampup else 1 for name in method.terms}
    weighted = sum(weight * ramped[name] * float(after.sums[name]) for name, weight in method.terms.items())
    assert float(after.sums["loss"]) == pytest.approx(weighted, rel=1e-5) and weighted > 0
    assert {leaf.dtype for leaf in jax.tree.leaves((after.params, after.sums))} == {jnp.dtype("float32")}


def test_one_step_with_every_setting_of_the_recipe_moves_every_parameter(tiny_config):
    """Biases and scales do not decay: each moves by its gradient, those of the coarser heads too."""
    config = tiny_config()
    config.model.depth, config.model.deep_supervision, config.method.dice = 4, True, 1.0
    config.optimizer.schedule, config.optimizer.weight_decay, config.optimizer.clip_norm = "polynomial", 0.01, 12.0
    config.train.average = 0.9
    experiment = open_experiment(config)
    run = Run(experiment, optimizer=make_optimizer(experiment.config))
    after = run.step(run.start, synthetic(experiment))
    assert finite(after) and unequal(run.start.params, after.params) == paths(after.params)
    assert any("Conv_0_1" in path for path in paths(after.params)) and not unequal(after.average, after.trained())
    weighted = sum(weight * float(after.sums[name]) for name, weight in experiment.method.terms.items())
    assert float(after.sums["loss"]) == pytest.approx(weighted, rel=1e-5)


def test_methods_without_a_student_have_none(tiny_config, runs):
    assert set(runs(open_experiment(tiny_config("method=lower_bound"))).start.params) == {"encoder", "teacher"}


def test_the_terms_are_means_over_the_images_they_name(tiny_config, runs):
    """Removing the weak labels of one set at the first step changes only the terms of these labels."""
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


def test_devices_exchange_only_sums(tiny_config, runs):
    """Gradients, batch norm statistics and sums of losses are exchanged, by all-reduce; no images or activations."""
    config = tiny_config()
    config.method.dice = 1.0
    experiment = open_experiment(config)
    run = runs(experiment)
    batch = jax.device_put(synthetic(experiment), run.sharded)
    program = run.step_fn.lower(run.start, batch).compile().as_text()
    assert "all-reduce" in program
    for other in ("all-to-all", "all-gather", "collective-permute", "reduce-scatter", "collective-broadcast"):
        assert other not in program, other


def test_one_device_and_four_give_the_same_result(tiny_config, runs):
    """With plain gradient descent, because Adam amplifies rounding to full steps; Dice is that of the whole batch."""
    config = tiny_config()
    config.method.dice = 1.0
    experiment = open_experiment(config)
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


# Averages and guides


def test_the_average_of_three_steps_by_hand(tiny_config, runs):
    """With decay 0.6: the first network, the mean of two, then 0.6 of that mean and 0.4 of the third."""
    config = tiny_config()
    config.train.average = 0.6
    experiment = open_experiment(config)
    run = runs(experiment)
    states = [run.start]
    for seed in range(3):
        states.append(run.step(states[-1], synthetic(experiment, seed)))
    one, two, three = (state.trained() for state in states[1:])
    assert unequal(one, two) == unequal(two, three) == paths(three)
    expected = jax.tree.map(lambda a, b, c: 0.6 * (a + b) / 2 + 0.4 * c, one, two, three)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), states[3].network(), expected)


@pytest.mark.parametrize("name", ["mean_teacher", "ua_mt"])
def test_an_average_follows_the_network(tiny_config, runs, name):
    """Completely after the first step, halfway after the second, and by 1 - decay in the long run."""
    experiment = open_experiment(tiny_config(f"method={name}"))
    run, decay = runs(experiment), experiment.method.ema_decay
    first = run.step(run.start, synthetic(experiment))
    assert not unequal(first.guide, first.network())
    second = run.step(first, synthetic(experiment, seed=1))
    late = run.step(second.replace(step=run.put(jnp.array(1000, jnp.int32))), synthetic(experiment, seed=2))
    for share, before, after in ((0.5, first, second), (decay, second, late)):
        expected = jax.tree.map(lambda old, new, s=share: s * old + (1 - s) * new, before.guide, after.network())
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.guide, expected)


def test_a_guide_from_an_earlier_stage_is_constant(tiny_config, runs):
    experiment = open_experiment(tiny_config("method=proposals"))
    run = runs(experiment)
    assert not unequal(run.start.guide, run.step(run.start, synthetic(experiment)).guide)


# Batch norm over both sets, or over each by itself


@pytest.mark.parametrize("name", ["kl_ent", "cps"])
def test_apart_images_of_one_set_do_not_affect_the_others_term(tiny_config, runs, name):
    """With batch norm over both sets, weak images change the teacher's cross-entropy on strong images."""
    moved = {}
    for batch_norm in ("together", "apart"):
        config = tiny_config(f"method={name}")
        config.method.batch_norm = batch_norm
        experiment = open_experiment(config)
        run, batch = runs(experiment), synthetic(experiment)
        other = batch | {"weak": batch["weak"] | {"image": 1 - batch["weak"]["image"] ** 2}}
        first, second = run.step(run.start, batch), run.step(run.start, other)
        assert unequal(run.start.params, first.params) == paths(first.params)
        moved[batch_norm] = not np.array_equal(first.sums["s"], second.sums["s"])
    assert moved == {"together": True, "apart": False}


def test_running_statistics_are_updated_by_one_set_after_the_other(tiny_config, runs):
    """Mean of the first layer: 0.95 of the old one plus 0.05 of the strong set's, then the same with the weak set."""
    config = tiny_config("method=single")
    experiment = open_experiment(config)
    run, batch = runs(experiment), synthetic(experiment)
    first = ["encoder", "Block_0", "BatchNorm_0", "mean"]

    def mean(weak):
        state = run.step(run.start, batch | {"weak": batch["weak"] | {"image": weak}})
        return functools.reduce(lambda tree, key: tree[key], first, state.batch_stats)

    strong_twice, mixed = mean(batch["strong"]["image"]), mean(0 * batch["weak"]["image"])
    np.testing.assert_allclose(mixed, strong_twice * 0.95 * 0.05 / (1 - 0.95**2), rtol=1e-4, atol=1e-7)
