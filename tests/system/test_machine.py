"""Machine settings, tested in separate processes because they must be set before JAX touches a device."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from msl_jax.system import machine

SHOW = "import jax, os; print(os.environ['XLA_FLAGS'], jax.config.jax_compilation_cache_dir)"


def run(code: str, **environment: str | None) -> str:
    env = {k: v for k, v in (os.environ | environment).items() if v is not None}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


def test_compiled_programs_are_cached(tmp_path):
    code = "from msl_jax.system import machine; machine.set_up(); import jax; jax.jit(lambda x: x + 1)(1.0)"
    run(code, XDG_CACHE_HOME=str(tmp_path), JAX_COMPILATION_CACHE_DIR=None)
    assert list((tmp_path / "msl_jax").iterdir())


NO_USER = """
import pwd
def getpwuid(user): raise KeyError(user)
pwd.getpwuid = getpwuid
"""
"""The user has no passwd entry, as with `docker run --user`."""


@pytest.mark.parametrize(
    ("home", "caches", "folder"),
    [
        ("HERE", None, "HERE/.cache/msl_jax"),
        ("HERE", "", "HERE/.cache/msl_jax"),
        ("HERE", "relative", "HERE/.cache/msl_jax"),
        ("HERE", "HERE/caches", "HERE/caches/msl_jax"),
        ("HERE/file", None, "None"),
        (None, "", "None"),
    ],
)
def test_the_cache_is_in_the_users_cache_folder_or_off(tmp_path, home, caches, folder):
    """It is never in the current folder, nor in one that others can write to."""
    (tmp_path / "file").touch()
    (tmp_path / "here").mkdir()
    home, caches = (value and value.replace("HERE", str(tmp_path)) for value in (home, caches))
    code = (
        f"import os; os.chdir({str(tmp_path / 'here')!r}); from msl_jax.system import machine; machine.set_up(); {SHOW}"
    )
    output = run(NO_USER + code, HOME=home, XDG_CACHE_HOME=caches, XLA_FLAGS="--a", JAX_COMPILATION_CACHE_DIR=None)
    assert output.split()[-1] == folder.replace("HERE", str(tmp_path))
    assert not list((tmp_path / "here").iterdir())


def test_file_names_are_utf8_for_every_terminal_encoding():
    code = (
        "import sys; print('started'); sys.stdout.flush(); from msl_jax.system import restart;"
        "restart.restart_in_utf8();"
        "print(sys.getfilesystemencoding(), sys.stdout.encoding)"
    )
    assert run(code, LC_ALL="C", PYTHONUTF8="0").lower().split() == ["started", "started", "utf-8", "ascii"]
    assert run(code, LC_ALL="C", PYTHONUTF8=None, PYTHONIOENCODING="ascii").split() == ["started", "utf-8", "ascii"]


def test_the_users_settings_win(tmp_path):
    flags = "--xla_cpu_experimental_ynn_fusion_type=invalid"
    output = run(
        f"from msl_jax.system import machine; machine.set_up(); {SHOW}",
        XLA_FLAGS=flags,
        JAX_COMPILATION_CACHE_DIR=str(tmp_path),
    )
    assert output.split() == [flags, str(tmp_path)]


def test_unmeasured_releases_get_no_flags():
    code = f"from msl_jax.system import machine; machine.version = lambda _: '9.9.9'; machine.set_up(); {SHOW}"
    assert "ynn" not in run(code, XLA_FLAGS="")


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
@pytest.mark.parametrize("tunables", [None, "glibc.malloc.check=0"])
def test_restarts_once_unless_the_user_set_tunables(tunables):
    code = (
        "import os; print('started'); import sys; sys.stdout.flush(); from msl_jax.system import restart;"
        "restart.restart_on_huge_pages(); print(os.environ['GLIBC_TUNABLES'])"
    )
    started = ["started"] * (1 if tunables else 2)
    assert run(code, GLIBC_TUNABLES=tunables).split() == [*started, tunables or "glibc.malloc.hugetlb=1"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_does_not_restart_an_enclosing_program():
    code = (
        "import os, sys; from msl_jax.system import restart; sys.argv = ['main.py', '--config=some.py'];"
        "restart.restart_on_huge_pages(); print('GLIBC_TUNABLES' in os.environ)"
    )
    assert run(code, GLIBC_TUNABLES=None).strip() == "False"


GRADIENT = """
import sys; from msl_jax.system import machine
if sys.argv[1] == "selected": machine.set_up()
import jax, jax.numpy as jnp, numpy as np
from msl_jax.models.initial import init_variables
from msl_jax.models.dual_branch import DualBranchUNet
model = DualBranchUNet(width=8, depth=3)
variables = init_variables(model, (32, 32), ("teacher",), seed=0)
images = jax.random.normal(jax.random.key(1), (1, 4, 32, 32, 1))
def loss(params):
    rows = {"teacher": slice(None)}
    logits, _ = model.apply({**variables, "params": params}, images, rows, train=True, mutable=["batch_stats"])
    return jnp.sin(logits["teacher"]).sum()
gradient = jax.jit(jax.grad(loss))(variables["params"])
np.save(sys.argv[2], np.concatenate([g.ravel() for g in jax.tree.leaves(gradient)]))
"""


@pytest.mark.soak
def test_the_selected_kernels_give_the_gradient_of_the_default_ones(tmp_path):
    gradients = []
    for kernels in ("selected", "default"):
        path = tmp_path / f"{kernels}.npy"
        environment = os.environ | {"XLA_FLAGS": "", "XDG_CACHE_HOME": str(tmp_path)}
        subprocess.run([sys.executable, "-c", GRADIENT, kernels, str(path)], env=environment, check=True)
        gradients.append(np.load(path))
    assert np.abs(gradients[1]).max() > 1
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-3 * np.abs(gradients[1]).max())


def test_jit_once_equals_the_optimised_program_bit_for_bit():
    def sample(key):
        return jax.random.truncated_normal(key, -2, 2, (3, 3, 8, 8))

    optimised = jax.jit(sample, compiler_options={"xla_backend_optimization_level": "3"})
    np.testing.assert_array_equal(machine.jit_once(sample)(jax.random.key(0)), optimised(jax.random.key(0)))
