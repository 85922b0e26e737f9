"""Losses against the numbers of published code on one batch: float32 logits (2, 8, 8, classes) and random labels.

The numbers were computed once by the functions named here, with PyTorch 2 on a CPU.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msl_jax.labels import UNLABELED
from msl_jax.methods import losses
from msl_jax.methods.guides import CERTAIN_AVERAGE, CONFIDENT, ENSEMBLE, Asked
from msl_jax.methods.mixing import boxes_at, exchange
from msl_jax.methods.table import METHODS, ramp
from msl_jax.methods.terms import TERMS
from msl_jax.training.step import join

SPACE = (8, 8)


class Batch:
    """The inputs, in the order in which they were drawn from NumPy's RandomState(0), whose stream never changes."""

    def __init__(self):
        random = np.random.RandomState(0)

        def logits(classes=4):
            return jnp.array(random.normal(0, 2, (2, *SPACE, classes)).astype(np.float32))

        self.first, self.second = logits(), logits()
        self.label = jnp.array(random.randint(0, 4, (2, *SPACE)), jnp.int32)
        self.partial = jnp.where(random.uniform(size=(2, *SPACE)) < 0.5, self.label, UNLABELED)
        self.two_first, self.two_second = logits(2), logits(2)
        self.passes = jnp.stack([logits(2) for _ in range(4)])
        self.guess = jnp.array(random.randint(0, 4, (2, *SPACE)), jnp.int32)
        self.third = logits()


@pytest.fixture(scope="module")
def batch():
    return Batch()


def close(value, published, rel=1e-5):
    assert float(value) == pytest.approx(published, rel=rel)


def test_partial_cross_entropy(batch):
    """WSL4MIS, code/train_weakly_supervised_pCE_2D.py: CrossEntropyLoss(ignore_index=4)."""
    close(losses.cross_entropy(batch.first, batch.partial), 2.686939)


def test_dice_of_nnunet(batch):
    """nnunetv2 2.8.1, MemoryEfficientSoftDiceLoss(softmax, do_bg=False, smooth=0), with batch_dice and without.

    It returns minus the mean Dice; with a mask, unlabelled pixels are left out.
    """
    close(losses.dice(batch.first, batch.label) - 1, -0.250875)
    close(losses.dice(batch.first, batch.partial) - 1, -0.207030)
    close(losses.dice(batch.first, batch.label, "images") - 1, -0.251187)


def test_entropy(batch):
    """SSL4MIS, code/utils/losses.py: entropy_minmization, with log(p + 1e-6), and entropy_loss, in log(classes)."""
    close(losses.entropy(batch.first), 0.785015, rel=1e-4)
    close(losses.entropy(batch.first) / jnp.log(4.0), 0.566269, rel=1e-4)


def test_kl(batch):
    """torch.nn.functional.kl_div(log_softmax(student), softmax(teacher)), summed over classes."""
    close(losses.kl_divergence(batch.first, batch.second), 1.796005)


def test_cross_pseudo_supervision(batch):
    """SSL4MIS, code/train_cross_pseudo_supervision_2D.py: pseudo_supervision1 and 2."""
    close(losses.pseudo_label(batch.first, of=batch.second), 2.458760)
    close(losses.pseudo_label(batch.second, of=batch.first), 2.643401)


def test_mean_teacher(batch):
    """SSL4MIS, code/train_mean_teacher_2D.py: mean of (softmax1 - softmax2)^2."""
    everywhere = jnp.zeros((2, *SPACE), jnp.int32)
    close(losses.consistency(batch.first, jax.nn.softmax(batch.second), everywhere), 0.170582)


def test_uncertainty_aware_mean_teacher(batch):
    """SSL4MIS, code/train_uncertainty_aware_mean_teacher_2D.py: mask and consistency_loss, 4 passes, half of the ramp.

    Its numbers 2 and log(2) are right for two classes.
    """

    def predict(images, key, train=False):
        del images, key
        return {"teacher": batch.passes.reshape(1, 8, *SPACE, 2) if train else batch.two_second[None]}

    progress = ramp(jnp.int32(500), 1000)
    close(progress, 0.286505)  # sigmoid_rampup(500, 1000)
    arrays = {"image": jnp.zeros((1, 2, *SPACE, 1))}
    targets = CERTAIN_AVERAGE.targets(Asked(predict, arrays, jax.random.key(0), progress, passes=4))
    certain, target = targets["certain"][0], targets["target"][0]
    assert (certain == 0).sum() == 27
    close(losses.consistency(batch.two_first, target, certain), 0.288700)


def test_mixture_of_two_decoders(batch):
    """DMSPS, code/train/A_train_weaklySup_SPS_2d_soft.py: loss_pse_sup_soft with alpha = 0.3."""
    target = losses.mixture(batch.first, batch.second, jnp.float32(0.3))
    first, second = (losses.soft_cross_entropy(jax.nn.softmax(x), target) for x in (batch.first, batch.second))
    close((first + second) / 2, 1.273572)


def test_hard_mixture_of_two_decoders(batch):
    """DMSPS, code/train/A_train_weaklySup_PLS_2d_hard.py, arg-max with alpha = 0.3: classes sum to 205."""
    assert losses.mixture(batch.first, batch.second, jnp.float32(0.3)).argmax(-1).sum() == 205


def test_bidirectional_copy_paste(batch):
    """BCP, code/ACDC_BCP_train.py: the cross-entropy's part of (unl_loss + l_loss) / 2, a box of half of the image.

    There, the means over the pixels inside and outside the box are added; for half of the image that is the mean.
    """
    box = jnp.broadcast_to(boxes_at(jnp.array([0, 2]), jnp.array([8, 4]), SPACE), (1, 2, *SPACE))
    images = {name: {"image": jnp.zeros((1, 2, *SPACE, 1))} for name in ("strong", "weak")}
    images["strong"]["label"], images["weak"]["proposal"] = batch.label[None], batch.guess[None]
    mixed = exchange(images, jax.random.key(0), lambda *_: box, "strong", "weak")
    logits = {"teacher": {"strong": batch.second[None], "weak": batch.first[None]}}
    labels = {name: {of: mixed[of][name] for of in mixed} for name in ("label", "proposal")}
    method = METHODS["bcp"]
    assert method.sets_of("s") == method.sets_of("proposal") == ("strong", "weak")
    sets, key = ("strong", "weak"), jax.random.key(0)
    given = join(logits, sets), join(labels, sets), "labelled", losses.PLAIN, key
    close(sum(method.terms[term] * TERMS[term].loss(*given) for term in ("s", "proposal")), 3.545153)


def test_confident_guesses(batch):
    """UniMatch, more-scenarios/medical/unimatch.py: conf >= 0.95 at 10 pixels, whose classes sum to 18."""
    arrays = {"image": jnp.zeros((1, 2, *SPACE, 1)), "weak_label": jnp.full((1, 2, *SPACE), UNLABELED)}
    asked = Asked(lambda *_: {"teacher": batch.first[None]}, arrays, jax.random.key(0), jnp.float32(1), confidence=0.95)
    guess = CONFIDENT.targets(asked)["proposal"]
    sure = guess[guess != UNLABELED]
    assert (sure.size, sure.sum()) == (10, 18)


@pytest.mark.parametrize(("confidence", "number", "total"), [(0.6, 69, 92), (0.95, 6, 8)])
def test_alternate_diverse_teaching(batch, confidence, number, total):
    """AD-MT, code/train_post_2d_aut.py and train_utils.py: confident pixels and the sum of their classes.

    The trained network gives 48 of the 69 guesses, and all 6.
    """
    first, second, third = (lambda *_, x=x: {"teacher": x[None]} for x in (batch.first, batch.second, batch.third))
    arrays = {"image": jnp.zeros((1, 2, *SPACE, 1)), "weak_label": jnp.full((1, 2, *SPACE), UNLABELED)}
    given = Asked(first, arrays, jax.random.key(0), jnp.float32(1), [second], third, confidence=confidence)
    guess = ENSEMBLE.targets(given)["proposal"]
    sure = guess[guess != UNLABELED]
    assert (sure.size, sure.sum()) == (number, total)
