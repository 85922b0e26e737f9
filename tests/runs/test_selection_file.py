"""A run's selection.json: read as written, ignored where it does not apply, one sentence where it is damaged."""

import dataclasses
import json

from etils import epath
import pytest

from msl_jax.errors import InputError
from msl_jax.runs import selection
from msl_jax.runs.config import read_config


@pytest.fixture
def config(untrained):
    return read_config(untrained("method=kl_ent"))


@pytest.fixture
def written(config, tmp_path):
    """A selection of the teacher, in the folder of the test."""
    chosen = dataclasses.replace(
        selection.undecided(config, 4),
        branch="teacher",
        validation_dice={"teacher": 0.789, "student": 0.602},
        largest_component={"teacher": ("LV",), "student": ()},
        temperature={"teacher": 1.25, "student": 0.75},
    )
    selection.write(chosen, epath.Path(tmp_path))
    return chosen


def test_it_is_read_as_written(written, config, tmp_path):
    assert selection.read(tmp_path, config) == written
    assert [path.name for path in tmp_path.iterdir()] == [selection.FILE]
    assert str(written) == "predicts with the teacher (validation Dice: teacher 78.9 %, student 60.2 %)"


def test_a_run_without_the_file_predicts_with_the_student(config, tmp_path):
    found = selection.read(tmp_path, config)
    assert found.branch == "student" and found.largest_component == {"teacher": (), "student": ()}
    assert str(found) == "predicts with the student (not chosen by validation)"


def test_a_file_of_an_older_version_has_no_temperature(written, config, tmp_path):
    path = tmp_path / selection.FILE
    content = json.loads(path.read_text())
    del content["temperature"]
    path.write_text(json.dumps(content))
    assert selection.read(tmp_path, config) == dataclasses.replace(written, temperature={})


def test_temperatures_do_not_apply_to_the_mean_of_mirrored_copies(written, config, tmp_path):
    config.eval.mirror = True
    assert selection.read(tmp_path, config) == dataclasses.replace(written, temperature={}, mirror=True)


@pytest.mark.parametrize(("key", "value"), [("checkpoint", "best"), ("postprocess", "none")])
def test_a_decision_for_other_settings_does_not_apply(written, config, tmp_path, key, value):
    config.eval[key] = value
    assert selection.read(tmp_path, config) == selection.undecided(config)


def changed(**fields):
    return lambda content: {**content, **fields}


@pytest.mark.parametrize(
    "change",
    [
        list,
        changed(branch="both"),
        changed(validation_dice={"teacher": "good"}),
        changed(validation_dice=None),
        changed(largest_component={"teacher": [], "student": ["KIDNEY"]}),
        changed(largest_component={"teacher": []}),
        changed(largest_component={"teacher": 3, "student": []}),
        changed(temperature={"teacher": 0}),
        changed(temperature={"mean": 1.0}),
        changed(seed=0),
        lambda content: {key: value for key, value in content.items() if key != "step"},
    ],
)
def test_a_damaged_file_is_an_error_of_one_sentence(written, config, tmp_path, change):
    path = tmp_path / selection.FILE
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=r"selection\.json: is damaged; rerun the training command.*student\.$"):
        selection.read(tmp_path, config)
    path.write_bytes(path.read_bytes()[:20] + b"\xff")
    with pytest.raises(InputError, match=r"selection\.json: is damaged"):
        selection.read(tmp_path, config)
