"""What looks odd about an experiment and can be told without reading its images: warned of before the first step."""

from collections.abc import Iterator, Sequence

import numpy as np

from msl_jax.data.builder import Entry
from msl_jax.data.formats import orientation
from msl_jax.experiments.experiment import Experiment
from msl_jax.experiments.time_points import grouped, patient_pattern
from msl_jax.system.text import counted, few


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
        groups = [[begin + rest for rest in group] for begin, group in grouped(pattern, names).items()]
        leaks = [group for group in groups if len({roles[name] for name in group}) > 1]
        group = max(leaks or groups, key=len)
        where = " and are in different parts of the split" if leaks else ""
        yield (
            f"{few(group)}: count as different patients{where}, and may be time points of one; if they are, give "
            f"--config.data.patient='{pattern}'."
        )


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
