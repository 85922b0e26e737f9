"""The package's rooms: which may import which, and how long a file may be. Read as text, so nothing is imported."""

import ast
from collections.abc import Iterable, Iterator, Mapping

import pytest

from processes import ROOT

FLOORS = (
    ("errors", "labels"),
    ("system",),
    ("models",),
    ("data",),
    ("methods",),
    ("plugins",),
    ("settings",),
    ("experiments",),
    ("runs",),
    ("inference",),
    ("pictures",),
    ("evaluation",),
    ("training",),
    ("msl_jax", "api", "command"),
    ("commands",),
)
"""The rooms from the bottom up: a room imports itself and what stands below it, never what stands beside or above it.

`msl_jax` is the package's own `__init__.py`, and `commands` are all modules beside it that are not listed. `plugins`
adds rows to the tables of models, data and methods, which everything above looks names up in.
"""
TOP = FLOORS[-2:]
"""Floors whose modules may import each other, as long as no circle comes of it."""
ALLOWED = {
    "errors": (),
    "labels": (),
    "models": ("models", "system", "errors", "labels"),
    "data": ("data", "system", "errors", "labels"),
    "methods.losses": ("labels",),
    "evaluation.metrics": ("labels",),
}
"""Rooms and modules that are to be usable alone -> all of ours that they may import."""
LONGEST = 400
"""Lines of a file; a longer one is to be split."""

Graph = Mapping[str, Iterable[str]]
"""A module's name -> the modules it imports; without the leading `msl_jax.`."""


def room(module: str) -> str:
    """The room of a module: "data" of "data.readers.acdc"."""
    first = module.split(".")[0]
    return first if any(first in rooms for rooms in FLOORS) else "commands"


def floor(module: str) -> int:
    """The number of the floor of a module's room, from the bottom."""
    return next(number for number, rooms in enumerate(FLOORS) if room(module) in rooms)


def upward(graph: Graph) -> list[str]:
    """Imports of a room that does not stand below the importing one."""
    return [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in others
        if floor(other) > floor(module)
        or (floor(other) == floor(module) and room(other) != room(module) and FLOORS[floor(module)] not in TOP)
    ]


def circles(graph: Graph) -> list[str]:
    """Modules or rooms that import themselves by way of others."""
    reached = {name: set(others) - {name} for name, others in graph.items()}
    changed = True
    while changed:
        changed = False
        for others in reached.values():
            more = set().union(*(reached.get(other, ()) for other in others)) - others
            others |= more
            changed = changed or bool(more)
    return sorted(name for name, others in reached.items() if name in others)


def by_room(graph: Graph) -> dict[str, set[str]]:
    """The same graph between rooms; the commands are rooms of their own."""
    rooms: dict[str, set[str]] = {}
    for module, others in graph.items():
        name = module.split(".")[0]
        rooms.setdefault(name, set()).update({other.split(".")[0] for other in others} - {name})
    return rooms


def not_allowed(graph: Graph) -> list[str]:
    """Imports that ALLOWED does not list."""

    def within(module: str, names: Iterable[str]) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in names)

    return [
        f"{module} imports {other}"
        for name, allowed in ALLOWED.items()
        for module, others in graph.items()
        if within(module, [name])
        for other in others
        if not within(other, allowed)
    ]


def imported(source: str) -> Iterator[tuple[str, str | None]]:
    """Every (module, name in it) that a source imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports name the whole module"
            yield from ((node.module, alias.name) for alias in node.names)


def ours(source: str, modules: Iterable[str]) -> set[str]:
    """The modules among `modules` that a source imports: `from msl_jax.data import case` is of data.case."""
    found = set()
    for module, name in imported(source):
        if module.split(".")[0] == "msl_jax":
            whole = f"{module}.{name}" if name else module
            whole = whole.removeprefix("msl_jax.")
            found.add(whole if whole in modules else module.removeprefix("msl_jax."))
    return found


def package() -> dict[str, set[str]]:
    """The graph of the package as it is."""
    sources = {}
    for path in sorted((ROOT / "msl_jax").rglob("*.py")):
        parts = path.relative_to(ROOT / "msl_jax").with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        sources[".".join(parts) or "msl_jax"] = path.read_text(encoding="utf-8")
    return {module: ours(source, sources) for module, source in sources.items()}


@pytest.fixture(scope="module")
def graph():
    return package()


def too_long(lengths: Mapping[str, int]) -> list[str]:
    """Files of more than LONGEST lines."""
    return [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > LONGEST]


def test_the_graph_holds_what_is_there(graph):
    assert {"errors", "data.builder", "data.readers", "settings", "main", "msl_jax"} <= set(graph)
    assert "data.formats.volumes" in graph["data.case"] and "settings" in graph["command"]
    listed = {room for rooms in FLOORS for room in rooms} - {"commands", "msl_jax", "api"}
    assert listed <= {module.split(".")[0] for module in graph}


def test_no_import_runs_upward(graph):
    assert not upward(graph)


def test_no_circle_between_rooms_or_modules(graph):
    assert not circles(by_room(graph))
    assert not circles(graph)


def test_what_is_to_be_usable_alone_imports_nothing_else_of_ours(graph):
    assert not not_allowed(graph)


def test_no_file_is_too_long():
    files = [p for folder in ("msl_jax", "tests", "configs") for p in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert not too_long({str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files})


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_an_experiment_imports_the_package_and_its_type_of_settings_alone(path):
    source = path.read_text(encoding="utf-8")
    assert {module.split(".")[0] for module, _ in imported(source)} <= {"msl_jax", "ml_collections"}


@pytest.mark.parametrize(
    "graph, found",
    [
        ({"data.case": {"experiments.assignment"}}, ["data.case imports experiments.assignment"]),
        ({"models.unet": {"data"}}, ["models.unet imports data"]),
        ({"errors": {"labels"}}, ["errors imports labels"]),
        ({"runs.lock": {"command"}}, ["runs.lock imports command"]),
        ({"runs.lock": {"main"}}, ["runs.lock imports main"]),
        ({"training.loop": {"msl_jax"}}, ["training.loop imports msl_jax"]),
        ({"api": {"predict"}}, ["api imports predict"]),
        (
            {
                "data.case": {"data.formats", "system.paths"},
                "main": {"command", "evaluate"},
                "api": {"plugins"},
                "command": {"api"},
            },
            [],
        ),
    ],
)
def test_an_import_that_runs_upward_is_found(graph, found):
    assert upward(graph) == found


def test_a_circle_is_found():
    graph = {"data.a": ["methods.a"], "methods.a": [], "methods.b": ["settings"], "settings": ["data.b"], "data.b": []}
    assert not circles(graph)
    assert circles(by_room(graph)) == ["data", "methods", "settings"]
    assert circles({"main": ["sweep"], "sweep": ["report"], "report": ["main"]}) == ["main", "report", "sweep"]


@pytest.mark.parametrize(
    "module, other, found",
    [
        ("labels", "errors", True),
        ("data.case", "models.unet", True),
        ("models", "data.case", True),
        ("methods.losses", "errors", True),
        ("evaluation.metrics", "evaluation.results", True),
        ("evaluation.metrics", "labels", False),
        ("evaluation.results", "evaluation.metrics", False),
        ("models.unet", "models.released", False),
    ],
)
def test_an_import_that_is_not_allowed_is_found(module, other, found):
    assert bool(not_allowed({module: [other]})) == found


def test_a_file_that_is_too_long_is_found():
    assert too_long({"a": LONGEST, "b": LONGEST + 1}) == [f"b: {LONGEST + 1} lines"]


def test_imports_are_read_wherever_they_stand():
    source = "import msl_jax.data.case as c\nimport os\ndef f():\n    from msl_jax import runs, __version__\n"
    source += "from msl_jax.errors import InputError\nfrom msl_jax.data import case\n"
    modules = {"msl_jax", "data", "data.case", "runs", "errors"}
    assert ours(source, modules) == {"data.case", "runs", "msl_jax", "errors"}
