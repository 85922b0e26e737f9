"""Every setting with its default, the parser of ARG, and the experiments that come with the package.

An experiment is a Python file whose get_config(arg) takes `defaults`, sets what differs, and returns `apply` of both.
"""

import pathlib
import runpy

from ml_collections import ConfigDict, config_dict

from msl_jax.methods import TERMS

ARGUMENTS = {
    "method": "method.name",
    "strong": "data.strong",
    "seed": "seed",
    "classes": "data.classes",
    "steps": "train.steps",
}
"""Short name in ARG -> key of the config. Lists are joined by "+": strong=patient001+patient002."""
PACKAGE = pathlib.Path(__file__).parent
FOLDER = next((folder for folder in [PACKAGE / "configs"] if folder.is_dir()), PACKAGE.parent / "configs")
"""The experiments: inside the package where a wheel was installed, beside it in a checkout."""
EXPERIMENTS = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
"""Name in --config=NAME -> the file."""


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
            table="",  # a CSV of roles, groups and weak labels by patient, in place of a draw (msl_jax/data/table.py)
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
            # What is given below takes the place of the method's own (msl_jax/methods.py).
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


def load(name: str, arg: str | None = None) -> ConfigDict:
    """The locked config of an experiment that comes with the package, or of a file; the file's code runs.

    >>> load("phantom", "method=kl,steps=100").train.steps
    100

    Args:
      name: a name in EXPERIMENTS, or the path of a Python file.
      arg: what `apply` is to set.

    Raises:
      FileNotFoundError: there is no such experiment or file.
      ValueError: `arg` is wrong.
    """
    path = EXPERIMENTS.get(name, name)
    return runpy.run_path(str(path))["get_config"](*([arg] if arg else []))


def apply(config: ConfigDict, arg: str | None) -> ConfigDict:
    """Sets what `arg`, like "method=kl_ent,strong=3,seed=0", asks for, and locks the config.

    >>> config = apply(ConfigDict({"train": {"steps": 2000}, "data": {"strong": 3}}), "steps=100,strong=5")
    >>> config.train.steps, config.data.strong
    (100, 5)

    Raises:
      ValueError: a name is unknown or a number is needed.
    """
    for pair in filter(None, (arg or "").split(",")):
        name, _, value = pair.partition("=")
        if name not in ARGUMENTS or not value:
            raise ValueError(f"'{pair}' in the config's ARG is not NAME=VALUE with one of {', '.join(ARGUMENTS)}.")
        config.update_from_flattened_dict({ARGUMENTS[name]: _parse(name, value)})
    return config.lock()


def _parse(name: str, value: str) -> int | str | list[str]:
    if value.isdecimal():
        return int(value)
    if name == "strong" and value != "all":
        return value.split("+")
    if name in ("seed", "steps"):
        raise ValueError(f"'{name}={value}' in the config's ARG: a whole number is needed.")
    return value
