"""Detects from names which cases may be time points of one patient."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
import itertools
import re

SEPARATED = (r"[_. -][a-zA-Z]+-?\d+", r"[_. -]\d+", r"[_. -][a-zA-Z]+")
"""Suffixes of time points with a separator: p01_frame12, p01_ses-2, p01_2, p01-pre."""
JOINED = (r"\d{2}", r"\d", r"[a-zA-Z]", r"[a-zA-Z]+\d+")
"""Suffixes without a separator: genius_0801, p011, p01b, p01t1."""
KIND = r"[_. -][a-zA-Z].*"
"""A common ending of all names, the kind of image: p01_ses-2_T1w."""


def patient_pattern(names: Sequence[str]) -> str | None:
    r"""A regular expression for the patient in the cases' names; None if they do not look like time points.

    Names look like time points if they form groups with a common beginning, with on average no more names per group
    than there are groups. Suffixes without a separator must also restart in every group; otherwise they may be part of
    a running number.

    >>> patient_pattern(["anna_t1", "anna_t2", "bert_t1"])
    '^(.+)[_. -][a-zA-Z]+-?\\d+$'
    >>> patient_pattern(["scan_08", "scan_09", "scan_10", "scan_11"])
    """
    for end in ("", _common_end(names)):
        bare = [name.removesuffix(end) for name in names]
        for suffix in (*SEPARATED, *JOINED):
            pattern = (r"^(.+)" if suffix in SEPARATED else r"^(.*\d)") + suffix
            groups = grouped(f"{pattern}$", bare)
            small_groups = len(names) <= len(groups) ** 2
            if len(groups) > 1 and small_groups and (suffix in SEPARATED or _restarts(groups)):
                outer = patient_pattern(sorted(groups))  # of p01_ses-1_run-1, p01_ses-2_run-1
                return f"{outer.removesuffix('$') + suffix if outer else pattern}{re.escape(end)}$"
    return None


def _common_end(names: Sequence[str]) -> str:
    """The part of the common ending of all names that may be the kind of image; "" if there is none."""
    backwards = zip(*(reversed(name) for name in names), strict=False)
    shared = [letters[0] for letters in itertools.takewhile(lambda letters: len(set(letters)) == 1, backwards)]
    found = re.search(KIND, "".join(reversed(shared)))
    return found[0] if found else ""


def grouped(pattern: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Prefix -> suffixes of its names; empty unless every name matches and some names share a prefix."""
    matches = [re.match(pattern, name) for name in names]
    groups: dict[str, list[str]] = defaultdict(list)
    for name, match in zip(names, matches, strict=True):
        if match:
            groups[match[1]].append(name.removeprefix(match[1]))
    return dict(groups) if all(matches) and len(groups) < len(names) else {}


def _restarts(groups: Mapping[str, Sequence[str]]) -> bool:
    """Whether the suffixes are 0, 1, 2 or 1, 2, 3 or a, b, c in every group and never reach the largest number (9, 99).

    A running number, as in scan_08, scan_09, scan_10, does reach it. Letters before numbers must all be the same.
    """
    ranks = [sorted(map(_rank, group)) for group in groups.values()]
    first, width = ranks[0][0], len(re.sub(r"\D", "", next(iter(groups.values()))[0])) or 1
    letters = {re.sub(r"\d+$", "", rest) for group in groups.values() for rest in group if rest[-1].isdecimal()}
    return (
        len(letters) <= 1
        and sum(len(group) > 1 for group in ranks) > 1
        and first in (0, 1)
        and all(group == list(range(first, first + len(group))) for group in ranks)
        and all(max(group) != int("9" * width) for group in ranks)
    )


def _rank(rest: str) -> int:
    """The number in a suffix, or the index of its letter."""
    digits = re.sub(r"\D", "", rest)
    return int(digits) if digits else ord(rest.lower()) - ord("a")
