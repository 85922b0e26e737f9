"""Where the data set is built, and what is said where it cannot be."""

import errno
import os

import pytest

from msl_jax.data import builder
from msl_jax.errors import InputError
from processes import forget_home


def system(number, path=None):
    """What the system says."""
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (system(errno.EACCES, "HERE/cache/msl_slices/x"), "HERE/cache/msl_slices/x: Permission denied; "),
        (system(errno.EACCES, "HERE"), "HERE: Permission denied; "),
        (system(errno.ENOTDIR, "HERE/cache/downloads"), "HERE/cache/downloads: Not a directory; "),
        (system(errno.EROFS, "HERE/cache"), "HERE/cache: Read-only file system; "),
        (system(errno.ENOSPC), "HERE/cache: No space left on device; "),
        (RuntimeError("write() failed: No space left;\n writing HERE/cache/x"), "HERE/cache: write() failed: No space"),
    ],
)
def test_what_cannot_be_written_into_the_cache_names_its_setting(opened, tmp_path, monkeypatch, error, said):
    def fail(source, cache):
        raise type(error)(*(arg.replace("HERE", str(tmp_path)) if isinstance(arg, str) else arg for arg in given))

    given = (*error.args, error.filename) if isinstance(error, OSError) else error.args
    monkeypatch.setattr(builder, "build", fail)
    with pytest.raises(InputError) as refusal:
        opened(data__cache=f"{tmp_path}/cache")
    assert str(refusal.value).startswith(said.replace("HERE", str(tmp_path)))
    assert str(refusal.value).endswith("; give a folder to build data sets in by --config.data.cache=FOLDER.")


@pytest.mark.parametrize(
    "error", [system(errno.EACCES, "/data/masks"), system(errno.ENOENT, "/data"), RuntimeError("a bug")]
)
def test_what_cannot_be_read_is_not_the_caches_fault(opened, tmp_path, monkeypatch, error):
    def fail(source, cache):
        raise error

    monkeypatch.setattr(builder, "build", fail)
    with pytest.raises(type(error)) as raised:
        opened(data__cache=f"{tmp_path}/cache")
    assert raised.value is error


def test_the_cache_is_in_the_home_folder_unless_one_is_given(opened, phantoms, tmp_path, monkeypatch):
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


def test_without_a_home_folder_a_cache_is_asked_for(opened, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    forget_home(monkeypatch)
    with pytest.raises(
        InputError, match=r"there is no home folder ~ on this system; give .* --config.data.cache=FOLDER"
    ):
        opened(data__cache=None)
