"""Every setting with its default."""

from ml_collections import ConfigDict, config_dict

from msl_jax.methods.terms import TERMS


def defaults() -> ConfigDict:
    """Every setting, with the value it has in the papers' experiment unless a config or a flag gives another."""
    return config_dict.create(
        # Weights, batches, and which patients are strong.
        seed=0,
        init_from=config_dict.placeholder(str),  # folder of a run whose last weights a new one starts from
        data=dict(
            layout="acdc",
            source="data/acdc",
            cache=config_dict.placeholder(str),  # TFDS's own folder
            labels="",  # LV=3,MYO=2: names and values, for layouts whose files do not say
            unlabeled=255,  # the value of a pixel nobody annotated, for the same
            patient="",  # a regular expression that finds the patient in a case's name, for the same
            axis=2,  # of the files' x, y, z, across which slices are cut
            classes="LV",  # names joined by "+", or all
            table="",  # a CSV of roles, groups and weak labels by patient, in place of a draw (data/patient_table.py)
            strong=config_dict.FieldReference(3, field_type=object),  # a number, a list of patients, or all
            split_seed=0,
            split_sizes=((75, 5, 20), (55, 10, 15)),  # train, validation, test: the row that adds up to the patients
            split=dict(train=(), validation=(), test=()),  # lists of patients, in place of a draw
            fold="",  # 0/4: part 0 of 4 of the strong patients is the test split instead
            weak="erosion",  # a recipe of msl_jax/data/weak_labels.py, or drawn
            weak_background=False,
            weak_radius=3,  # pixels, of points
            weak_every=4,  # for slices: whole masks on every 4th
            size=256,
            normalization="percentiles",  # or window, zscore, minmax (msl_jax/data/intensity.py)
            percentiles=(1.0, 99.0),
            window=(-160.0, 240.0),
            batches_ahead=4,  # made ready while a step runs: bounds the memory
            augment=dict(flip=True, rotation=30.0, zoom=0.2, gamma=0.3, contrast=0.2),
        ),
        method=dict(
            name="kl_ent",
            # What is given below takes the place of the method's own (msl_jax/methods/table.py).
            weak_weight=config_dict.placeholder(float),  # of the cross-entropy with weak labels, of any method with one
            terms={term: config_dict.placeholder(float) for term in TERMS},  # weights
            rampup={term: config_dict.placeholder(int) for term in TERMS},  # steps until a weight is reached
            kd_on=config_dict.placeholder(str),  # strong, weak or both: where the student follows the teacher
            w_on=config_dict.placeholder(str),  # strong, weak or both: whose weak labels the student learns
            w_mean=config_dict.placeholder(str),  # labelled, pixels or images: what their cross-entropy is a mean over
            class_weights=config_dict.FieldReference({}, field_type=object),  # structure, background -> weight, else 1
            batch_norm=config_dict.placeholder(str),  # together or apart: statistics of strong and weak images
            ema_decay=config_dict.placeholder(float),  # of the averaged network: mean_teacher, ua_mt
            noise=config_dict.placeholder(float),  # on the images it sees
            passes=config_dict.placeholder(int),  # for its uncertainty
        ),
        model=dict(
            name="unet",  # or released, the papers' authors' own (msl_jax/models/)
            width=64,
            depth=5,
            dropout=config_dict.placeholder(float),  # at the coarsest level, in place of the method's or network's own
            dtype="float32",
            remat=False,  # less memory, more time
        ),
        optimizer=dict(learning_rate=2e-3, warmup_steps=0),
        train=dict(
            steps=20_000,
            strong_batch=4,
            weak_batch=4,
            accumulate=1,  # parts the batch is taken in, one after the other, where it does not fit at once
            report_every=100,
            checkpoint_every=1_000,
            validate_every=1_000,
            keep=2,
        ),
        eval=dict(checkpoint="last", batch=8, protocol="native"),
    )
