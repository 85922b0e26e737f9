"""Which cases may be time points of one patient, by their names."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
import itertools
import re

SEPARATED = (r"[_. -][a-zA-Z]+-?\d+", r"[_. -]\d+", r"[_. -][a-zA-Z]+")
"""What may follow a patient's name in that of a time point: p01_frame12, p01_ses-2, p01_2, p01-pre."""
JOINED = (r"\d{2}", r"\d", r"[a-zA-Z]", r"[a-zA-Z]+\d+")
"""The same where nothing stands between: genius_0801, p011, p01b, p01t1."""
KIND = r"[_. -][a-zA-Z].*"
"""What may follow that in every name alike, the kind of image: p01_ses-2_T1w."""


def patient_pattern(names: Sequence[str]) -> str | None:
    r"""The regular expression by which cases may be time points of the same patients; None where nothing looks like it.

    Names look like it where they fall into groups by their beginnings, with no more names in a group than there are
    groups; where nothing separates the rest, it must begin anew in every group, or it is a number that runs on.

    >>> patient_pattern(["anna_t1", "anna_t2", "bert_t1"])
    '^(.+)[_. -][a-zA-Z]+-?\\d+$'
    >>> patient_pattern(["scan_08", "scan_09", "scan_10", "scan_11"])
    """
    for end in ("", _common_end(names)):
        bare = [name.removesuffix(end) for name in names]
        for suffix in (*SEPARATED, *JOINED):
            pattern = (r"^(.+)" if suffix in SEPARATED else r"^(.*\d)") + suffix
            groups = grouped(f"{pattern}$", bare)
            few_a_group = len(names) <= len(groups) ** 2
            if len(groups) > 1 and few_a_group and (suffix in SEPARATED or _begin_anew(groups)):
                outer = patient_pattern(sorted(groups))  # of p01_ses-1_run-1, p01_ses-2_run-1
                return f"{outer.removesuffix('$') + suffix if outer else pattern}{re.escape(end)}$"
    return None


def _common_end(names: Sequence[str]) -> str:
    """What all names end in that may say the kind of image; "" where that is nothing."""
    backwards = zip(*(reversed(name) for name in names), strict=False)
    shared = [letters[0] for letters in itertools.takewhile(lambda letters: len(set(letters)) == 1, backwards)]
    found = re.search(KIND, "".join(reversed(shared)))
    return found[0] if found else ""


def grouped(pattern: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Beginning -> what follows it in each name; empty unless every name has both and some share a beginning."""
    found = [re.match(pattern, name) for name in names]
    groups: dict[str, list[str]] = defaultdict(list)
    for name, match in zip(names, found, strict=True):
        if match:
            groups[match[1]].append(name.removeprefix(match[1]))
    return dict(groups) if all(found) and len(groups) < len(names) else {}


def _begin_anew(groups: Mapping[str, Sequence[str]]) -> bool:
    """Whether what follows is 0, 1, 2, or 1, 2, 3, or a, b, c in every group, and never comes to the end of its digits.

    A number that runs on, as in scan_08, scan_09, scan_10, does come to it. Letters before numbers are all the same.
    """
    ranks = [sorted(map(_rank, group)) for group in groups.values()]
    first, width = ranks[0][0], len(re.sub(r"\D", "", next(iter(groups.values()))[0])) or 1
    before = {re.sub(r"\d+$", "", rest) for group in groups.values() for rest in group if rest[-1].isdecimal()}
    return (
        len(before) <= 1
        and sum(len(group) > 1 for group in ranks) > 1
        and first in (0, 1)
        and all(group == list(range(first, first + len(group))) for group in ranks)
        and all(max(group) != int("9" * width) for group in ranks)
    )


def _rank(rest: str) -> int:
    """The number that this is or ends in, or the letter's place."""
    digits = re.sub(r"\D", "", rest)
    return int(digits) if digits else ord(rest.lower()) - ord("a")
