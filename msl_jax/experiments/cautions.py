"""What looks odd about an experiment and can be told without reading its images: warned of before the first step."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
import itertools
import re

import numpy as np

from msl_jax.data.builder import Entry
from msl_jax.data.formats import orientation
from msl_jax.experiments.experiment import Experiment
from msl_jax.system.text import counted, few

SEPARATED = (r"[_. -][a-zA-Z]+-?\d+", r"[_. -]\d+", r"[_. -][a-zA-Z]+")
"""What may follow a patient's name in that of a time point: p01_frame12, p01_ses-2, p01_2, p01-pre."""
JOINED = (r"\d{2}", r"\d", r"[a-zA-Z]", r"[a-zA-Z]+\d+")
"""The same where nothing stands between: genius_0801, p011, p01b, p01t1."""
KIND = r"[_. -][a-zA-Z].*"
"""What may follow that in every name alike, the kind of image: p01_ses-2_T1w."""


def cautions(experiment: Experiment) -> list[str]:
    """A sentence each, with what to do."""
    roles = {patient: role for role, patients in experiment.split.items() for patient in patients}
    used = [entry for entry in experiment.data.entries if entry.patient in roles]
    found = [remark for entry in used for remark in entry.remarks]
    found += _lie(experiment, used)
    found += _time_points(used, roles)
    found += _absent(experiment)
    return list(dict.fromkeys(found))


def _lie(experiment: Experiment, used: Sequence[Entry]) -> Iterator[str]:
    """Of cases that lie otherwise than most, or may."""
    turned = [entry for entry in used if entry.turned]
    if turned:
        codes = ", ".join(sorted({entry.stored for entry in turned}))
        yield (
            f"{counted(len(turned), 'case')} stored otherwise than most ({codes}), and turned to lie like them: "
            f"{few([entry.name for entry in turned])}."
        )
    unknown = [entry.name for entry in used if not entry.stored]
    if unknown and len(unknown) < len(used):
        yield (
            f"{few(unknown)}: the files do not say which way they lie and are taken as they are stored; see whether "
            "they lie like the others."
        )
    common = experiment.data.directions
    far = {
        entry.name: angle
        for entry in used
        if entry.directions
        and common is not None  # as of a reader that does not say that its files may know
        and (angle := orientation.nearest(np.asarray(entry.directions), common)[1]) > orientation.FAR
    }
    if far:
        yield (
            f"{few(list(far))}: up to {max(far.values()):.0f} degrees off the other cases, which no permutation of "
            "axes mends; resample them, or leave them out."
        )


def _time_points(used: Sequence[Entry], roles: dict[str, str]) -> Iterator[str]:
    """Of patients that may be one and the same, and are in several roles or may come to be."""
    names = sorted({entry.name for entry in used if entry.patient == entry.name})
    pattern = patient_pattern(names)
    if pattern:
        groups = [[begin + rest for rest in group] for begin, group in _grouped(pattern, names).items()]
        leaks = [group for group in groups if len({roles[name] for name in group}) > 1]
        group = max(leaks or groups, key=len)
        where = " and are in different parts of the split" if leaks else ""
        yield (
            f"{few(group)}: count as different patients{where}, and may be time points of one; if they are, give "
            f"--config.data.patient='{pattern}'."
        )


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
            groups = _grouped(f"{pattern}$", bare)
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


def _grouped(pattern: str, names: Sequence[str]) -> dict[str, list[str]]:
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


def _absent(experiment: Experiment) -> Iterator[str]:
    """Of structures that strong cases lack, and that validation or test cases lack, which no mean can cover."""
    unseen = experiment.config.data.classes.keys() - experiment.structures(experiment.strong).keys()
    for name, value in experiment.config.data.classes.items():
        if name in unseen:
            yield f"No strong case holds {name}={value}; choose other strong cases, or leave the structure out."
    for role in ("validation", "test"):
        patients = experiment.split[role]
        lacking = [name for name in experiment.config.data.classes if name not in experiment.structures(patients)]
        if patients and lacking:
            yield (
                f"No {role} case has {', '.join(lacking)}, which the scores leave out; choose other {role} cases to "
                "measure it."
            )
