import runpy
import types

import pytest

from msl_jax import settings
from msl_jax.methods.table import METHODS
from msl_jax.methods.terms import DICE_OF
from msl_jax.settings.objects import method_of
from msl_jax.settings.rules import check_config


@pytest.fixture(params=settings.EXPERIMENTS)
def module(request):
    return types.SimpleNamespace(**runpy.run_path(str(settings.EXPERIMENTS[request.param])))


def test_the_experiments_of_the_readme_exist():
    assert {"acdc", "acdc_cpu", "phantom"} <= set(settings.EXPERIMENTS)


def test_each_has_docstrings(module):
    assert module.__doc__.strip() and module.get_config.__doc__.strip()


def test_each_is_locked_and_valid(module):
    config = module.get_config()
    assert config.is_locked
    check_config(config)
    method_of(config)
    with pytest.raises(AttributeError):
        config.trian = 1


def test_arg_sets_only_its_settings(module):
    config = module.get_config("method=kl,strong=5,seed=3,steps=7,classes=LV+MYO")
    assert config.is_locked
    assert (config.method.name, config.data.strong, config.seed) == ("kl", 5, 3)
    assert (config.train.steps, config.data.classes) == (7, "LV+MYO")
    expected = module.get_config().unlock()
    expected.update_from_flattened_dict(
        {"method.name": "kl", "data.strong": 5, "seed": 3, "train.steps": 7, "data.classes": "LV+MYO"}
    )
    assert config.to_json() == expected.to_json()


def test_each_is_loaded_by_name_and_by_path():
    for name, path in settings.EXPERIMENTS.items():
        configs = [settings.load(name, "seed=3"), settings.load(str(path), "seed=3")]
        assert configs[0].seed == 3 and configs[0].to_json() == configs[1].to_json()


def test_strong_patients_are_listed_with_a_plus(module):
    assert module.get_config("strong=patient001+patient002").data.strong == ["patient001", "patient002"]
    assert module.get_config("strong=patient001").data.strong == ["patient001"]


@pytest.mark.parametrize("method", METHODS)
def test_each_takes_every_method(module, method):
    config = module.get_config(f"method={method}")
    added = {term for term, weight in config.method.terms.items() if weight}
    terms = METHODS[method].terms.keys() | added
    dice = {DICE_OF[term] for term in terms if term in DICE_OF} if config.method.dice else set()
    assert method_of(config).terms.keys() <= terms | dice


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("methods=kl", "'methods=kl'.*method, strong, seed, classes, steps"),
        ("kl", "'kl'.*NAME=VALUE"),
        ("method=", "'method='.*NAME=VALUE"),
        ("method=kl,=3", "'=3'.*NAME=VALUE"),
        ("seed=one", "'seed=one'.*whole number"),
        ("seed=-1", "'seed=-1'.*whole number"),
        ("steps=1.5", "'steps=1.5'.*whole number"),
    ],
)
def test_invalid_args_raise_a_message_of_one_line(module, arg, message):
    with pytest.raises(ValueError, match=message) as error:
        module.get_config(arg)
    assert "\n" not in str(error.value)
