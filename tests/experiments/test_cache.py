"""The folder for built data sets, and errors if it is not writable."""

import errno
import os

import pytest

from msl_jax.data import builder
from msl_jax.errors import InputError
from msl_jax.training import batches
from processes import forget_home


def os_error(number, path=None):
    """The operating system's error."""
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (os_error(errno.EACCES, "HERE/cache/msl_slices/x"), "HERE/cache/msl_slices/x: Permission denied; "),
        (os_error(errno.EACCES, "HERE"), "HERE: Permission denied; "),
        (os_error(errno.ENOTDIR, "HERE/cache/downloads"), "HERE/cache/downloads: Not a directory; "),
        (os_error(errno.EROFS, "HERE/cache"), "HERE/cache: Read-only file system; "),
        (os_error(errno.ENOSPC), "HERE/cache: No space left on device; "),
        (RuntimeError("write() failed: No space left;\n writing HERE/cache/x"), "HERE/cache: write() failed: No space"),
    ],
)
def test_write_errors_name_the_setting_of_the_cache(opened, tmp_path, monkeypatch, error, message):
    def fail(source, cache):
        raise type(error)(*(arg.replace("HERE", str(tmp_path)) if isinstance(arg, str) else arg for arg in args))

    args = (*error.args, error.filename) if isinstance(error, OSError) else error.args
    monkeypatch.setattr(builder, "build", fail)
    with pytest.raises(InputError) as raised:
        opened(data__cache=f"{tmp_path}/cache")
    assert str(raised.value).startswith(message.replace("HERE", str(tmp_path)))
    assert str(raised.value).endswith("; give a writable folder with --config.data.cache=FOLDER.")


@pytest.mark.parametrize(
    "error", [os_error(errno.EACCES, "/data/masks"), os_error(errno.ENOENT, "/data"), RuntimeError("a bug")]
)
def test_other_errors_do_not_blame_the_cache(opened, tmp_path, monkeypatch, error):
    def fail(source, cache):
        raise error

    monkeypatch.setattr(builder, "build", fail)
    with pytest.raises(type(error)) as raised:
        opened(data__cache=f"{tmp_path}/cache")
    assert raised.value is error


def test_a_full_disk_while_cases_are_made_ready_names_the_setting_of_the_cache(opened, monkeypatch):
    def full(*args):
        raise os_error(errno.ENOSPC)

    experiment = opened(data__foreground=0.1)
    monkeypatch.setattr(batches, "make_ready", full)
    with pytest.raises(InputError, match=r"ready: No space left on device; give .* --config.data.cache=FOLDER\.$"):
        batches.streams(experiment, experiment.method)


def test_the_default_cache_is_in_the_home_folder(opened, phantoms, tmp_path, monkeypatch):
    caches = []
    monkeypatch.setattr(builder, "build", lambda source, cache: caches.append(cache) or phantoms)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TFDS_DATA_DIR", "")
    monkeypatch.chdir(tmp_path)
    opened(data__cache=None)
    opened(data__cache="~/here")
    opened(data__cache="here")
    opened(data__cache="gs://bucket/here")
    monkeypatch.setenv("TFDS_DATA_DIR", "/there")
    opened(data__cache=None)
    home = tmp_path / "home"
    expected = [f"{home}/tensorflow_datasets", f"{home}/here", f"{tmp_path}/here", "gs://bucket/here", "/there"]
    assert caches == expected


def test_without_a_home_folder_the_cache_must_be_set(opened, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    forget_home(monkeypatch)
    with pytest.raises(
        InputError, match=r"there is no home folder ~ on this system; give .* --config.data.cache=FOLDER"
    ):
        opened(data__cache=None)
