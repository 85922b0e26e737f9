import copy
import functools
import json
import math

import pytest

from msl_jax.errors import InputError
from msl_jax.experiments.opening import open_experiment
from msl_jax.runs.config import check_resumable
from msl_jax.settings.older import MISSING_DEFAULTS
from msl_jax.settings.rules import check_config, parse_labels

SETTINGS = [
    ("data.size", 0, ["at least 1"]),
    ("data.weak_radius", -1, ["-1", "at least 0"]),
    ("data.weak_every", 0, ["0", "at least 1"]),
    ("data.window", (10.0, 10.0), ["10.0", "two numbers, the smaller one first"]),
    ("data.unlabeled", 256, ["256", "0 to 255"]),
    ("data.patient", "(", ["not a valid regular expression"]),
    ("data.split_sizes", ((5, 1, 0),), ["(5, 1, 0)", "data.fold"]),
    ("model.width", 0, ["at least 1"]),
    ("model.depth", 0, ["at least 1"]),
    ("model.depth", 7, ["data.size", "32", "multiple of 64"]),
    ("model.norm", "group", ["group", "batch or instance"]),
    ("model.deep_supervision", True, ["with model.depth=1 only one level", "give 4 or more"]),
    ("model.dtype", "float16", ["float16", "float32", "bfloat16"]),
    ("model.dropout", 1.0, ["1.0", "below 1"]),
    ("model.dropout", -0.1, ["-0.1"]),
    ("train.steps", 0, ["at least 1"]),
    ("train.strong_batch", 0, ["at least 1"]),
    ("train.weak_batch", -4, ["-4"]),
    ("train.report_every", 0, ["at least 1"]),
    ("train.checkpoint_every", 0, ["at least 1"]),
    ("train.validate_every", 0, ["at least 1"]),
    ("train.validate_every", 3, ["3", "multiple of train.checkpoint_every=2"]),
    ("train.average", 1.0, ["1.0", "below 1"]),
    ("train.keep", 0, ["at least 1"]),
    ("eval.batch", 0, ["at least 1"]),
    ("eval.checkpoint", "newest", ["newest", "last", "best"]),
    ("seed", -1, ["-1", "from 0 to 4294967295"]),
    ("seed", 2**32, ["4294967296", "from 0 to 4294967295"]),
    ("data.split_seed", -1, ["-1", "from 0 to 4294967295"]),
    ("data.percentiles", (99.0, 1.0), ["99.0", "1.0"]),
    ("data.percentiles", (5.0, 101.0), ["101.0", "0 to 100"]),
    ("data.percentiles", ("low", "high"), ["low", "two numbers"]),
    ("data.window", (0.0, math.inf), ["inf", "two numbers"]),
    ("data.source", "", ["empty"]),
    ("data.augment.rotation", math.inf, ["inf", "finite"]),
    ("optimizer.learning_rate", 0.0, ["above 0"]),
    ("optimizer.learning_rate", math.nan, ["nan"]),
    ("optimizer.learning_rate", math.inf, ["inf"]),
    ("optimizer.warmup_steps", 4, ["4", "train.steps"]),
    ("optimizer.warmup_steps", -1, ["-1"]),
    ("optimizer.schedule", "linear", ["linear", "cosine, polynomial"]),
    ("optimizer.weight_decay", -0.1, ["-0.1", "0 turns it off"]),
    ("optimizer.clip_norm", math.nan, ["nan", "0 turns it off"]),
]
NEED_DATA = [
    ("method.name", "kl_entropy", ["kl_entropy", "lower_bound", "kl_ent", "upper_bound"]),
    ("method.kd_on", "all", ["all", "strong", "weak", "both"]),
    ("method.terms.ent", -1.0, ["-1.0"]),
    ("method.terms.kd", math.nan, ["nan"]),
    ("method.terms.s", 0.0, ["above 0"]),
    ("method.class_weights", {"RV": 2.0}, ["'RV'", "background, LV"]),
    ("method.class_weights", "LV=2", ["'LV=2'", "{'LV': 2}"]),
    ("data.layout", "acdcc", ["acdcc", "acdc", "phantom"]),
    ("data.weak", "erosoin", ["erosoin", "erosion", "scribble", "drawn"]),
    ("data.axis", 3, ["3", "0, 1, 2"]),
    ("data.normalization", "median", ["median", "percentiles, window, zscore, minmax"]),
    ("data.labels", "LV:3", ["LV:3", "NAME=VALUE"]),
    ("data.fold", "4/4", ["4/4", "0/4"]),
    ("data.classes", "AORTA", ["AORTA", "RV", "MYO", "LV", "all"]),
    ("data.classes", "LV+", ["''", "LV"]),
    ("data.strong", 0, ["0", "5 training patients"]),
    ("data.strong", 6, ["6", "5 training patients"]),
    ("data.strong", ["nobody"], ["nobody"]),
    ("data.strong", [], ["empty"]),
    ("data.split_sizes", ((5, 1, 1),), ["5+1+1", "8 patients"]),
    ("data.split.test", ("phantom001",), ["empty"]),
]


@pytest.mark.parametrize(("key", "value", "words"), SETTINGS + NEED_DATA, ids=lambda x: str(x) if x else "")
def test_an_invalid_setting_raises_with_its_name(tiny_config, key, value, words):
    config = tiny_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError) as error:
        (check_config if (key, value, words) in SETTINGS else open_experiment)(config)
    message = str(error.value)
    group = key.rpartition(".")[0] if key.startswith("data.split.") else key
    assert f"config.{group}" in message or "data.size" in words
    assert all(word in message for word in words), message
    assert "\n" not in message and message.endswith(".")


def test_the_tiny_config_and_limits_are_valid(tiny_config):
    config = tiny_config()
    check_config(config)
    config.data.percentiles, config.optimizer.warmup_steps, config.model.dropout = (0.0, 100.0), 3, 0.99
    config.eval.checkpoint, config.model.dtype, config.data.size = "best", "bfloat16", 4
    check_config(config)


BEFORE = {"seed": 0, "data": {"source": "a", "size": 32}, "train": {"keep": 2, "steps": 4}, "eval": {"batch": 8}}


def test_a_run_resumes_with_equal_settings():
    check_resumable(BEFORE, BEFORE, "RUN")


def test_the_data_folder_the_kept_checkpoints_and_the_evaluation_may_change():
    now = BEFORE | {"data": {"source": "b", "size": 32}, "train": {"keep": 5, "steps": 4}, "eval": {"batch": 1}}
    check_resumable(BEFORE, now, "RUN")


def is_trained(key):
    """Whether an older run's value differs from today's default, which the run then has to be resumed with."""
    return key.startswith(("data.augment.", "data.foreground", "data.spacing"))


def test_a_run_older_than_a_setting_resumes_with_the_default(tiny_config):
    config = tiny_config()
    config.update_from_flattened_dict({key: MISSING_DEFAULTS[key] for key in MISSING_DEFAULTS if is_trained(key)})
    now = json.loads(open_experiment(config).config.to_json())
    before = copy.deepcopy(now)
    for key in MISSING_DEFAULTS:
        *groups, name = key.split(".")
        del functools.reduce(dict.get, groups, before)[name]
    del before["method"]["terms"]["dice"], before["method"]["rampup"]["dice"]
    check_resumable(before, now, "RUN")
    now["method"]["terms"]["dice"] = 1.0
    with pytest.raises(InputError, match=r"\(method.terms.dice was 0.0 and is 1.0\)"):
        check_resumable(before, now, "RUN")


def test_other_changes_raise_with_old_and_new_values():
    now = BEFORE | {"seed": 7, "data": {"source": "a", "size": 64}, "extra": {"new": "x"}}
    with pytest.raises(InputError) as error:
        check_resumable(BEFORE, now, "RUN")
    message = str(error.value)
    assert message.startswith("RUN: ") and "\n" not in message
    for part in ("seed was 0 and is 7", "data.size was 32 and is 64", 'extra.new was None and is "x"'):
        assert part in message
    assert "source was" not in message and "steps was" not in message


def test_labels_may_contain_spaces_and_need_distinct_values():
    assert parse_labels("left ventricle = 3, MYO=2", "--labels") == {"left ventricle": 3, "MYO": 2}
    with pytest.raises(InputError, match="--labels: LV=3,MYO=3 gives two structures the same value"):
        parse_labels("LV=3,MYO=3", "--labels")


def test_settings_that_the_network_lacks_and_statistics_that_instance_norm_lacks(tiny_config):
    config = tiny_config()
    config.model.norm, config.method.batch_norm = "instance", "apart"
    with pytest.raises(InputError, match=r"^config.method.batch_norm: does not apply to model.norm=instance; leave"):
        check_config(config)
    config.model.name, config.model.depth, config.data.size, config.method.batch_norm = "released", 2, 64, None
    with pytest.raises(InputError, match=r"^config.model.norm: is instance; with model.name=released give batch"):
        check_config(config)
    config.model.norm, config.model.deep_supervision = "batch", True
    with pytest.raises(InputError, match=r"^config.model.deep_supervision: is True; model.name=released has logits of"):
        check_config(config)
