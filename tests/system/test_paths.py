"""Paths from users."""

import pytest

from files import assert_input_error
from msl_jax.system.paths import check_name, expanded, split
from processes import forget_home


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home folder, also the current folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", ["runs/a", "/a/~b", "a~", "gs://bucket/run", "", "lr=0.1"])
def test_most_paths_are_unchanged(path):
    assert expanded(path) == path


def test_a_tilde_expands_to_the_home_folder(home):
    assert expanded("~/runs") == f"{home}/runs" and expanded("~") == str(home)


def test_an_unknown_user_raises_unless_a_file_has_that_name(home, monkeypatch):
    assert_input_error(
        lambda: expanded("~nobody1/run"), "no home folder ~nobody1 .*; write the path without ~", "~nobody1/run"
    )
    (home / "~nobody1").mkdir()
    assert expanded("~nobody1") == "~nobody1"
    forget_home(monkeypatch)
    assert_input_error(
        lambda: expanded("~/run", "give a cache"), "no home folder ~ on this system; give a cache", "~/run"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("a, b", ["a", "b"]),
        ("x,y", ["x,y"]),
        ("x,y,a", ["x,y", "a"]),
        ("a,x,y,b", ["a", "x,y", "b"]),
        ("x,a", ["x", "a"]),
        ("~/x,y,b", ["HOME/x,y", "b"]),
        ("~/a,~/b", ["HOME/a", "HOME/b"]),
        ("lr=0.1,x,y", ["lr=0.1", "x,y"]),
        ("gs://b/x,gs://b/y", ["gs://b/x", "gs://b/y"]),
    ],
)
def test_a_list_is_split_at_commas_except_inside_names(home, text, expected):
    (home / "x,y").mkdir()
    assert split(text) == [path.replace("HOME", str(home)) for path in expected]


@pytest.mark.parametrize("name", ["lr=0.1", "a,b", "a[", "[]", "a@2*", "{a}", "ö ~"])
def test_most_names_are_allowed_for_runs(home, name):
    check_name(home / name)


@pytest.mark.parametrize("name", ["try[1]", "a\\b", "above[x]/run"])
def test_glob_patterns_are_not_allowed_for_runs(home, name):
    assert_input_error(
        lambda: check_name(home / name), "checkpoints cannot be read there; give another workdir", home / name
    )
