"""What the pages of the project say: their commands and their pieces of code."""

import re

from processes import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / ".github").glob("*.md"))]
PAGES += sorted(page for folder in ("configs", "msl_jax", "tests") for page in (ROOT / folder).rglob("*.md"))


def cells(line):
    """What stands in the columns of a table's line."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def blocks(path, language):
    """The fenced blocks of a page in one language, as they stand."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(path):
    """The commands of a page: a list of words each, without comments."""
    lines = "\n".join(blocks(path, "bash")).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].split() for line in lines if line.split("#")[0].strip()]
