import itertools

from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msl_jax.models.dual_branch import BRANCHES, DualBranchUNet, at_level
from msl_jax.models.initial import init_variables
from msl_jax.models.unet import Decoder, Encoder

KEY = jax.random.key(0)
MODEL = DualBranchUNet(width=4, depth=3, classes=3)
ALL = dict.fromkeys(BRANCHES, slice(None))
IMAGES = jnp.array(np.random.default_rng(0).uniform(size=(2, 4, 16, 16, 1)), jnp.float32)


def sets(images):
    """Every image of a group as a separate set."""
    return {str(i): images[:, i : i + 1] for i in range(images.shape[1])}


def set_names(rows, images):
    """Branch -> the names of the sets in its rows."""
    return {branch: tuple(str(i) for i in range(images.shape[1])[span]) for branch, span in rows.items()}


def apply(variables, images, rows=ALL, model=MODEL, watched=None, **kwargs):
    """Branch -> logits (groups, n, y, x, classes) with the sets joined in order; then the updates, if mutable."""
    watched = watched and set_names(watched, images)
    out = model.apply(variables, sets(images), set_names(rows, images), watched=watched, **kwargs)
    logits, *updates = out if "mutable" in kwargs else (out,)
    return {b: jnp.concatenate([of[name] for name in sorted(of)], axis=1) for b, of in logits.items()}, *updates


def run(variables, images, rows=ALL, model=MODEL):
    return jax.jit(lambda v, x: apply(v, x, rows, model, train=False)[0])(variables, images)


def shapes(model, rows=ALL, size=16):
    images = jax.ShapeDtypeStruct((1, 1, size, size, 1), jnp.float32)
    logits, variables = jax.eval_shape(
        lambda x: model.init_with_output(KEY, sets(x), set_names(rows, x), train=False), images
    )
    return {branch: of["0"] for branch, of in logits.items()}, variables


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def sample(shapes):
    """Random variables of these shapes, without biases of 0, scales of 1 or initial statistics."""
    generator = np.random.default_rng(1)

    def leaf(path, x):
        if path[-1].key == "kernel":
            values = generator.normal(0, np.prod(x.shape[:-1]) ** -0.5, x.shape)
        else:
            values = generator.uniform(0.5, 1.5, x.shape)
        return jnp.array(values, x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


@pytest.fixture(scope="module")
def variables():
    return sample(shapes(MODEL)[1])


@pytest.mark.parametrize(("width", "depth", "classes"), [(64, 5, 2), (8, 5, 2), (4, 3, 4), (2, 1, 3)])
def test_parameter_count(width, depth, classes):
    """A block from b to c channels: two 3 x 3 kernels, each followed by a scale and a shift.

    Upsampling from 2c to c channels: a 2 x 2 kernel and a bias. The head: a 1 x 1 convolution.
    """

    def block(b, c):
        return 9 * b * c + 9 * c * c + 4 * c

    channels = [width * 2**level for level in range(depth)]
    encoder = sum(block(b, c) for b, c in zip([1, *channels], channels, strict=False))
    upsampling = sum(4 * (2 * c) * c + c for c in channels[:-1])
    decoder = upsampling + sum(block(2 * c, c) for c in channels[:-1]) + width * classes + classes
    params = shapes(DualBranchUNet(width, depth, classes))[1]["params"]
    assert {name: count(part) for name, part in params.items()} == {
        "encoder": encoder,
        "teacher": decoder,
        "student": decoder,
    }


def test_coarser_logits_add_heads_and_change_nothing_else():
    """Of 5 levels, the finest 3 have logits; initial values and logits of the finest level stay."""
    plain, deep = DualBranchUNet(2, 5, 3), DualBranchUNet(2, 5, 3, levels=3)
    flat = [flatten_dict(init_variables(model, (16, 16), BRANCHES, seed=0)) for model in (plain, deep)]
    assert {path: flat[1][path].shape for path in flat[1].keys() - flat[0].keys()} == {
        ("params", branch, f"Conv_0_{level}", name): shape
        for branch in BRANCHES
        for level in (1, 2)
        for name, shape in (("kernel", (1, 1, 2 * 2**level, 3)), ("bias", (3,)))
    }
    assert all(np.array_equal(array, flat[1][path]) for path, array in flat[0].items())
    logits = [
        run(unflatten_dict(arrays), IMAGES, model=model) for arrays, model in zip(flat, (plain, deep), strict=True)
    ]
    for branch in BRANCHES:
        np.testing.assert_allclose(logits[0][branch], logits[1][branch], rtol=1e-5, atol=1e-6)
        assert logits[1][at_level(branch, 1)].shape == (2, 4, 8, 8, 3)
        assert logits[1][at_level(branch, 2)].shape == (2, 4, 4, 4, 3)
    assert logits[0].keys() == set(BRANCHES) and len(logits[1]) == 6


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_that_is_not_requested_has_no_parameters(branch):
    logits, variables = shapes(MODEL, {branch: slice(None)})
    assert set(logits) == {branch}
    assert set(variables["params"]) == set(variables["batch_stats"]) == {"encoder", branch}


def test_with_bfloat16_parameters_and_logits_stay_float32():
    model = DualBranchUNet(width=2, depth=3, classes=2, dtype=jnp.bfloat16)
    logits, variables = shapes(model)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, variables))} == {jnp.dtype("float32")}
    values = sample(variables)
    program = str(jax.make_jaxpr(lambda v, x: apply(v, x, ALL, model, train=False))(values, IMAGES))
    convolutions = [line for line in program.splitlines() if "conv_general_dilated[" in line]
    assert convolutions and all("bf16[" in line for line in convolutions)
    outputs = run(values, IMAGES, model=model)
    precise = run(values, IMAGES, model=DualBranchUNet(width=2, depth=3, classes=2))
    for branch in BRANCHES:
        assert outputs[branch].dtype == jnp.float32
        np.testing.assert_allclose(outputs[branch], precise[branch], atol=0.1)


def test_one_encoder_feeds_two_decoders(variables):
    """Each branch is its own decoder applied to the shared encoder's feature maps."""
    flat = IMAGES.reshape(8, 16, 16, 1)

    def part(name):
        return {kind: tree[name] for kind, tree in variables.items()}

    levels = jax.jit(lambda v, x: Encoder(4, 3).apply(v, x, False))(part("encoder"), flat)
    logits = run(variables, IMAGES)
    for branch in BRANCHES:
        expected = jax.jit(lambda v, levels: Decoder(3).apply(v, levels, False))(part(branch), levels)
        np.testing.assert_allclose(logits[branch].reshape(8, 16, 16, 3), expected, atol=1e-4)
    assert np.abs(logits["teacher"] - logits["student"]).max() > 0.1


@pytest.mark.parametrize("level", range(3))
def test_each_skip_matters_to_both_branches(variables, level):
    """Zeroing one level's feature map, the coarsest included, changes the logits of both branches."""

    def without(next_fun, args, kwargs, context):
        out = next_fun(*args, **kwargs)
        if isinstance(context.module, Encoder) and context.method_name == "__call__":
            out = [jnp.zeros_like(x) if i == level else x for i, x in enumerate(out)]
        return out

    full = run(variables, IMAGES)
    with nn.intercept_methods(without):
        ablated = run(variables, IMAGES)
    for branch in BRANCHES:
        assert np.abs(full[branch] - ablated[branch]).max() > 1e-3


def test_every_parameter_affects_the_logits_of_its_own_branch_only(variables):
    def loss(params, branch):
        logits = apply({**variables, "params": params}, IMAGES, train=False)[0][branch]
        return (logits * jnp.sin(jnp.arange(logits.size, dtype=jnp.float32)).reshape(logits.shape)).sum()

    for branch, other in itertools.permutations(BRANCHES):
        gradient = jax.jit(jax.grad(loss), static_argnums=1)(variables["params"], branch)
        assert all(g.any() for g in jax.tree.leaves({"encoder": gradient["encoder"], branch: gradient[branch]}))
        assert not any(g.any() for g in jax.tree.leaves(gradient[other]))


def test_the_decoders_share_no_parameters(variables):
    """They are initialised independently, and changing one decoder does not change the other's logits."""
    one = IMAGES[:1, :1]
    initial = DualBranchUNet(width=2, depth=1).init(KEY, sets(one), set_names(ALL, one), train=False)["params"]
    assert (initial["teacher"]["Conv_0"]["kernel"] != initial["student"]["Conv_0"]["kernel"]).any()
    before = run(variables, IMAGES)
    changed = jax.tree.map(lambda x: x + 1, variables["params"]["student"])
    after = run({**variables, "params": variables["params"] | {"student": changed}}, IMAGES)
    np.testing.assert_array_equal(before["teacher"], after["teacher"])
    assert (before["student"] != after["student"]).any()


@pytest.mark.parametrize(
    "rows",
    [{"teacher": slice(0, 2), "student": slice(1, 4)}, {"teacher": slice(3, 4)}, {"student": slice(None)}],
    ids=str,
)
def test_each_branch_returns_its_sets(variables, rows):
    everything, selected = run(variables, IMAGES), run(variables, IMAGES, rows)
    assert set(selected) == set(rows)
    for branch, span in rows.items():
        assert selected[branch].shape == (2, len(range(4)[span]), 16, 16, 3)
        np.testing.assert_allclose(selected[branch], everything[branch][:, span], atol=1e-4)


def test_grouping_does_not_change_the_logits(variables):
    """Sets are split within groups: images 0-1 of two groups of four are images 0, 1, 4, 5 of one group of eight."""
    rows = {"teacher": slice(0, 2), "student": slice(None)}
    grouped = run(variables, IMAGES, rows)
    single = run(variables, IMAGES.reshape(1, 8, 16, 16, 1))
    expected = single["teacher"][0, jnp.array([0, 1, 4, 5])]
    np.testing.assert_allclose(grouped["teacher"].reshape(expected.shape), expected, atol=1e-4)
    np.testing.assert_allclose(grouped["student"].reshape(single["student"].shape), single["student"], atol=1e-4)


def test_in_training_a_decoders_statistics_are_those_of_its_own_sets(variables):
    """Images that only the student uses affect the teacher's running means only through the encoder."""

    def statistics(rows):
        updated = jax.jit(lambda v, x: apply(v, x, rows, train=True, mutable=["batch_stats"])[1]["batch_stats"])
        return updated(variables, IMAGES)

    alone = statistics({"teacher": slice(0, 2)})
    with_student = statistics({"teacher": slice(0, 2), "student": slice(None)})
    more = statistics({"teacher": slice(None)})
    for a, b in zip(jax.tree.leaves(alone["teacher"]), jax.tree.leaves(with_student["teacher"]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert any(
        np.abs(a - b).max() > 1e-4
        for a, b in zip(jax.tree.leaves(alone["teacher"]), jax.tree.leaves(more["teacher"]), strict=True)
    )


@pytest.mark.parametrize(("own", "watched"), [((0, 3), (3, 4)), ((2, 4), (0, 2))])
def test_a_watched_branch_decodes_as_in_evaluation_without_gradient(variables, own, watched):
    """Watching does not change the logits or statistics of its own sets, and the watched logits have no gradient."""
    own, watched = slice(*own), slice(*watched)

    def logits(params, watched):
        return apply(
            {**variables, "params": params},
            IMAGES,
            {"teacher": own},
            train=True,
            watched=watched and {"teacher": watched},
            mutable=["batch_stats"],
        )

    @jax.jit
    def both(params):
        def watched_loss(params):
            return (logits(params, watched)[0]["teacher"][:, watched] ** 2).sum()

        levels, _ = Encoder(4, 3).apply(part("encoder"), IMAGES.reshape(8, 16, 16, 1), True, mutable=["batch_stats"])
        result = logits(params, watched)
        selected = [level.reshape(2, 4, *level.shape[1:])[:, watched] for level in levels]
        after = {"params": params["teacher"], "batch_stats": result[1]["batch_stats"]["teacher"]}
        expected = Decoder(3).apply(after, [level.reshape(-1, *level.shape[2:]) for level in selected], False)
        return logits(params, None), result, expected, jax.grad(watched_loss)(params)

    def part(name):
        return {kind: tree[name] for kind, tree in variables.items()}

    alone, result, expected, gradient = both(variables["params"])
    assert result[0]["teacher"].shape == (2, 4, 16, 16, 3)
    np.testing.assert_allclose(result[0]["teacher"][:, own], alone[0]["teacher"], atol=1e-4)
    for a, b in zip(jax.tree.leaves(result[1]), jax.tree.leaves(alone[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    watched_logits = result[0]["teacher"][:, watched]
    np.testing.assert_allclose(watched_logits.reshape(expected.shape), expected, atol=1e-3)
    assert not any(g.any() for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize("option", ["channel_dropout", "feature_dropout"])
def test_dropout_of_features_affects_its_set_or_branch_in_training_only(option):
    """Instance norm, so that a set does not affect others through batch statistics."""
    model = DualBranchUNet(width=4, depth=3, classes=3, norm="instance")
    variables = sample(shapes(model)[1])

    def logits(train, **options):
        rngs = {"dropout": jax.random.key(1)}
        out = model.apply(variables, sets(IMAGES), set_names(ALL, IMAGES), train=train, rngs=rngs, **options)
        return jax.tree.map(np.asarray, out)

    def same(ours, theirs):
        return {(b, name): np.array_equal(array, theirs[b][name]) for b in ours for name, array in ours[b].items()}

    dropped = {"channel_dropout": {"1": 0.5}, "feature_dropout": {"student": 0.5}}[option]
    assert all(same(logits(False), logits(False, **{option: dropped})).values())
    for (branch, name), equal in same(logits(True), logits(True, **{option: dropped})).items():
        assert equal == (name not in dropped and branch not in dropped)
