import dataclasses
import itertools
import json

from etils import epath
import pytest

from msl_jax.data import builder
from msl_jax.errors import InputError
from msl_jax.methods.table import METHODS
from msl_jax.methods.terms import TERMS
from msl_jax.runs import lock
from msl_jax.runs.config import claim, read_config
from msl_jax.settings.objects import method_of, model_of, preparation_of


def names(entries):
    return [entry.name for entry in entries]


@pytest.fixture
def half_masked(monkeypatch, phantoms):
    """A data set whose last three patients have no mask."""
    patients = sorted(phantoms.groups())
    entries = [
        dataclasses.replace(e, masked=e.patient < patients[5], full=e.patient < patients[5]) for e in phantoms.entries
    ]
    data = dataclasses.replace(phantoms, entries=tuple(entries))
    monkeypatch.setattr(builder, "build", lambda source, cache: data)
    return patients


@pytest.fixture
def table(tmp_path):
    def write(*rows):
        (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
        return str(tmp_path / "table.csv")

    return write


# Roles


def test_roles_from_a_table(opened, table):
    path = table(
        "patient,role,weak",
        "phantom001,strong,",
        "phantom002,weak,point",
        "phantom003,weak,",
        "phantom004,validation,",
        "phantom006,test,",
    )
    experiment = opened(data__table=path)
    assert experiment.split == {
        "train": ["phantom001", "phantom002", "phantom003"],
        "validation": ["phantom004"],
        "test": ["phantom006"],
    }
    assert experiment.strong == ["phantom001"] and experiment.weak() == ["phantom002", "phantom003"]
    weak_labels = experiment.annotator()
    assert [weak_labels.recipe_of(patient) for patient in experiment.split["train"]] == ["erosion", "point", "erosion"]


def test_roles_in_a_table_and_the_config_raise(opened, table):
    path = table("patient,role", "phantom001,strong", "phantom002,weak", "phantom006,test")
    lists = {"data__split__train": ("phantom001",), "data__split__test": ("phantom003",)}
    with pytest.raises(InputError, match=r"config\.data\.split: lists patients, and so does .*table\.csv"):
        opened(data__table=path, **lists)


def test_a_run_does_not_resume_with_other_weak_labels(opened, table, tmp_path):
    rows = ["phantom001,strong,", "phantom002,weak,{}", "phantom006,test,"]

    def experiment(recipe):
        return opened(data__table=table("patient,role,weak", *(row.format(recipe) for row in rows)))

    workdir = epath.Path(tmp_path / "run")
    claim(experiment("point"), workdir)
    assert json.loads((workdir / "splits.json").read_text())["recipes"] == {"phantom002": "point"}
    claim(experiment("point"), workdir)
    with pytest.raises(InputError, match=r"splits\.json names other patients or weak labels"):
        claim(experiment("box"), workdir)


def test_strong_patients_of_a_table_may_depend_on_the_seed(opened, table):
    roles = ["train"] * 5 + ["validation", "test"]
    path = table("patient,role", *(f"phantom{i:03d},{role}" for i, role in enumerate(roles, start=1)))
    experiments = [opened(data__table=path, data__strong=2, seed=seed) for seed in range(4)]
    assert all(one.split["train"] == [f"phantom{i:03d}" for i in range(1, 6)] for one in experiments)
    assert {len(one.strong) for one in experiments} == {2} and len({tuple(one.strong) for one in experiments}) > 1


def test_the_split_is_stratified_by_the_groups_of_a_table(opened, table, phantoms):
    """Two of eight patients are a separate group: one of the four test patients is from it."""
    path = table("patient,group", *(f"{p},{'few' if p > 'phantom006' else 'many'}" for p in phantoms.groups()))
    settings = {"data__split_sizes": ((None, 0, 4),), "data__strong": 1}
    for seed in range(4):
        test = opened(data__table=path, data__split_seed=seed, **settings).split["test"]
        assert len({"phantom007", "phantom008"} & set(test)) == 1


def test_patients_without_masks_are_weak(opened, half_masked):
    experiment = opened(data__split_sizes=((None, 1, 2),), data__strong="all", data__weak="drawn")
    assert set(half_masked[5:]) == set(experiment.weak()) and len(experiment.strong) == 2
    assert opened(data__split_sizes=((None, 0, 1),), data__strong=2, data__weak="none").split["validation"] == []


def test_patients_with_partial_masks_are_strong_only_if_listed(opened, monkeypatch, phantoms, table):
    """A scribble stored as a mask is not a full mask."""
    patients = sorted(phantoms.groups())
    entries = [dataclasses.replace(e, full=e.patient < patients[5]) for e in phantoms.entries]
    data = dataclasses.replace(phantoms, entries=tuple(entries))
    monkeypatch.setattr(builder, "build", lambda source, cache: data)
    settings = {"data__weak": "drawn", "data__split_sizes": ((None, 1, 1),)}
    for seed in range(3):
        experiment = opened(data__strong="all", data__split_seed=seed, **settings)
        assert len(experiment.strong) == 3 and set(patients[5:]) == set(experiment.weak())
    with pytest.raises(InputError, match=r"config.data.strong: is 4; 3 training patients have full masks"):
        opened(data__strong=4, **settings)
    path = table("patient,role", f"{patients[7]},strong", f"{patients[0]},weak", f"{patients[1]},test")
    assert opened(data__table=path).strong == [patients[7]]


def test_missing_masks_raise(opened, half_masked, table):
    with pytest.raises(InputError, match=r"phantom00[678]: has no mask, which config.data.weak=erosion needs"):
        opened(data__split_sizes=((None, 1, 2),), data__strong="all")
    with pytest.raises(InputError, match="phantom008: is a test patient, but has no mask"):
        opened(data__table=table("patient,role", "phantom001,strong", "phantom008,test", "phantom002,weak"))
    with pytest.raises(InputError, match=r"config.data.strong: is 3; 2 training patients have full masks"):
        opened(data__split_sizes=((None, 1, 2),), data__strong=3, data__weak="drawn")


def test_the_best_checkpoint_needs_validation_cases(opened):
    with pytest.raises(InputError, match=r"config.eval.checkpoint: is best, but no validation case"):
        opened(data__split_sizes=((None, 0, 2),), eval__checkpoint="best")


def test_folds_hold_out_every_strong_patient_once(opened):
    settings = {"data__split_sizes": ((None, 0, 0),), "data__strong": 4}
    folds = [opened(data__fold=f"{index}/2", **settings) for index in range(2)]
    assert not set(folds[0].strong) & set(folds[1].strong) and [len(fold.strong) for fold in folds] == [2, 2]
    assert folds[0].split["test"] == folds[1].strong and folds[1].split["test"] == folds[0].strong
    with pytest.raises(InputError, match=r"config.data.split_sizes: .*test may be 0 only with data.fold"):
        opened(**settings)


def test_all_folds_score_the_same_structures(opened, phantoms, monkeypatch):
    """Even those that no test case of a fold has: its cases count like the others when folds are pooled."""
    settings = {"arg": "classes=LV+MYO", "data__strong": 4}
    lacking = opened(data__fold="0/2", **settings).split["test"]
    entries = [dataclasses.replace(e, values=(0, 3)) if e.patient in lacking else e for e in phantoms.entries]
    data = dataclasses.replace(phantoms, entries=tuple(entries))
    monkeypatch.setattr(builder, "build", lambda source, cache: data)
    folds = [opened(data__fold=f"{index}/2", **settings) for index in range(2)]
    assert folds[0].split["test"] == lacking and "MYO" not in folds[0].structures(lacking)
    assert [set(fold.scored()) for fold in folds] == [{"LV", "MYO"}] * 2


def test_a_split_partitions_the_patients(opened, phantoms):
    experiment = opened()
    assert [len(experiment.split[role]) for role in ("train", "validation", "test")] == [5, 1, 2]
    assert sorted(itertools.chain(*experiment.split.values())) == sorted(phantoms.groups())
    assert len(experiment.strong) == 3 and set(experiment.strong) < set(experiment.split["train"])


def test_the_split_depends_on_split_seed_and_the_strong_patients_on_seed(opened):
    splits = [opened(seed=seed).split for seed in range(4)]
    assert all(split == splits[0] for split in splits)
    assert len({tuple(opened(seed=seed).strong) for seed in range(8)}) > 1
    assert len({json.dumps(opened(data__split_seed=seed).split) for seed in range(4)}) > 1


def test_strong_and_weak_cases_are_disjoint(opened):
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
def test_the_upper_bound_uses_every_training_patients_mask(opened, number):
    experiment = opened("method=upper_bound", data__strong=number)
    assert experiment.strong == experiment.split["train"]
    entries = experiment.training_sets(experiment.method)["strong"]
    assert {entry.patient for entry in entries} == set(experiment.split["train"])


def test_strong_by_list(opened):
    patients = opened().split["train"][1:3]
    assert opened("strong=" + "+".join(patients)).strong == patients
    assert opened(data__strong=patients[::-1]).strong == patients


def test_a_listed_split(opened):
    lists = {"train": ("phantom001", "phantom002"), "validation": ("phantom005",), "test": ("phantom003",)}
    experiment = opened(**{f"data__split__{role}": patients for role, patients in lists.items()}, data__strong=1)
    assert experiment.split == {role: list(patients) for role, patients in lists.items()}
    assert len(experiment.training_sets(experiment.method)["weak"]) == 2


def test_an_empty_weak_set_raises(opened):
    with pytest.raises(InputError, match=r"config.data.strong: .*give fewer"):
        opened(data__strong=5)


# Filled-in configs


@pytest.mark.parametrize(
    ("classes", "expected"),
    [("LV", {"LV": 3}), ("RV+MYO", {"RV": 1, "MYO": 2}), ("LV+RV", {"RV": 1, "LV": 3})],
)
def test_classes_by_name(opened, classes, expected):
    config = opened(f"classes={classes}").config
    assert list(config.data.classes.items()) == list(expected.items())
    assert preparation_of(config).values == (0, *expected.values()) and model_of(config).classes == 1 + len(expected)


def test_all_classes(opened, phantoms):
    assert opened("classes=all").config.data.classes.to_dict() == phantoms.labels == {"RV": 1, "MYO": 2, "LV": 3}


def test_a_class_may_have_a_plus_in_its_name(opened, phantoms, monkeypatch):
    data = dataclasses.replace(phantoms, labels={"RV": 1, "MYO+LV": 2, "LV": 3})
    monkeypatch.setattr(builder, "build", lambda source, cache: data)
    assert opened("classes=MYO+LV").config.data.classes.to_dict() == {"MYO+LV": 2}


def test_an_unknown_class_raises(opened):
    with pytest.raises(InputError, match=r"config.data.classes: .*'LW'.*RV, MYO, LV, or all"):
        opened("classes=LW")


def test_the_config_has_the_used_values(opened):
    config = opened("method=kl", method__terms__w=0.25).config
    assert config.method.terms.to_dict() == {term: METHODS["kl"].terms.get(term, 0.0) for term in TERMS} | {"w": 0.25}
    assert config.method.kd_on == METHODS["kl"].kd_on
    assert method_of(config).terms == {**METHODS["kl"].terms, "w": 0.25}


def test_class_weights_are_in_the_order_of_the_classes(opened, tmp_path):
    assert opened().config.method.class_weights.to_dict() == {}
    experiment = opened("classes=LV+RV", method__class_weights={"LV": 3, "background": 0.5})
    claim(experiment, epath.Path(tmp_path))
    for config in (experiment.config, read_config(epath.Path(tmp_path))):
        assert list(config.method.class_weights.items()) == [("background", 0.5), ("RV", 1.0), ("LV", 3.0)]
        assert list(config.data.classes) == ["RV", "LV"]
    with pytest.raises(InputError, match=r"method.class_weights.LV was 3.0 and is 2.0"):
        claim(opened("classes=LV+RV", method__class_weights={"LV": 2, "background": 0.5}), epath.Path(tmp_path))


def test_the_network_follows_the_config(opened):
    model = model_of(opened(model__dtype="bfloat16", model__dropout=0.5, model__width=3).config)
    assert (model.width, model.depth, model.classes, model.dropout, str(model.dtype)) == (3, 1, 2, 0.5, "bfloat16")
    assert preparation_of(opened().config).size == (32, 32)


# A run's folder


def test_claim_writes_the_config_and_the_roles(opened, tmp_path):
    experiment, workdir = opened(), epath.Path(tmp_path) / "deep" / "run"
    claim(experiment, workdir)
    assert sorted(path.name for path in workdir.iterdir()) == ["config.json", "splits.json"]
    assert json.loads((workdir / "config.json").read_text()) == json.loads(experiment.config.to_json())
    roles = json.loads((workdir / "splits.json").read_text())
    assert set(roles) == {"train", "validation", "test", "strong", "weak"}
    assert roles["strong"] == experiment.strong and sorted(roles["strong"] + roles["weak"]) == roles["train"]
    assert {role: roles[role] for role in experiment.split} == experiment.split


def test_a_written_config_describes_the_same_experiment(opened, tmp_path):
    experiment = opened("method=kl,classes=RV+LV")
    claim(experiment, epath.Path(tmp_path))
    config = read_config(epath.Path(tmp_path))
    assert method_of(config) == experiment.method
    assert model_of(config) == model_of(experiment.config)
    assert preparation_of(config) == preparation_of(experiment.config)
    assert list(config.data.classes) == list(experiment.config.data.classes) == ["RV", "LV"]


def test_the_same_run_can_be_claimed_again(opened, tmp_path):
    workdir = epath.Path(tmp_path)
    claim(opened(), workdir)
    before = [(workdir / name).read_bytes() for name in ("config.json", "splits.json")]
    claim(opened(), workdir)
    assert before == [(workdir / name).read_bytes() for name in ("config.json", "splits.json")]


def test_another_experiment_raises_with_the_differences(opened, tmp_path):
    workdir = epath.Path(tmp_path)
    claim(opened(), workdir)
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(InputError) as error:
        claim(opened("seed=5", model__width=3, method__terms__ent=0.125), workdir)
    weight = METHODS["kl_ent"].terms["ent"]
    message = str(error.value)
    for part in ("seed was 0 and is 5", "model.width was 2 and is 3", f"method.terms.ent was {weight} and is 0.125"):
        assert part in message
    assert "learning_rate" not in message and (workdir / "config.json").read_bytes() == before


def test_evaluation_settings_may_change(opened, tmp_path):
    workdir = epath.Path(tmp_path)
    claim(opened(), workdir)
    claim(opened(eval__checkpoint="best"), workdir)
    assert read_config(workdir).eval.checkpoint == "best"


def test_other_patients_with_the_same_settings_raise(opened, tmp_path):
    workdir = epath.Path(tmp_path)
    claim(opened(), workdir)
    roles = json.loads((workdir / "splits.json").read_text())
    roles["test"] = ["somebody else"]
    (workdir / "splits.json").write_text(json.dumps(roles))
    with pytest.raises(InputError, match=r"splits.json names other patients"):
        claim(opened(), workdir)


@pytest.mark.parametrize("name", ["config.json", "splits.json"])
def test_a_damaged_run_does_not_resume(opened, tmp_path, name):
    workdir = epath.Path(tmp_path)
    claim(opened(), workdir)
    (workdir / name).write_text((workdir / name).read_text()[:40])
    with pytest.raises(InputError, match=f"{name}: is damaged or not from a run; give another workdir"):
        claim(opened(), workdir)


def test_a_file_as_workdir_raises(opened, tmp_path):
    path = epath.Path(tmp_path) / "file"
    path.write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        with lock.held(path):
            pass
    assert path.read_text() == "mine"


def test_a_folder_without_a_run_raises(tmp_path):
    with pytest.raises(InputError, match=r"config.json: is missing"):
        read_config(epath.Path(tmp_path))
