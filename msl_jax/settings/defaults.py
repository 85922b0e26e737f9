"""All settings with their defaults."""

from typing import Any

from ml_collections import ConfigDict, config_dict

from msl_jax.methods.terms import TERMS


def _any(default: Any) -> config_dict.FieldReference:
    """A setting of any type, such as a number that may also be "auto" (msl_jax/experiments/planning.py)."""
    return config_dict.FieldReference(default, field_type=object)


def defaults() -> ConfigDict:
    """All settings, with the values of the papers' experiment."""
    return config_dict.create(
        # Initial weights, batches, and the draw of strong patients.
        seed=0,
        init_from=config_dict.placeholder(str),  # folder of a run: start from its last weights
        data=dict(
            layout="acdc",
            source="data/acdc",
            cache=config_dict.placeholder(str),  # folder for built data sets; default: TFDS's
            labels="",  # LV=3,MYO=2: names and values, for layouts without label names
            unlabeled=255,  # value of unlabelled pixels, for the same layouts
            patient="",  # regular expression for the patient in a case's name, for the same layouts
            axis=_any(2),  # axis of the files' x, y, z across which slices are cut, or auto
            classes="LV",  # names joined by "+", or all
            table="",  # CSV of roles, groups and weak labels per patient, instead of a draw (data/patient_table.py)
            strong=_any(3),  # a number, a list of patients, or all
            split_seed=0,
            split_sizes=((75, 5, 20), (55, 10, 15)),  # train, validation, test: the row that adds up to all patients
            split=dict(train=(), validation=(), test=()),  # lists of patients, instead of a draw
            fold="",  # 0/4: the test split is part 0 of 4 of the strong patients
            weak="erosion",  # a recipe of msl_jax/data/weak_labels.py, or drawn
            weak_background=False,
            weak_radius=3,  # radius of points in pixels
            weak_every=4,  # for slices: full masks on every 4th slice
            spacing=_any("auto"),  # of resampled pixels
            size=_any(256),  # of patches: one side, (y, x), or auto
            foreground=0.33,  # share of patches around a labelled structure
            normalization="percentiles",  # or window, zscore, minmax, auto (msl_jax/data/intensity.py)
            percentiles=(1.0, 99.0),
            window=(-160.0, 240.0),
            batches_ahead=4,  # prefetched batches; more need more memory
            augment=dict(  # strengths, 0 for none (msl_jax/training/augmentation.py)
                flip=True,
                rotation=30.0,
                zoom=0.2,
                elastic=0.0,
                noise=0.1,
                blur=1.0,
                low_resolution=0.5,
                brightness=0.25,
                contrast=0.25,
                gamma=0.5,
            ),
        ),
        method=dict(
            name="kl_ent",
            # The settings below replace the method's values (msl_jax/methods/table.py).
            weak_weight=config_dict.placeholder(float),  # of the cross-entropy with weak labels, in any method
            dice=config_dict.placeholder(float),  # of soft Dice beside each cross-entropy, relative to its weight
            terms={term: config_dict.placeholder(float) for term in TERMS},  # weights
            rampup={term: config_dict.placeholder(int) for term in TERMS},  # steps until the full weight
            kd_on=config_dict.placeholder(str),  # strong, weak or both: images where the student follows the teacher
            w_on=config_dict.placeholder(str),  # strong, weak or both: images whose weak labels train the student
            w_mean=config_dict.placeholder(str),  # labelled, pixels or images: what their cross-entropy averages over
            dice_sums=config_dict.placeholder(str),  # batch or images: what the sums of the Dice loss run over
            mix=config_dict.placeholder(str),  # none, exchange, strong or weak: boxes move between images
            class_weights=config_dict.FieldReference({}, field_type=object),  # structure or background -> weight
            batch_norm=config_dict.placeholder(str),  # together or apart: statistics of strong and weak images
            ema_decay=config_dict.placeholder(float),  # of the averaged network: mean_teacher, ua_mt
            noise=config_dict.placeholder(float),  # standard deviation, on the averaged network's images
            passes=config_dict.placeholder(int),  # of the averaged network, for its uncertainty
            confidence=config_dict.placeholder(float),  # least probability of a guess: unimatch
        ),
        model=dict(
            name="unet",  # or released, by the papers' authors (msl_jax/models/)
            norm="batch",  # or instance: each image by itself, without running statistics
            width=_any(64),
            depth=_any(5),
            dropout=config_dict.placeholder(float),  # at the coarsest level; default: the method's or network's
            dtype="float32",
            deep_supervision=False,  # logits and losses also at all coarser levels but two, as nnU-Net
            remat=False,  # less memory, more time
        ),
        optimizer=dict(
            learning_rate=2e-3,
            warmup_steps=0,
            schedule="cosine",  # or polynomial, as nnU-Net (msl_jax/settings/optimizer.py)
            weight_decay=0.0,  # decoupled, of kernels only
            clip_norm=0.0,  # largest norm of the gradient; 0 for no limit
        ),
        train=dict(
            steps=_any(20_000),
            strong_batch=_any(4),
            weak_batch=_any(4),
            accumulate=1,  # number of parts of the batch, to save memory
            average=0.0,  # decay per step of averaged weights, as 0.999, used in evaluation; 0 for none
            report_every=100,
            checkpoint_every=1_000,
            validate_every=1_000,
            keep=2,
        ),
        eval=dict(
            checkpoint="last",
            postprocess="auto",  # largest component where it raised validation Dice; or none, largest (everywhere)
            batch=8,
            mirror=False,  # average over flips of y, x and both: four times the work
            protocol="native",
        ),
    )
