import math

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maps import CLASSES, LABELLED, PAIRS, QUICK, label_maps, labels_of, logit_maps, logits_of, value
from msl_jax.labels import UNLABELED
from msl_jax.methods.losses import (
    consistency,
    cross_entropy,
    entropy,
    kl_divergence,
    mixture,
    pseudo_label,
    soft_cross_entropy,
)

# Closed forms


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_uniform_logits(classes):
    logits = jnp.full((2, 3, 3, classes), 5.0)
    labels = jnp.arange(18, dtype=jnp.int32).reshape(2, 3, 3) % classes
    assert value(cross_entropy, logits, labels) == pytest.approx(math.log(classes), rel=1e-6)
    assert value(entropy, logits) == pytest.approx(math.log(classes), rel=1e-6)
    assert value(kl_divergence, logits, logits - 9) == pytest.approx(0, abs=1e-6)


def test_cross_entropy_of_one_pixel():
    """p = (0.2, 0.8): -log 0.8 where the label is 1, -log 0.2 where it is 0."""
    logits = logits_of((0.2, 0.8))
    assert value(cross_entropy, logits, labels_of(1)) == pytest.approx(math.log(1.25), rel=1e-5)
    assert value(cross_entropy, logits, labels_of(0)) == pytest.approx(math.log(5), rel=1e-5)


def test_cross_entropy_is_a_mean_over_labelled_pixels_only():
    logits = logits_of((0.2, 0.8), (0.5, 0.5), (0.1, 0.9), (0.25, 0.75))
    labels = labels_of(1, 0, UNLABELED, UNLABELED)
    assert value(cross_entropy, logits, labels) == pytest.approx((math.log(1.25) + math.log(2)) / 2, rel=1e-5)
    gradient = jax.grad(cross_entropy)(logits, labels)[0, 0]
    np.testing.assert_allclose(gradient, [[0.1, -0.1], [-0.25, 0.25], [0, 0], [0, 0]], atol=1e-6)


def test_images_with_more_labels_weigh_more():
    """Two images, three labelled pixels against one: the mean is over pixels, not over images."""
    logits = jnp.stack(
        [logits_of((0.2, 0.8), (0.2, 0.8), (0.2, 0.8))[0], logits_of((0.5, 0.5), (0.5, 0.5), (0.1, 0.9))[0]]
    )
    labels = jnp.stack([labels_of(1, 1, 1)[0], labels_of(0, UNLABELED, UNLABELED)[0]])
    assert value(cross_entropy, logits, labels) == pytest.approx((3 * math.log(1.25) + math.log(2)) / 4, rel=1e-5)


def test_entropy_of_known_distributions():
    expected = {
        (0.5, 0.5): math.log(2),
        (0.2, 0.8): 0.2 * math.log(5) + 0.8 * math.log(1.25),
        (0.5, 0.25, 0.125, 0.125): 1.75 * math.log(2),
    }
    for p, h in expected.items():
        assert value(entropy, logits_of(p)) == pytest.approx(h, rel=1e-5)
    both = value(entropy, logits_of((0.5, 0.5), (0.2, 0.8)))
    assert both == pytest.approx((expected[0.5, 0.5] + expected[0.2, 0.8]) / 2, rel=1e-5)


def test_entropy_gradient():
    """dH / dz_k = -p_k (log p_k + H)."""
    p = np.array([0.1, 0.2, 0.7])
    h = -(p * np.log(p)).sum()
    np.testing.assert_allclose(jax.grad(entropy)(logits_of(tuple(p)))[0, 0, 0], -p * (np.log(p) + h), atol=1e-6)


def test_kl_of_two_known_distributions():
    """KL((1/2, 1/2) || (1/4, 3/4)) = log(4/3) / 2; swapped, 3/4 log(3/2) - 1/4 log(2)."""
    even, odd = logits_of((0.5, 0.5)), logits_of((0.25, 0.75))
    assert value(kl_divergence, even, odd) == pytest.approx(math.log(4 / 3) / 2, rel=1e-5)
    assert value(kl_divergence, odd, even) == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2), rel=1e-5)
    two = value(kl_divergence, logits_of((0.5, 0.5), (0.3, 0.7)), logits_of((0.25, 0.75), (0.3, 0.7)))
    assert two == pytest.approx(math.log(4 / 3) / 4, rel=1e-5)


def test_kl_has_a_gradient_for_the_student_only():
    """(p_b - p_t) / pixels for the student; exactly 0 for the teacher."""
    teacher, student = logits_of((0.5, 0.5), (0.9, 0.1)), logits_of((0.25, 0.75), (0.2, 0.8))
    to_teacher, to_student = jax.grad(kl_divergence, argnums=(0, 1))(teacher, student)
    assert not to_teacher.any()
    np.testing.assert_allclose(to_student[0, 0], [[-0.125, 0.125], [-0.35, 0.35]], atol=1e-6)


def test_at_equal_probabilities_only_a_pseudo_mask_has_a_gradient():
    """At 50/50 the entropy's gradient is 0; that of cross-entropy with the own arg-max is 1/2."""
    logits = jnp.zeros((1, 1, 1, 2))
    np.testing.assert_array_equal(jax.grad(entropy)(logits), jnp.zeros_like(logits))
    pseudo = logits.argmax(-1).astype(jnp.int32)
    np.testing.assert_allclose(jax.grad(cross_entropy)(logits, pseudo)[0, 0, 0], [-0.5, 0.5], atol=1e-7)


# Nothing labelled, extreme logits


def test_nothing_labelled_is_exactly_zero_with_zero_gradient():
    logits = jnp.array(np.random.default_rng(0).normal(0, 5, (2, 3, 3, 4)), jnp.float32)
    labels = jnp.full((2, 3, 3), UNLABELED, jnp.int32)
    loss, gradient = jax.value_and_grad(cross_entropy)(logits, labels)
    assert float(loss) == 0.0
    np.testing.assert_array_equal(gradient, jnp.zeros_like(logits))


def test_extreme_logits_have_exact_values_and_finite_gradients():
    """One pixel predicts the wrong class by 2e4 nats, one the right class, one both with probability 1/2."""
    logits = jnp.array([[[[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4]]]], jnp.float32)
    labels = labels_of(1, 1, 0)
    loss, gradient = jax.value_and_grad(cross_entropy)(logits, labels)
    assert float(loss) == pytest.approx((2e4 + 0 + math.log(2)) / 3, rel=1e-6)
    np.testing.assert_allclose(3 * gradient[0, 0], [[1, -1], [0, 0], [-0.5, 0.5]], atol=1e-6)

    loss, gradient = jax.value_and_grad(entropy)(logits)
    assert float(loss) == pytest.approx(math.log(2) / 3, rel=1e-6)
    np.testing.assert_allclose(gradient, jnp.zeros_like(logits), atol=1e-6)

    loss, gradient = jax.value_and_grad(kl_divergence, argnums=1)(logits, -logits)
    assert float(loss) == pytest.approx((2e4 + 2e4 + 0) / 3, rel=1e-6)
    np.testing.assert_allclose(3 * gradient[0, 0], [[-1, 1], [1, -1], [0, 0]], atol=1e-6)


@QUICK
@given(CLASSES.flatmap(lambda c: st.tuples(logit_maps(c, 1e4), logit_maps(c, 1e4), label_maps(c))))
def test_values_and_gradients_are_finite_up_to_1e4(sample):
    logits, other, labels = map(jnp.asarray, sample)
    for loss, args in ((cross_entropy, (labels,)), (entropy, ()), (lambda b, t: kl_divergence(t, b), (other,))):
        result, gradient = jax.value_and_grad(loss)(logits, *args)
        assert jnp.isfinite(result) and jnp.isfinite(gradient).all()
        assert result >= -1e-3


# Invariants


@QUICK
@given(CLASSES.flatmap(lambda c: st.tuples(logit_maps(c), label_maps(c, unlabeled=False))))
def test_full_cross_entropy_equals_optax(sample):
    logits, labels = sample
    expected = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), jnp.asarray(labels)).mean()
    assert value(cross_entropy, logits, labels) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


@QUICK
@given(LABELLED)
def test_unlabelled_pixels_are_ignored(sample):
    logits, labels = sample
    labelled = labels != UNLABELED
    changed = np.where(labelled[..., None], logits, -logits[..., ::-1])
    assert value(cross_entropy, logits, labels) == value(cross_entropy, changed, labels)
    gradient = np.asarray(jax.grad(cross_entropy)(jnp.asarray(logits), jnp.asarray(labels)))
    assert not gradient[~labelled].any()


@QUICK
@given(PAIRS, CLASSES.flatmap(label_maps), st.floats(-50, 50, width=32))
def test_a_constant_added_to_a_pixels_logits_changes_nothing(pair, labels, shift):
    logits, other = pair
    labels = np.where(labels == UNLABELED, UNLABELED, labels % logits.shape[-1]).astype(np.int32)
    near = {"rel": 1e-4, "abs": 1e-4}
    assert value(cross_entropy, logits + shift, labels) == pytest.approx(value(cross_entropy, logits, labels), **near)
    assert value(entropy, logits + shift) == pytest.approx(value(entropy, logits), **near)
    assert value(kl_divergence, logits + shift, other) == pytest.approx(value(kl_divergence, logits, other), **near)
    assert value(kl_divergence, logits, logits + shift) == pytest.approx(0, abs=1e-4)


@QUICK
@given(PAIRS)
def test_kl_is_bounded_below_by_the_total_variation(pair):
    """Pinsker: KL >= 2 TV^2, with TV half the L1 distance; so it is never negative, and 0 only for equal ones."""
    p, q = (np.asarray(jax.nn.softmax(jnp.asarray(logits))) for logits in pair)
    bound = 2 * (np.abs(p - q).sum(-1) / 2) ** 2
    assert value(kl_divergence, *pair) >= bound.mean() - 1e-5
    assert value(kl_divergence, pair[0], pair[0]) == 0.0


@QUICK
@given(PAIRS)
def test_no_gradient_reaches_the_teacher(pair):
    assert not jax.grad(kl_divergence)(*map(jnp.asarray, pair)).any()


@QUICK
@given(CLASSES.flatmap(logit_maps))
def test_entropy_is_between_0_and_log_classes(logits):
    assert -1e-6 <= value(entropy, logits) <= math.log(logits.shape[-1]) + 1e-5


@QUICK
@given(PAIRS, CLASSES.flatmap(label_maps))
def test_leading_axes_do_not_matter(pair, labels):
    logits, other = pair
    labels = np.where(labels == UNLABELED, UNLABELED, labels % logits.shape[-1]).astype(np.int32)

    def grouped(array):
        return array.reshape(array.shape[0], 1, *array.shape[1:])

    for loss, args in ((cross_entropy, (logits, labels)), (entropy, (logits,)), (kl_divergence, (logits, other))):
        near = pytest.approx(value(loss, *args), rel=1e-6, abs=1e-6)
        assert value(loss, *map(grouped, args)) == near
        assert value(loss, *(a[::-1] for a in args)) == near


def test_strictly_typed_and_the_same_under_jit():
    generator = np.random.default_rng(1)
    logits, other = (jnp.array(generator.normal(0, 3, (2, 4, 4, 3)), jnp.float32) for _ in range(2))
    labels = jnp.array(generator.choice([0, 1, 2, UNLABELED], (2, 4, 4)), jnp.int32)
    with jax.numpy_dtype_promotion("strict"):
        for loss, args in ((cross_entropy, (logits, labels)), (entropy, (logits,)), (kl_divergence, (logits, other))):
            eager, gradient = jax.value_and_grad(loss)(*args)
            jitted, jitted_gradient = jax.jit(jax.value_and_grad(loss))(*args)
            assert eager.dtype == jitted.dtype == gradient.dtype == jnp.float32
            assert float(jitted) == pytest.approx(float(eager), rel=1e-6)
            np.testing.assert_allclose(jitted_gradient, gradient, atol=1e-7)


def test_pseudo_label_closed_form():
    """p = (0.8, 0.2): -log 0.2 if the other's arg-max is class 1; -log 0.8 with its own arg-max."""
    logits = jnp.log(jnp.array([0.8, 0.2]))[None, None]
    other = jnp.array([[[-1.0, 1.0]]])
    assert float(pseudo_label(logits, other)) == pytest.approx(-math.log(0.2), rel=1e-5)
    assert float(pseudo_label(logits, logits)) == pytest.approx(-math.log(0.8), rel=1e-5)


def test_a_pseudo_label_has_a_large_gradient_on_undecided_pixels():
    """At p = (1/2 + e, 1/2 - e) the gradient of -log p_1 is p - (1, 0), about 1/2; the entropy's is about 0."""
    logits = jnp.array([[[1e-3, -1e-3]]])
    own = jax.grad(lambda x: pseudo_label(x, x))(logits)
    np.testing.assert_allclose(own[0, 0], [-0.5, 0.5], atol=1e-3)
    assert jnp.abs(jax.grad(entropy)(logits)).max() < 2e-3
    assert not jax.grad(lambda of: pseudo_label(logits, of))(logits).any()


# Consistency


def test_consistency_closed_form():
    """(0.9, 0.1) against (0.5, 0.5) gives 0.16; the uncertain pixel is ignored."""
    logits = logits_of((0.9, 0.1), (0.2, 0.8), (0.3, 0.7))
    target = jnp.array([(0.5, 0.5), (0.2, 0.8), (1.0, 0.0)], jnp.float32)[None, None]
    assert value(consistency, logits, target, labels_of(0, 0, UNLABELED)) == pytest.approx(0.08, rel=1e-5)
    assert value(consistency, logits, target, labels_of(UNLABELED, UNLABELED, UNLABELED)) == 0
    gradient = jax.grad(consistency, argnums=1)(logits, target, labels_of(0, 0, 0))
    assert not gradient.any()


# Mixtures of branches


def test_mixture_closed_form_and_without_gradient():
    first, second = logits_of((0.5, 0.5), (0.2, 0.8)), logits_of((0.1, 0.9), (0.6, 0.4))
    target = mixture(first, second, jnp.float32(0.25))
    np.testing.assert_allclose(target[0, 0], [[0.2, 0.8], [0.5, 0.5]], rtol=1e-5)
    assert not jax.grad(lambda logits: mixture(logits, second, jnp.float32(0.25)).sum())(first).any()


def test_soft_cross_entropy_closed_form():
    """-(0.2 log 0.5 + 0.8 log 0.5) and -(0.5 log 0.2 + 0.5 log 0.8)."""
    target = jnp.array([[[[0.2, 0.8], [0.5, 0.5]]]], jnp.float32)
    expected = (math.log(2) - 0.5 * math.log(0.16)) / 2
    assert value(soft_cross_entropy, logits_of((0.5, 0.5), (0.2, 0.8)), target) == pytest.approx(expected, rel=1e-5)


@QUICK
@given(LABELLED)
def test_soft_cross_entropy_of_one_hot_targets_is_cross_entropy(sample):
    logits, labels = sample
    labels = np.where(labels == UNLABELED, 0, labels)
    target = np.eye(logits.shape[-1], dtype=np.float32)[labels]
    expected = value(cross_entropy, logits, labels)
    assert value(soft_cross_entropy, logits, target) == pytest.approx(expected, rel=1e-5, abs=1e-6)
