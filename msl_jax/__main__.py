"""The entry point of all commands: `msl-jax COMMAND ...` is `python -m msl_jax.COMMAND ...`."""

import ast
import pathlib
import runpy
import sys

COMMANDS = ("main", "prepare", "predict", "evaluate", "report", "sweep", "suggest", "export", "import_weights")
"""Modules of the package that are commands, in the order of the listing."""
HELP = ("help", "--help", "-h", "-help", "--helpfull", "--helpshort")


def main() -> int:
    """Runs the command that the first argument names, or lists all of them; returns the exit code."""
    _, name, *rest = [*sys.argv, ""] if len(sys.argv) == 1 else sys.argv
    if name in COMMANDS:
        sys.argv = [name, *rest]
        runpy.run_module(f"msl_jax.{name}", run_name="__main__", alter_sys=True)
        return 0
    if name in HELP:
        print(listed())
        return 0
    problem = f"'{name}' is not a command" if name else "no command given"
    print(f"msl_jax: {problem}; give one of these.\n\n{listed()}", file=sys.stderr)
    return 2


def listed() -> str:
    """Every command with the first line of its docstring, without importing it."""
    width = max(map(len, COMMANDS))
    lines = [f"    {name:{width}}  {_summary(name)}" for name in COMMANDS]
    return "\n".join(["msl-jax COMMAND [--FLAG=VALUE ...]", "", *lines, "", "msl-jax COMMAND --help lists its flags."])


def _summary(name: str) -> str:
    text = pathlib.Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
