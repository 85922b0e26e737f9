"""What may be installed: ranges, in the form from which .ci/versions takes the lowest versions."""

import ast
import re
import tomllib

from processes import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_every_requirement_has_a_lower_and_an_upper_bound():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[\w-]+(\[\w+\])?>=[\d.]+,<[\d.]+(; [^#]+|  # .+)?", line), line
    names = [re.match(r"[\w-]+", line).group() for line in lines]
    assert names == sorted(set(names), key=str.lower)


def test_every_extra_has_bounds_and_is_tested():
    """PyTorch alone is not installed for the tests: it is larger than all the rest, and one test asks for it."""
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    installed = {line.split("  #")[0] for line in lines}
    for extra, requirements in EXTRAS.items():
        for requirement in requirements:
            assert re.fullmatch(r"[\w-]+(>=[\d.]+,<[\d.]+|~=[\d.]+)", requirement), requirement
            assert extra == "torch" or requirement in installed, requirement


def test_what_an_error_tells_to_install_is_an_extra():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "msl_jax").rglob("*.py")]
    named = {extra for source in sources for extra in re.findall(r'needed\([^\n]*?, "[\w ]+", "(\w+)"', source)}
    assert named == set(EXTRAS)


def test_what_comes_as_an_extra_is_imported_in_the_functions_that_need_it():
    """Or for types alone; at the top of a module it would stop everything that imports the module."""
    libraries = {re.match(r"[\w-]+", requirement).group() for found in EXTRAS.values() for requirement in found}
    assert "h5py" in libraries
    for path in (ROOT / "msl_jax").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & libraries, path
