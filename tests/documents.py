"""Extracts commands, code blocks and tables from the project's Markdown pages."""

import re

from processes import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / ".github").glob("*.md"))]
PAGES += sorted(page for folder in ("configs", "msl_jax", "tests") for page in (ROOT / folder).rglob("*.md"))


def cells(line):
    """The cells of a table's row."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def blocks(path, language):
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(path):
    """The commands of a page, each as a list of words without comments."""
    lines = "\n".join(blocks(path, "bash")).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].split() for line in lines if line.split("#")[0].strip()]
