import itertools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msl_jax.models.dual_branch import BRANCHES, DualBranchUNet
from msl_jax.models.unet import Decoder, Encoder

KEY = jax.random.key(0)
MODEL = DualBranchUNet(width=4, depth=3, classes=3)
ALL = dict.fromkeys(BRANCHES, slice(None))
IMAGES = jnp.array(np.random.default_rng(0).uniform(size=(2, 4, 16, 16, 1)), jnp.float32)


def sets(images):
    """Every image of a group as a set of its own."""
    return {str(i): images[:, i : i + 1] for i in range(images.shape[1])}


def seen(rows, images):
    """Branch -> the names of the sets in its rows."""
    return {branch: tuple(str(i) for i in range(images.shape[1])[span]) for branch, span in rows.items()}


def apply(variables, images, rows=ALL, model=MODEL, watched=None, **kwargs):
    """The model's logits with the sets joined in their order, branch -> (groups, n, y, x, classes); and its updates."""
    watched = watched and seen(watched, images)
    out = model.apply(variables, sets(images), seen(rows, images), watched=watched, **kwargs)
    logits, *updates = out if "mutable" in kwargs else (out,)
    return {b: jnp.concatenate([of[name] for name in sorted(of)], axis=1) for b, of in logits.items()}, *updates


def run(variables, images, rows=ALL, model=MODEL):
    return jax.jit(lambda v, x: apply(v, x, rows, model, train=False)[0])(variables, images)


def shapes(model, rows=ALL, size=16):
    images = jax.ShapeDtypeStruct((1, 1, size, size, 1), jnp.float32)
    logits, variables = jax.eval_shape(
        lambda x: model.init_with_output(KEY, sets(x), seen(rows, x), train=False), images
    )
    return {branch: of["0"] for branch, of in logits.items()}, variables


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def draw(shapes):
    """Variables of these shapes, drawn so that no bias is 0, no scale 1, and no statistic that of the start."""
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
    return draw(shapes(MODEL)[1])


@pytest.mark.parametrize(("width", "depth", "classes"), [(64, 5, 2), (8, 5, 2), (4, 3, 4), (2, 1, 3)])
def test_parameter_count(width, depth, classes):
    """A block of c channels on top of b: two 3 x 3 kernels and a scale and a shift behind each.

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


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_that_is_not_asked_for_has_no_parameters(branch):
    logits, variables = shapes(MODEL, {branch: slice(None)})
    assert set(logits) == {branch}
    assert set(variables["params"]) == set(variables["batch_stats"]) == {"encoder", branch}


def test_bfloat16_leaves_parameters_and_logits_float32():
    model = DualBranchUNet(width=2, depth=3, classes=2, dtype=jnp.bfloat16)
    logits, variables = shapes(model)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, variables))} == {jnp.dtype("float32")}
    drawn = draw(variables)
    program = str(jax.make_jaxpr(lambda v, x: apply(v, x, ALL, model, train=False))(drawn, IMAGES))
    convolutions = [line for line in program.splitlines() if "conv_general_dilated[" in line]
    assert convolutions and all("bf16[" in line for line in convolutions)
    outputs = run(drawn, IMAGES, model=model)
    precise = run(drawn, IMAGES, model=DualBranchUNet(width=2, depth=3, classes=2))
    for branch in BRANCHES:
        assert outputs[branch].dtype == jnp.float32
        np.testing.assert_allclose(outputs[branch], precise[branch], atol=0.1)


def test_it_is_one_encoder_under_two_decoders(variables):
    """Each branch is its own decoder on the feature maps of the one encoder."""
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
    """Without one level's feature map, the coarsest included, the logits of both branches change."""

    def without(next_fun, args, kwargs, context):
        out = next_fun(*args, **kwargs)
        if isinstance(context.module, Encoder) and context.method_name == "__call__":
            out = [jnp.zeros_like(x) if i == level else x for i, x in enumerate(out)]
        return out

    whole = run(variables, IMAGES)
    with nn.intercept_methods(without):
        cut = run(variables, IMAGES)
    for branch in BRANCHES:
        assert np.abs(whole[branch] - cut[branch]).max() > 1e-3


def test_every_parameter_moves_the_logits_of_its_own_branch_alone(variables):
    def loss(params, branch):
        logits = apply({**variables, "params": params}, IMAGES, train=False)[0][branch]
        return (logits * jnp.sin(jnp.arange(logits.size, dtype=jnp.float32)).reshape(logits.shape)).sum()

    for branch, other in itertools.permutations(BRANCHES):
        gradient = jax.jit(jax.grad(loss), static_argnums=1)(variables["params"], branch)
        assert all(g.any() for g in jax.tree.leaves({"encoder": gradient["encoder"], branch: gradient[branch]}))
        assert not any(g.any() for g in jax.tree.leaves(gradient[other]))


def test_the_decoders_share_no_parameters(variables):
    """They are drawn apart, and changing all of one's leaves the other's logits as they were."""
    one = IMAGES[:1, :1]
    drawn = DualBranchUNet(width=2, depth=1).init(KEY, sets(one), seen(ALL, one), train=False)["params"]
    assert (drawn["teacher"]["Conv_0"]["kernel"] != drawn["student"]["Conv_0"]["kernel"]).any()
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
def test_sets_select_what_they_say(variables, rows):
    everything, selected = run(variables, IMAGES), run(variables, IMAGES, rows)
    assert set(selected) == set(rows)
    for branch, span in rows.items():
        assert selected[branch].shape == (2, len(range(4)[span]), 16, 16, 3)
        np.testing.assert_allclose(selected[branch], everything[branch][:, span], atol=1e-4)


def test_groups_are_an_arrangement_of_the_same_images(variables):
    """Sets are cut within groups: images 0-1 of two groups of four are images 0, 1, 4, 5 of one group of eight."""
    rows = {"teacher": slice(0, 2), "student": slice(None)}
    grouped = run(variables, IMAGES, rows)
    one = run(variables, IMAGES.reshape(1, 8, 16, 16, 1))
    picked = one["teacher"][0, jnp.array([0, 1, 4, 5])]
    np.testing.assert_allclose(grouped["teacher"].reshape(picked.shape), picked, atol=1e-4)
    np.testing.assert_allclose(grouped["student"].reshape(one["student"].shape), one["student"], atol=1e-4)


def test_in_training_a_decoders_statistics_are_of_its_own_sets(variables):
    """What the student alone sees reaches the teacher's running means through the encoder, and by no other way."""

    def statistics(rows):
        updated = jax.jit(lambda v, x: apply(v, x, rows, train=True, mutable=["batch_stats"])[1]["batch_stats"])
        return updated(variables, IMAGES)

    alone = statistics({"teacher": slice(0, 2)})
    beside = statistics({"teacher": slice(0, 2), "student": slice(None)})
    more = statistics({"teacher": slice(None)})
    for a, b in zip(jax.tree.leaves(alone["teacher"]), jax.tree.leaves(beside["teacher"]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert any(
        np.abs(a - b).max() > 1e-4
        for a, b in zip(jax.tree.leaves(alone["teacher"]), jax.tree.leaves(more["teacher"]), strict=True)
    )


@pytest.mark.parametrize(("own", "watched"), [((0, 3), (3, 4)), ((2, 4), (0, 2))])
def test_a_watched_branch_decodes_as_at_test_time_and_learns_nothing(variables, own, watched):
    """Its own sets, their statistics and their gradient are as if it were not watched; the rest is its opinion."""
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
        def opinion(params):
            return (logits(params, watched)[0]["teacher"][:, watched] ** 2).sum()

        levels, _ = Encoder(4, 3).apply(part("encoder"), IMAGES.reshape(8, 16, 16, 1), True, mutable=["batch_stats"])
        asked = logits(params, watched)
        cut = [level.reshape(2, 4, *level.shape[1:])[:, watched] for level in levels]
        after = {"params": params["teacher"], "batch_stats": asked[1]["batch_stats"]["teacher"]}
        expected = Decoder(3).apply(after, [level.reshape(-1, *level.shape[2:]) for level in cut], False)
        return logits(params, None), asked, expected, jax.grad(opinion)(params)

    def part(name):
        return {kind: tree[name] for kind, tree in variables.items()}

    alone, asked, expected, gradient = both(variables["params"])
    assert asked[0]["teacher"].shape == (2, 4, 16, 16, 3)
    np.testing.assert_allclose(asked[0]["teacher"][:, own], alone[0]["teacher"], atol=1e-4)
    for a, b in zip(jax.tree.leaves(asked[1]), jax.tree.leaves(alone[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    opinion = asked[0]["teacher"][:, watched]
    np.testing.assert_allclose(opinion.reshape(expected.shape), expected, atol=1e-3)
    assert not any(g.any() for g in jax.tree.leaves(gradient))
