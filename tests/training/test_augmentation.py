"""Augmentation in the train step: each transform against its closed form, and what holds for all of them."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import pytest

from msl_jax import settings
from msl_jax.labels import UNLABELED
from msl_jax.training import augmentation, intensity_changes
from msl_jax.training.intensity_changes import TRANSFORMS

NNUNET = {**settings.defaults().data.augment.to_dict(), "rotation": 180.0, "zoom": 0.4}
OFF = dict.fromkeys(NNUNET, 0)
ALL = {**NNUNET, "elastic": 0.1}
FILL_VALUES = {"label": 0}


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def noise(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


def batch(n=8, source=(16, 20), channels=2):
    """Images, and label maps with the classes 1 and 3."""
    images = noise(n, *source, channels)
    label = np.where(images[..., 0] < 0.5, 1, 3).astype(np.int32)
    return images, {"label": label, "weak_label": np.where(images[..., 1] < 0.5, label, UNLABELED).astype(np.int32)}


@functools.cache
def compiled(strengths, size):
    return jax.jit(
        functools.partial(augmentation.augment, strengths=dict(strengths), size=size, fill_values=FILL_VALUES)
    )


def augment(images, label_maps, keys, strengths, size):
    augmented = compiled(tuple(strengths.items()), size)(images, label_maps, keys)
    return augmented.pop("image"), augmented


def resampled(image, label, size, mirror=(1, 1), angle=0.0, zoom=1.0, displacement=(0, 0)):
    """`resample` of an image (y, x) and a label map, the first filled with 0, the second with UNLABELED."""
    coordinates = augmentation.source_coordinates(
        image.shape,
        size,
        mirror=np.array(mirror, np.float32),
        angle=angle,
        zoom=zoom,
        displacement=np.array(displacement, np.float32).reshape(2, 1, 1),
    )
    image, label = jnp.asarray(image)[..., None], jnp.asarray(label)
    image, labels = augmentation.resample(image, {"weak_label": label}, coordinates, FILL_VALUES)
    return image[..., 0], labels["weak_label"]


def drawn(name, image, strength, n):
    """The results (n, y, x, channels) of a transform with n keys."""
    function = {transform.name: transform.function for transform in TRANSFORMS}[name]
    return np.asarray(jax.jit(jax.vmap(lambda key: function(image, key, strength)))(keys(n)))


@pytest.mark.parametrize("source, first", [((6, 8), (1, 2)), ((7, 7), (1, 1)), ((4, 4), (0, 0))])
def test_with_every_strength_0_the_result_is_the_central_crop(source, first):
    images, label_maps = batch(2, source)
    cropped, labels = augment(images, label_maps, keys(2), OFF, (4, 4))
    window = (slice(None), *(slice(start, start + 4) for start in first))
    np.testing.assert_array_equal(cropped, images[window])
    for name in label_maps:
        np.testing.assert_array_equal(labels[name], label_maps[name][window])


def test_a_strength_of_0_adds_no_code():
    arguments = (*batch(), keys(8))
    text = compiled(tuple(OFF.items()), (8, 8)).lower(*arguments).compile().as_text()
    assert not any(word in text for word in ("xor", "gather", "conditional", "multiply"))
    assert "conditional" in compiled((*OFF.items(), ("blur", 1.0)), (8, 8)).lower(*arguments).compile().as_text()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("n", [5, 6])
def test_rotation_by_right_angles(n, turns):
    image, label = noise(n, n), np.arange(n * n, dtype=np.int32).reshape(n, n)
    turned, turned_label = resampled(image, label, (n, n), angle=turns * math.pi / 2)
    np.testing.assert_allclose(turned, np.rot90(image, turns), atol=1e-5)
    np.testing.assert_array_equal(turned_label, np.rot90(label, turns))


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1)])
def test_mirroring_reverses_axes_exactly(axes):
    image, label = noise(6, 9), np.arange(54, dtype=np.int32).reshape(6, 9)
    mirrored, mirrored_label = resampled(image, label, (6, 9), mirror=[-1 if axis in axes else 1 for axis in (0, 1)])
    np.testing.assert_array_equal(mirrored, np.flip(image, axes))
    np.testing.assert_array_equal(mirrored_label, np.flip(label, axes))


def test_zoom_by_2_halves_the_slope_of_a_ramp():
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32)[:, None], (8, 6))
    zoomed, labels = resampled(ramp, ramp.astype(np.int32), (8, 6), zoom=2.0)
    np.testing.assert_allclose(zoomed[:, 3], [1.75, 2.25, 2.75, 3.25, 3.75, 4.25, 4.75, 5.25])
    np.testing.assert_array_equal(labels[:, 3], [2, 2, 3, 3, 4, 4, 5, 5])


def test_displacement_is_in_pixels_of_the_result_and_comes_before_the_rotation():
    """A step down in the result is a step to the left in an image that was turned anticlockwise."""
    ramp = np.broadcast_to(np.arange(7, dtype=np.float32), (7, 7))
    turned, _ = resampled(ramp, ramp.astype(np.int32), (3, 3), angle=math.pi / 2, displacement=(1, 0))
    np.testing.assert_allclose(turned, np.tile([[3], [2], [1]], 3), atol=1e-5)


def test_pixels_from_outside_get_the_fill_values():
    ones = np.ones((8, 8), np.int32)
    image, labels = resampled(ones.astype(np.float32), ones, (8, 8), zoom=0.5)
    inside = np.zeros((8, 8), bool)
    inside[2:6, 2:6] = True
    np.testing.assert_array_equal(image, inside)
    np.testing.assert_array_equal(labels, np.where(inside, 1, UNLABELED))


def test_images_and_labels_are_sampled_at_the_same_places():
    y, x = np.indices((30, 34))
    images = np.stack([y, x, np.ones_like(y)], -1).astype(np.float32)[None].repeat(6, 0)
    labels = {"label": 1 + (y * 34 + x).astype(np.int32)[None].repeat(6, 0)}
    strengths = {**OFF, "flip": True, "rotation": 180, "zoom": 0.4, "elastic": 0.05}
    images, labels = jax.tree.map(np.asarray, augment(images, labels, keys(6), strengths, (20, 24)))
    inside = images[..., 2] > 0.9999
    found = np.stack(np.divmod(labels["label"] - 1, 34), -1)
    assert inside.mean() > 0.8
    assert abs(found - images[..., :2])[inside].max() < 0.501


def test_geometry_covers_its_ranges():
    draw = functools.partial(augmentation.draw_geometry, size=(8, 8), strengths={**ALL, "rotation": 30})
    drawn = jax.vmap(draw)(keys(300))
    angles, zooms = np.rad2deg(drawn["angle"]), np.log(drawn["zoom"]) / math.log(1.4)
    for values, limit in ((angles, 30), (zooms, 1)):
        assert -limit * 1.001 < values.min() < -0.95 * limit and 0.95 * limit < values.max() < limit * 1.001
        assert abs(values.mean()) < 0.15 * limit
    corners, counts = np.unique(drawn["mirror"], axis=0, return_counts=True)
    np.testing.assert_array_equal(corners, [[-1, -1], [-1, 1], [1, -1], [1, 1]])
    assert counts.min() > 50  # 75 +- 7.5
    assert 0.1 < abs(drawn["displacement"]).max() / 8 / 0.1 < 1


@pytest.mark.parametrize(
    "size, strengths, expected",
    [
        ((10, 20), {}, (10, 20)),
        ((10, 20), {"rotation": 180}, (24, 24)),  # half the diagonal is 10.51; margins of 6.01 and 1.01
        ((10, 20), {"rotation": 90, "zoom": 1}, (44, 44)),  # margins of 16.52 and 11.52
        ((10, 10), {"zoom": 1}, (20, 20)),  # a margin of 4.5
        ((11, 11), {"rotation": 30}, (15, 15)),  # 5 (cos 30 + sin 30) = 6.83
        ((10, 20), {"elastic": 0.1}, (12, 24)),
    ],
)
def test_source_size(size, strengths, expected):
    assert augmentation.source_size(size, {**OFF, **strengths}) == expected


@pytest.mark.parametrize("rotation, zoom, elastic", [(180, 0.4, 0), (20, 0.1, 0), (45, 0, 0.1)])
def test_a_source_of_that_size_leaves_nothing_to_fill(rotation, zoom, elastic):
    size, strengths = (12, 17), {**OFF, "flip": True, "rotation": rotation, "zoom": zoom, "elastic": elastic}
    source = augmentation.source_size(size, strengths)
    label = np.ones((64, *source), np.int32)
    images, labels = augment(label[..., None].astype(np.float32), {"weak_label": label}, keys(64), strengths, size)
    np.testing.assert_allclose(images, 1, atol=1e-5)
    assert (labels["weak_label"] == 1).all()


def test_the_spline_is_the_uniform_cubic_one():
    """It reproduces constants and straight lines, stays in the range of its control points, and is 2/3 at a knot."""
    index = np.arange(augmentation.INTERVALS + 3, dtype=np.float32)
    line = np.broadcast_to(index[:, None] - 1, (len(index), len(index)))
    np.testing.assert_allclose(augmentation.spline(line, (8, 3))[:, 1], (np.arange(8) + 0.5) / 2, rtol=1e-5)
    delta = np.zeros_like(line)
    delta[3, 3] = 1  # the knot in the middle of the patch
    np.testing.assert_allclose(augmentation.spline(delta, (9, 9))[4, 4], 4 / 9, rtol=1e-5)


def test_elastic_deformation_of_a_tenth_does_not_fold_the_image():
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (300, 2, 7, 7)).astype(np.float32)
    moved = np.indices((40, 40)) + 0.1 * 40 * np.asarray(augmentation.spline(signs, (40, 40)))
    (yy, yx), (xy, xx) = ([np.diff(part, axis=axis)[:, :39, :39] for axis in (1, 2)] for part in moved.swapaxes(0, 1))
    assert (yy * xx - yx * xy).min() > 0


def test_noise_is_relative_to_each_channels_standard_deviation():
    image = np.stack([np.array([[0, 1], [1, 0]]), np.array([[0.5, 0.3], [0.5, 0.3]])], -1).astype(np.float32)
    changed = intensity_changes.add_noise(image, np.array([[1, 2], [3, -4]], np.float32)[..., None])
    np.testing.assert_allclose(changed[..., 0], [[0.5, 2], [2.5, -2]], rtol=1e-6)
    np.testing.assert_allclose(changed[..., 1], [[0.6, 0.5], [0.8, -0.1]], rtol=1e-5, atol=1e-6)


def test_deviations_of_noise_are_uniform():
    image = noise(32, 32, 1)
    changed = drawn("noise", image, 0.1, 200)
    deviations = (changed - image).std((1, 2, 3)) / image.std()
    assert 0 <= deviations.min() < 0.005 and 0.095 < deviations.max() < 0.108
    assert deviations.mean() == pytest.approx(0.05, abs=0.008)
    assert abs((changed - image).mean()) < 0.001


def test_blur_of_a_point_gives_the_normalised_gaussians():
    image = np.zeros((11, 11, 2), np.float32)
    image[5, 5] = 1
    deviations = np.array([[0.5, 1.0], [0.8, 0.6]], np.float32)
    blurred = intensity_changes.gaussian_blur(image, deviations, 3)
    for channel in (0, 1):
        taps = [np.exp(-0.5 * (np.arange(-3, 4) / deviation) ** 2) for deviation in deviations[:, channel]]
        expected = np.zeros((11, 11))
        expected[2:9, 2:9] = np.outer(taps[0] / taps[0].sum(), taps[1] / taps[1].sum())
        np.testing.assert_allclose(blurred[..., channel], expected, atol=1e-6)


def test_blur_reflects_at_the_edges():
    ramp = np.arange(6, dtype=np.float32)[:, None, None]
    blurred = intensity_changes.gaussian_blur(np.broadcast_to(ramp, (6, 6, 1)), np.full((2, 1), 1.0, np.float32), 1)
    side = math.exp(-0.5) / (1 + 2 * math.exp(-0.5))
    np.testing.assert_allclose(blurred[:, 2, 0], [2 * side, 1, 2, 3, 4, 5 - 2 * side], rtol=1e-5)


def test_brightness_scales_about_black():
    image = noise(4, 4, 2)
    changed = drawn("brightness", image, 0.25, 200)
    factors = changed / image
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1, :1], factors.shape), rtol=1e-5)
    assert 0.7499 < factors.min() < 0.76 and 1.24 < factors.max() < 1.2501


def test_contrast_scales_about_the_mean_and_keeps_the_range():
    image = np.array([0, 0.4, 0.5, 0.6, 1], np.float32).reshape(1, 5, 1)
    for factor, expected in ((1.5, [0, 0.35, 0.5, 0.65, 1]), (0.5, [0.25, 0.45, 0.5, 0.55, 0.75])):
        changed = intensity_changes.scale_about_mean(image, np.full((1, 1, 1), factor, np.float32))
        np.testing.assert_allclose(changed.ravel(), expected, rtol=1e-6, atol=1e-7)


def test_low_resolution_at_half_the_size():
    """Every second pixel is kept; between their centres, lines."""
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32)[:, None, None], (8, 6, 2))
    reduced = jax.jit(intensity_changes.reduce_resolution)(ramp, np.array([0.5, 1.0], np.float32))
    np.testing.assert_allclose(reduced[:, 3, 0], [1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7])
    np.testing.assert_array_equal(reduced[..., 1], ramp[..., 1])


@pytest.mark.parametrize("scale", [0.01, 0.5, 0.61, 0.77, 0.99])
def test_low_resolution_stays_between_the_pixels_of_an_image(scale):
    image = np.stack([np.full((9, 13), 0.3), noise(9, 13)], -1).astype(np.float32)
    reduced = jax.jit(intensity_changes.reduce_resolution)(image, np.full(2, scale, np.float32))
    np.testing.assert_allclose(reduced[..., 0], 0.3, rtol=1e-6)
    assert image[..., 1].min() <= reduced[..., 1].min() <= reduced[..., 1].max() <= image[..., 1].max() + 1e-6


def test_gamma_keeps_mean_and_standard_deviation():
    """0, 1/2, 1 squared are 0, 1/4, 1: of mean 5/12 and standard deviation sqrt(26) / 12, before 1/2 and sqrt(1/6)."""
    plane = np.array([0.2, 0.4, 0.6], np.float32)
    image = np.stack([plane, plane], -1)[None]
    changed = intensity_changes.apply_gamma(image, np.array([2, 1], np.float32).reshape(1, 1, 2))
    standard = (np.array([0, 0.25, 1]) - 5 / 12) * 12 / math.sqrt(26)
    np.testing.assert_allclose(changed[0, :, 0], 0.4 + standard * math.sqrt(1 / 6) * 0.4, rtol=1e-5)
    np.testing.assert_allclose(changed[0, :, 1], plane, rtol=1e-5)


@pytest.mark.parametrize("name, end", [("gamma", 0), ("inverted_gamma", 2)])
def test_half_of_the_exponents_are_below_1(name, end):
    """The middle of three values divides their range at 1/2 to the power of the exponent, from black or from white."""
    image = np.array([0, 0.5, 1], np.float32).reshape(1, 3, 1)
    changed = drawn(name, image, 0.5, 400)[:, 0, :, 0]
    exponents = -np.log2(abs(changed[:, 1] - changed[:, end]) / (changed[:, 2] - changed[:, 0]))
    assert 0.6999 < exponents.min() < 0.71 and 1.47 < exponents.max() < 1.5001
    assert (exponents < 1).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: transform.name)
def test_every_transform_is_applied_with_its_probability(transform):
    n = 1000
    images = np.broadcast_to(noise(6, 6, 2), (n, 6, 6, 2))
    change = jax.jit(lambda images, keys: intensity_changes.change_intensity(images, keys, NNUNET, (transform,)))
    changed = (np.asarray(change(images, keys(n))) != images).any((1, 2))
    p, q = transform.probability, transform.channel_probability
    for found, expected in ((changed.any(1), p * (1 - (1 - q) ** 2)), (changed.all(1), p * q**2)):
        assert found.mean() == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / n))


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: transform.name)
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_images_stay_constant(transform, value):
    image = np.full((7, 9, 2), value, np.float32)
    changed = drawn(transform.name, image, NNUNET[transform.strength], 3)
    assert changed.shape == (3, 7, 9, 2) and changed.dtype == np.float32 and np.isfinite(changed).all()
    assert np.ptp(changed, axis=(1, 2)).max() < 1e-5
    if transform.name != "brightness":
        np.testing.assert_allclose(changed, value, atol=1e-5)


def test_shapes_dtypes_and_labels_are_kept():
    images, label_maps = batch()
    augmented, labels = augment(images, label_maps, keys(8), ALL, (12, 16))
    assert augmented.shape == (8, 12, 16, 2) and augmented.dtype == jnp.float32 and jnp.isfinite(augmented).all()
    assert all(label.shape == (8, 12, 16) and label.dtype == jnp.int32 for label in labels.values())
    assert set(np.unique(labels["label"])) == {0, 1, 3} and set(np.unique(labels["weak_label"])) == {1, 3, UNLABELED}
    known = labels["weak_label"] != UNLABELED
    np.testing.assert_array_equal(labels["weak_label"][known], labels["label"][known])


def test_versions_share_the_geometry_and_differ_in_intensity():
    images, label_maps = batch()
    apply = functools.partial(augmentation.augment, size=(12, 16), fill_values=FILL_VALUES)
    still = ALL | dict.fromkeys((transform.strength for transform in intensity_changes.TRANSFORMS), 0.0)
    with_versions = jax.jit(functools.partial(apply, strengths=ALL, versions=("again", "plain")))
    out, alone = with_versions(images, label_maps, keys(8)), augment(images, label_maps, keys(8), ALL, (12, 16))
    moved, labels = augment(images, label_maps, keys(8), still, (12, 16))
    np.testing.assert_array_equal(out["image"], alone[0])
    np.testing.assert_allclose(out["plain"], moved, rtol=1e-6)
    np.testing.assert_array_equal(out["label"], labels["label"])
    assert not np.allclose(out["again"], out["image"]) and not np.allclose(out["again"], out["plain"])


def test_a_result_depends_only_on_its_key_and_image():
    images, label_maps = batch()
    images, label_maps = jax.tree.map(lambda array: array.repeat(2, 0)[:8], (images, label_maps))  # pairs of images
    own = keys(8)
    first = augment(images, label_maps, own, ALL, (12, 16))
    assert all(not np.array_equal(first[0][i], first[0][i + 1]) for i in range(0, 8, 2))
    order = np.array([3, 0, 7, 1, 2, 6, 5, 4])
    permuted = augment(*jax.tree.map(lambda array: array[order], (images, label_maps)), own[order], ALL, (12, 16))
    jax.tree.map(np.testing.assert_array_equal, permuted, jax.tree.map(lambda array: array[order], first))


def test_devices_give_the_same_result_without_exchanging_images():
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("data",)), PartitionSpec("data"))
    arguments = (*batch(), keys(8))
    alone = augment(*arguments, ALL, (12, 16))
    shared = jax.device_put(arguments, sharding)
    run = compiled(tuple(ALL.items()), (12, 16)).lower(*shared).compile()
    found = run(*shared)
    jax.tree.map(np.testing.assert_array_equal, (found.pop("image"), found), alone)
    program = run.as_text()
    assert not any(word in program for word in ("all-gather", "all-to-all", "collective-permute"))
    assert program.count(" all-reduce(") <= len(TRANSFORMS)  # whether any image is changed
