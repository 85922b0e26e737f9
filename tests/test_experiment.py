import itertools
import json

from etils import epath
import pytest

from msl_jax.checks import Refused
from msl_jax.experiment import method_of, model_of, open_experiment, preparation_of, read_config
from msl_jax.methods import METHODS, TERMS


@pytest.fixture
def opened(tiny_config):
    """make(arg, **settings) -> the experiment; a setting's dots are written as two underscores."""

    def make(arg=None, **settings):
        config = tiny_config(arg)
        config.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
        return open_experiment(config)

    return make


def names(entries):
    return [entry.name for entry in entries]


# Who is who


def test_a_split_divides_the_patients(opened, phantoms):
    experiment = opened()
    assert [len(experiment.split[role]) for role in ("train", "validation", "test")] == [5, 1, 2]
    assert sorted(itertools.chain(*experiment.split.values())) == sorted(phantoms.groups())
    assert len(experiment.strong) == 3 and set(experiment.strong) < set(experiment.split["train"])


def test_the_split_follows_split_seed_and_the_strong_follow_seed(opened):
    splits = [opened(seed=seed).split for seed in range(4)]
    assert all(split == splits[0] for split in splits)
    assert len({tuple(opened(seed=seed).strong) for seed in range(8)}) > 1
    assert len({json.dumps(opened(data__split_seed=seed).split) for seed in range(4)}) > 1


def test_strong_and_weak_cases_are_apart(opened):
    experiment = opened()
    sets = experiment.training_sets(experiment.method)
    assert list(sets) == ["strong", "weak"]
    strong, weak = ({entry.patient for entry in sets[name]} for name in sets)
    assert strong == set(experiment.strong) and strong | weak == set(experiment.split["train"]) and not strong & weak
    assert len(names(sets["strong"])) == 2 * 3 and len(names(sets["weak"])) == 2 * 2


def test_a_method_without_weak_images_gets_none(opened):
    experiment = opened("method=lower_bound")
    assert list(experiment.training_sets(experiment.method)) == ["strong"]
    assert {entry.patient for entry in experiment.training_sets(experiment.method)["strong"]} == set(experiment.strong)
    assert len(experiment.strong) == 3


@pytest.mark.parametrize("number", [1, 3])
def test_the_upper_bound_has_every_training_patients_mask(opened, number):
    experiment = opened("method=upper_bound", data__strong=number)
    assert experiment.strong == experiment.split["train"]
    entries = experiment.training_sets(experiment.method)["strong"]
    assert {entry.patient for entry in entries} == set(experiment.split["train"])


def test_strong_by_list(opened):
    chosen = opened().split["train"][1:3]
    assert opened("strong=" + "+".join(chosen)).strong == chosen
    assert opened(data__strong=chosen[::-1]).strong == chosen


def test_a_listed_split(opened):
    lists = {"train": ("phantom001", "phantom002"), "validation": ("phantom005",), "test": ("phantom003",)}
    experiment = opened(**{f"data__split__{role}": patients for role, patients in lists.items()}, data__strong=1)
    assert experiment.split == {role: list(patients) for role, patients in lists.items()}
    assert len(experiment.training_sets(experiment.method)["weak"]) == 2


def test_nobody_left_to_be_weak_is_refused(opened):
    with pytest.raises(Refused, match=r"config.data.strong: .*give fewer"):
        opened(data__strong=5)


# What a config becomes


@pytest.mark.parametrize(
    ("asked", "got"),
    [("LV", {"LV": 3}), ("RV+MYO", {"RV": 1, "MYO": 2}), ("LV+RV", {"RV": 1, "LV": 3})],
)
def test_classes_by_name(opened, asked, got):
    config = opened(f"classes={asked}").config
    assert list(config.data.classes.items()) == list(got.items())
    assert preparation_of(config).values == (0, *got.values()) and model_of(config).classes == 1 + len(got)


def test_all_classes(opened, phantoms):
    assert opened("classes=all").config.data.classes.to_dict() == phantoms.labels == {"RV": 1, "MYO": 2, "LV": 3}


def test_an_unknown_class_is_refused(opened):
    with pytest.raises(Refused, match=r"config.data.classes: .*'LW'.*RV, MYO, LV and all"):
        opened("classes=LW")


def test_the_config_holds_what_is_used(opened):
    config = opened("method=kl", method__terms__w=0.25).config
    assert config.method.terms.to_dict() == {term: METHODS["kl"].terms.get(term, 0.0) for term in TERMS} | {"w": 0.25}
    assert config.method.kd_on == METHODS["kl"].kd_on
    assert method_of(config).terms == {**METHODS["kl"].terms, "w": 0.25}


def test_the_network_is_that_of_the_config(opened):
    model = model_of(opened(model__dtype="bfloat16", model__dropout=0.5, model__width=3).config)
    assert (model.width, model.depth, model.classes, model.dropout, str(model.dtype)) == (3, 3, 2, 0.5, "bfloat16")
    assert preparation_of(opened().config).size == (32, 32)


# A run's folder


def test_claim_writes_the_config_and_who_is_who(opened, tmp_path):
    experiment, workdir = opened(), epath.Path(tmp_path) / "deep" / "run"
    experiment.claim(workdir)
    assert sorted(path.name for path in workdir.iterdir()) == ["config.json", "splits.json"]
    assert json.loads((workdir / "config.json").read_text()) == json.loads(experiment.config.to_json())
    roles = json.loads((workdir / "splits.json").read_text())
    assert set(roles) == {"train", "validation", "test", "strong", "weak"}
    assert roles["strong"] == experiment.strong and sorted(roles["strong"] + roles["weak"]) == roles["train"]
    assert {role: roles[role] for role in experiment.split} == experiment.split


def test_what_was_written_opens_the_same_experiment(opened, tmp_path):
    experiment = opened("method=kl,classes=RV+LV")
    experiment.claim(epath.Path(tmp_path))
    config = read_config(epath.Path(tmp_path))
    assert method_of(config) == experiment.method
    assert model_of(config) == model_of(experiment.config)
    assert preparation_of(config) == preparation_of(experiment.config)
    assert list(config.data.classes) == list(experiment.config.data.classes) == ["RV", "LV"]


def test_the_same_run_is_claimed_again(opened, tmp_path):
    workdir = epath.Path(tmp_path)
    opened().claim(workdir)
    before = [(workdir / name).read_bytes() for name in ("config.json", "splits.json")]
    opened().claim(workdir)
    assert before == [(workdir / name).read_bytes() for name in ("config.json", "splits.json")]


def test_another_experiment_is_refused_with_what_differs(opened, tmp_path):
    workdir = epath.Path(tmp_path)
    opened().claim(workdir)
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(Refused) as refusal:
        opened("seed=5", model__width=3, method__terms__ent=0.125).claim(workdir)
    weight = METHODS["kl_ent"].terms["ent"]
    sentence = str(refusal.value)
    for part in ("seed was 0 and is 5", "model.width was 2 and is 3", f"method.terms.ent was {weight} and is 0.125"):
        assert part in sentence
    assert "learning_rate" not in sentence and (workdir / "config.json").read_bytes() == before


def test_how_it_is_evaluated_may_change(opened, tmp_path):
    workdir = epath.Path(tmp_path)
    opened().claim(workdir)
    opened(eval__checkpoint="best").claim(workdir)
    assert read_config(workdir).eval.checkpoint == "best"


def test_other_patients_under_the_same_settings_are_refused(opened, tmp_path):
    workdir = epath.Path(tmp_path)
    opened().claim(workdir)
    roles = json.loads((workdir / "splits.json").read_text())
    roles["test"] = ["somebody else"]
    (workdir / "splits.json").write_text(json.dumps(roles))
    with pytest.raises(Refused, match=r"splits.json names other patients"):
        opened().claim(workdir)


def test_a_file_is_no_workdir(opened, tmp_path):
    path = epath.Path(tmp_path) / "file"
    path.write_text("mine")
    with pytest.raises(Refused, match="is a file"):
        opened().claim(path)
    assert path.read_text() == "mine"


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"config.json: is missing"):
        read_config(epath.Path(tmp_path))
