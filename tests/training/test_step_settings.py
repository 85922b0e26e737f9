"""Settings that must not change a step, or only a little: parts, rematerialisation, precision, shapes."""

import dataclasses

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from msl_jax.experiments.opening import open_experiment
from msl_jax.inference.segmenter import Segmenter
from msl_jax.labels import UNLABELED
from msl_jax.methods.deep_supervision import most_frequent, nearest
from msl_jax.methods.losses import Classes, cross_entropy, dice, entropy
from msl_jax.methods.table import METHODS
from msl_jax.models.dual_branch import DualBranchUNet, at_level
from msl_jax.models.initial import init_variables
from msl_jax.settings.objects import model_of, preparation_of
from msl_jax.system import machine
from msl_jax.training.loop import train
from msl_jax.training.state import TrainState
from msl_jax.training.step import make_train_step
from trees import paths, unequal

BRANCHES = ("teacher", "student")
SIZE = (32, 32)


@pytest.fixture(scope="module")
def batch():
    """Discs, four strong and four weak; most weak labels are in the first image of each set."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    generator = np.random.default_rng(0)
    made = {}
    for name in ("strong", "weak"):
        centres, radii = generator.uniform(10, 22, (4, 2, 1, 1)), generator.uniform(4, 9, (4, 1, 1))
        label = ((y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2 < radii**2).astype(np.int32)
        image = label + generator.normal(0, 0.3, label.shape)
        kept = generator.random(label.shape) < np.array([0.5, 0.02, 0.02, 0.02])[:, None, None]
        made[name] = {"image": image[..., None].astype(np.float32), "weak_label": np.where(kept, label, UNLABELED)}
        made[name] |= {"label": label} if name == "strong" else {}
    return jax.tree.map(jnp.asarray, made)


def without_statistics(variables, images, trained, watched, **_):
    """A network with one parameter per branch and no batch norm."""
    x = {name: jnp.concatenate([array, -array], -1) for name, array in images.items()}
    asked = {branch: (*trained[branch], *watched.get(branch, ())) for branch in trained}
    weights = variables["params"]
    logits = {branch: {name: x[name] * weights[branch] for name in names} for branch, names in asked.items()}
    return logits, {"batch_stats": {}}


def start(params, batch_stats, optimizer, method):
    sums = {name: jnp.zeros(()) for name in ("loss", "steps", *method.terms)}
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), sums)


@pytest.fixture
def backend(request, monkeypatch):
    """Parts are unrolled on CPU and in a loop elsewhere."""
    monkeypatch.setattr(machine.jax, "default_backend", lambda: request.param)
    return request.param


@pytest.mark.parametrize(
    ("backend", "parts", "mean", "class_weights"),
    [
        ("cpu", 2, "labelled", ()),
        ("cpu", 4, "images", ()),
        ("gpu", 4, "labelled", ()),
        ("gpu", 2, "pixels", ()),
        ("gpu", 4, "labelled", (2e-5, 1e-4)),
        ("gpu", 2, "images", (1.0, 3.0)),
        ("gpu", 2, "pixels", (0.0, 3.0)),
    ],
    indirect=["backend"],
)
def test_parts_of_a_batch_give_the_same_gradient_and_terms(batch, backend, parts, mean, class_weights):
    """Only three of the four masks have structure, so that the mean Dice of equal parts differs from the batch's."""
    terms = METHODS["kl_ent"].terms | {"dice": 1.0}
    method = dataclasses.replace(METHODS["kl_ent"], terms=terms, w_mean=mean, dice_sums="images")
    optimizer = optax.sgd(1.0)
    batch = batch | {"strong": batch["strong"] | {"label": batch["strong"]["label"].at[0].set(0)}}
    before = start({"teacher": jnp.float32(0.3), "student": jnp.float32(-0.2)}, {}, optimizer, method)

    def after(parts):
        step = make_train_step(
            apply_fn=without_statistics,
            optimizer=optimizer,
            method=method,
            devices=1,
            key=jax.random.key(0),
            parts=parts,
            classes=Classes(class_weights),
        )
        return jax.jit(step)(before, batch)

    with jax.numpy_rank_promotion("allow"):  # the network above, not the step
        whole, divided = after(1), after(parts)
        logits, _ = without_statistics(
            {"params": before.params}, {"strong": batch["strong"]["image"]}, {"teacher": ("strong",)}, {}
        )
    expected = cross_entropy(logits["teacher"]["strong"], batch["strong"]["label"], classes=Classes(class_weights))
    np.testing.assert_allclose(whole.sums["s"], expected, rtol=1e-5)
    for name, value in whole.sums.items():
        np.testing.assert_allclose(divided.sums[name], value, rtol=2e-5, err_msg=name)
    for branch, value in whole.params.items():
        np.testing.assert_allclose(divided.params[branch], value, rtol=1e-5, err_msg=branch)


def test_dice_of_a_batch_in_parts_is_the_mean_of_the_parts_that_have_a_structure(batch):
    """Of three parts the first has no structure."""
    method, optimizer = dataclasses.replace(METHODS["lower_bound"], terms={"s": 1.0, "dice": 1.0}), optax.sgd(1.0)
    images = jnp.concatenate([batch["strong"]["image"], batch["weak"]["image"][:2]])
    label = jnp.concatenate([jnp.zeros_like(batch["strong"]["label"][:2]), batch["strong"]["label"]])
    before = start({"teacher": jnp.float32(0.3)}, {}, optimizer, method)
    step = make_train_step(
        apply_fn=without_statistics, optimizer=optimizer, method=method, devices=1, key=jax.random.key(0), parts=3
    )
    with jax.numpy_rank_promotion("allow"):  # the network above, not the step
        after = jax.jit(step)(before, {"strong": {"image": images, "label": label}})
        logits, _ = without_statistics({"params": before.params}, {"strong": images}, {"teacher": ("strong",)}, {})
    logits = logits["teacher"]["strong"]
    expected = (dice(logits[2:4], label[2:4]) + dice(logits[4:], label[4:])) / 2
    np.testing.assert_allclose(after.sums["dice"], expected, rtol=1e-5)


def test_with_instance_norm_parts_give_the_update_of_the_whole_batch(batch):
    """And the images of both sets are encoded in one pass, which changes none of them."""
    model = DualBranchUNet(width=2, depth=2, norm="instance")
    method, optimizer = dataclasses.replace(METHODS["kl_ent"], batch_norm=None), optax.sgd(1.0)
    before = start(init_variables(model, SIZE, BRANCHES, seed=0)["params"], {}, optimizer, method)

    def after(method, parts):
        step = make_train_step(
            apply_fn=model.apply, optimizer=optimizer, method=method, devices=1, key=jax.random.key(0), parts=parts
        )
        return jax.jit(step)(before, batch)

    assert method.forward_passes() == (("strong", "weak"),)
    whole = after(method, 1)
    assert unequal(before.params, whole.params) == paths(whole.params)
    for other in (after(method, 2), after(METHODS["kl_ent"], 1)):
        for a, b in zip(jax.tree.leaves(other.params), jax.tree.leaves(whole.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["gpu"], indirect=True)
def test_terms_with_labels_are_weighted_over_the_levels(batch, backend):
    """By hand from the logits, two thirds at full and one third at half size; parts of a batch give the same update."""
    model = DualBranchUNet(width=2, depth=4, norm="instance", levels=2)
    terms = METHODS["kl_ent"].terms | {"dice": 1.0}
    method = dataclasses.replace(METHODS["kl_ent"], batch_norm=None, terms=terms, dice_sums="images")
    optimizer = optax.sgd(1.0)
    before = start(init_variables(model, SIZE, BRANCHES, seed=0)["params"], {}, optimizer, method)

    def after(parts):
        step = make_train_step(
            apply_fn=model.apply,
            optimizer=optimizer,
            method=method,
            devices=1,
            key=jax.random.key(0),
            parts=parts,
            levels=model.levels,
        )
        return jax.jit(step)(before, batch)

    whole, divided = after(1), after(2)
    images = {name: arrays["image"][None] for name, arrays in batch.items()}
    logits = jax.jit(lambda params: model.apply({"params": params}, images, dict.fromkeys(BRANCHES, images), False))(
        before.params
    )
    both = {level: jnp.concatenate([*logits[at_level("student", level)].values()], axis=1)[0] for level in (0, 1)}
    label, weak = batch["strong"]["label"], jnp.concatenate([batch[name]["weak_label"] for name in ("strong", "weak")])
    strong = [logits[at_level("teacher", level)]["strong"][0] for level in (0, 1)]
    expected = {
        "s": (2 * cross_entropy(strong[0], label) + cross_entropy(strong[1], nearest(label, 2))) / 3,
        "w": (2 * cross_entropy(both[0], weak) + cross_entropy(both[1], most_frequent(weak, 2))) / 3,
        "dice": (2 * dice(strong[0], label, "images") + dice(strong[1], nearest(label, 2), "images")) / 3,
        "ent": entropy(both[0][4:]),
    }
    for term, value in expected.items():
        np.testing.assert_allclose(whole.sums[term], value, rtol=1e-4, err_msg=term)
        np.testing.assert_allclose(divided.sums[term], value, rtol=1e-4, err_msg=term)
    assert unequal(before.params, whole.params) == paths(whole.params)
    for a, b in zip(jax.tree.leaves(divided.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["gpu"], indirect=True)
def test_parts_in_a_loop_need_less_memory(batch, backend):
    """Temporary memory of the compiled step with four parts and with one."""
    method, optimizer = METHODS["kl_ent"], optax.sgd(1.0)
    model = DualBranchUNet(width=2, depth=1)
    variables = init_variables(model, SIZE, BRANCHES, seed=0)

    def needed(parts):
        step = make_train_step(
            apply_fn=model.apply, optimizer=optimizer, method=method, devices=1, key=jax.random.key(0), parts=parts
        )
        state = start(variables["params"], variables["batch_stats"], optimizer, method)
        return jax.jit(step).lower(state, batch).compile().memory_analysis().temp_size_in_bytes

    assert needed(4) < 0.5 * needed(1)


@pytest.mark.soak
def test_rematerialisation_changes_no_gradient_or_name():
    pairs = jax.random.normal(jax.random.key(1), (2, 1, 2, *SIZE, 1))
    images = dict(zip(("one", "other"), pairs, strict=True))
    plain = DualBranchUNet(width=2, depth=3)
    variables = init_variables(plain, SIZE, BRANCHES, seed=0)

    def gradient(model):
        def loss(params):
            sets = {"teacher": ("one",), "student": ("one", "other")}
            logits, updates = model.apply(
                {**variables, "params": params}, images, sets, train=True, mutable=["batch_stats"]
            )
            return sum((v**2).mean() for v in jax.tree.leaves(logits)), updates

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        gradient(plain),
        gradient(plain.clone(remat=True)),
    )


def losses(dtype, batch, steps=50):
    """The loss of each step, and the last state."""
    method, optimizer = METHODS["kl_ent"], optax.adam(3e-3)
    model = DualBranchUNet(width=4, depth=3, dtype=dtype)
    variables = init_variables(model, SIZE, BRANCHES, seed=0)
    state = start(variables["params"], variables["batch_stats"], optimizer, method)
    step = jax.jit(
        make_train_step(apply_fn=model.apply, optimizer=optimizer, method=method, devices=1, key=jax.random.key(0))
    )
    totals = [0.0]
    for _ in range(steps):
        state = step(state, batch)
        totals.append(float(state.sums["loss"]))
    return np.diff(totals), state


@pytest.mark.soak
def test_fifty_steps_in_bfloat16_stay_within_a_band_of_float32(batch):
    """Within 5 % of the first loss at every step."""
    exact, _ = losses(jnp.float32, batch)
    rough, state = losses(jnp.bfloat16, batch)
    assert exact[-1] < exact[0] / 2
    np.testing.assert_allclose(rough, exact, atol=0.05 * exact[0], rtol=0)
    assert not np.array_equal(rough, exact)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats, state.sums))} == {
        jnp.dtype("float32")
    }


@pytest.fixture
def compiled():
    """Names of the events of XLA's compiler since the test began."""
    seen = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.soak
def test_longer_runs_do_not_compile_more(tiny_config, tmp_path, compiled):
    counts = []
    for steps in (4, 8):
        config = tiny_config()
        config.train.steps = steps
        compiled.clear()
        train(open_experiment(config), epath.Path(tmp_path / str(len(counts))))
        counts.append(len(compiled))
    assert 0 < counts[1] <= counts[0]


def test_volumes_of_other_sizes_do_not_compile_more(tiny_config, compiled):
    config = open_experiment(tiny_config()).config
    segmenter = Segmenter(model_of(config), preparation_of(config), BRANCHES, batch=4)
    variables = init_variables(segmenter.model, segmenter.preparation.size, BRANCHES, seed=0)
    volume = np.random.default_rng(0).random((9, 50, 61, 1), np.float32)
    segmenter.probabilities(variables, volume, (8, 1.4, 1.4))
    assert compiled
    compiled.clear()
    for other in (volume[:1], volume[:6, :33], volume[:, :, :20]):
        segmenter.probabilities(variables, other, (8, 1.4, 1.4))
    assert not compiled


@pytest.mark.parametrize(("name", "expected"), [("dmpls", {"student": 0.5}), ("kl", {})])
def test_the_network_in_training_is_given_the_methods_dropout_of_features(batch, name, expected):
    given = []

    def network(*args, feature_dropout, **kwargs):
        given.append(feature_dropout)
        return without_statistics(*args, **kwargs)

    method, optimizer = METHODS[name], optax.sgd(1.0)
    step = make_train_step(apply_fn=network, optimizer=optimizer, method=method, devices=1, key=jax.random.key(0))
    before = start({"teacher": jnp.float32(0.3), "student": jnp.float32(-0.2)}, {}, optimizer, method)
    with jax.numpy_rank_promotion("allow"):
        jax.eval_shape(step, before, batch)
    assert given == [expected] * 2
