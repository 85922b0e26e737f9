"""`msl-jax COMMAND` and `python -m msl_jax COMMAND`, beside `python -m msl_jax.COMMAND`."""

import os
import pathlib
import pkgutil
import subprocess
import sys
import tomllib

import pytest

from files import one_sentence
import msl_jax
from msl_jax.__main__ import COMMANDS, main
from processes import ROOT


@pytest.fixture
def script(tmp_path):
    """The console script as pip writes it, which also prints when it starts."""
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["msl-jax"]
    module, function = entry.split(":")
    path = tmp_path / "bin" / "msl-jax"
    path.parent.mkdir()
    text = f"#!{sys.executable}\nimport sys\nprint('started', flush=True)\nfrom {module} import {function}\n"
    path.write_text(f"{text}if __name__ == '__main__':\n    sys.exit({function}())\n")
    path.chmod(0o755)
    return str(path)


def run(folder, *command, **environment):
    kept = {k: v for k, v in (os.environ | {"PYTHONPATH": str(ROOT)} | environment).items() if v is not None}
    return subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, timeout=120)


def test_every_command_is_listed():
    runs = "command.run(main)"
    modules = [path.stem for path in pathlib.Path(msl_jax.__file__).parent.glob("*.py") if runs in path.read_text()]
    assert sorted(COMMANDS) == sorted(modules)
    assert set(COMMANDS) <= {module.name for module in pkgutil.iter_modules(msl_jax.__path__)}


@pytest.mark.parametrize("argv", [["--help"], ["help"], [], ["mian", "--config=phantom"]])
def test_the_list_of_commands(monkeypatch, capsys, argv):
    monkeypatch.setattr(sys, "argv", ["msl-jax", *argv])
    wrong = argv not in (["--help"], ["help"])
    assert main() == (2 if wrong else 0)
    captured = capsys.readouterr()
    text, other = (captured.err, captured.out) if wrong else (captured.out, captured.err)
    assert "    predict         Segments image files with one or more trained runs" in text and not other
    assert all(f"\n    {name} " in text for name in COMMANDS)
    assert not wrong or text.startswith("msl_jax: 'mian' is not a command" if argv else "msl_jax: no command given")


def test_the_three_entry_points_are_the_same_and_find_a_plugin_in_the_folder(script, tmp_path):
    (tmp_path / "my_plugin.py").write_text("print('mine', flush=True)\n")
    argv = ["--workdir=nowhere", "--input=x", "--output=y", "--plugins=my_plugin"]
    python, errors = [sys.executable, "-m"], set()
    for way in ([*python, "msl_jax.predict"], [*python, "msl_jax", "predict"], [script, "predict"]):
        done = run(tmp_path, *way, *argv)
        assert done.stdout.split() == (["started", "mine"] if script in way else ["mine"])
        one_sentence(done.returncode, done.stderr, ["nowhere/config.json: is missing"])
        errors.add((done.returncode, done.stderr))
    assert len(errors) == 1


def test_help_lists_the_flags(command, capsys):
    code, err = command("predict", "--help")
    text = capsys.readouterr().out
    assert code == 1 and not err and "--[no]save_probabilities" in text and "--workdir" in text


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are glibc's")
@pytest.mark.parametrize("environment", [{"GLIBC_TUNABLES": None}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_the_script_starts_again_as_it_was_called(script, tmp_path, environment):
    done = run(tmp_path, script, "main", "--config=nowhere.py", "--workdir=läufe", **environment)
    assert done.stdout.split() == ["started", "started"]
    assert done.returncode == 2 and "there is no file nowhere.py" in done.stderr
