"""Warnings about an experiment before the first step, from its files' headers and names; images are not read."""

from collections.abc import Iterator, Sequence

import numpy as np

from msl_jax.data.builder import Entry
from msl_jax.data.formats import orientation
from msl_jax.experiments.experiment import Experiment
from msl_jax.experiments.time_points import grouped, patient_pattern
from msl_jax.system.text import counted, few


def cautions(experiment: Experiment) -> list[str]:
    """The warnings, one sentence each, with what to do."""
    roles = {patient: role for role, patients in experiment.split.items() for patient in patients}
    used = [entry for entry in experiment.data.entries if entry.patient in roles]
    warnings = [remark for entry in used for remark in entry.remarks]
    warnings += _orientations(experiment, used)
    warnings += _time_points(used, roles)
    warnings += _absent_structures(experiment)
    warnings += outside_folds(experiment)
    return list(dict.fromkeys(warnings))


def _orientations(experiment: Experiment, used: Sequence[Entry]) -> Iterator[str]:
    """Warns of cases whose orientation differs from the others or is unknown."""
    turned = [entry for entry in used if entry.turned]
    if turned:
        codes = ", ".join(sorted({entry.axis_codes for entry in turned}))
        yield (
            f"{counted(len(turned), 'case')} stored in another orientation than most ({codes}) and reoriented to "
            f"match: {few([entry.name for entry in turned])}."
        )
    unknown = [entry.name for entry in used if not entry.axis_codes]
    if unknown and len(unknown) < len(used):
        yield (
            f"{few(unknown)}: the files have no orientation and are used as stored; check that they are oriented like "
            "the others."
        )
    common = experiment.data.directions
    far = {
        entry.name: angle
        for entry in used
        if entry.directions
        and common is not None  # None: the reader provides no orientations
        and (angle := orientation.nearest(np.asarray(entry.directions), common)[1]) > orientation.FAR
    }
    if far:
        yield (
            f"{few(list(far))}: rotated by up to {max(far.values()):.0f} degrees relative to the other cases, which "
            "reordering axes cannot correct; resample them, or leave them out."
        )


def _time_points(used: Sequence[Entry], roles: dict[str, str]) -> Iterator[str]:
    """Warns of patients that may be time points of one patient."""
    names = sorted({entry.name for entry in used if entry.patient == entry.name})
    pattern = patient_pattern(names)
    if pattern:
        groups = [[prefix + rest for rest in group] for prefix, group in grouped(pattern, names).items()]
        leaks = [group for group in groups if len({roles[name] for name in group}) > 1]
        group = max(leaks or groups, key=len)
        where = " and are in different parts of the split" if leaks else ""
        yield (
            f"{few(group)}: count as different patients{where}, but may be time points of one patient; if so, give "
            f"--config.data.patient='{pattern}'."
        )


def _absent_structures(experiment: Experiment) -> Iterator[str]:
    """Warns of structures that are absent from all strong, all validation or all test cases."""
    present = experiment.structures(experiment.strong)
    for name, value in experiment.config.data.classes.items():
        if name not in present:
            yield f"No strong case contains {name}={value}; choose other strong cases, or leave the structure out."
    for role in ("validation", "test"):
        patients = experiment.split[role]
        present = experiment.scored() if role == "test" else experiment.structures(patients)
        absent = [name for name in experiment.config.data.classes if name not in present]
        if patients and absent:
            yield f"No {role} case contains {', '.join(absent)}, so scores leave it out; choose other {role} cases."


def outside_folds(experiment: Experiment) -> Iterator[str]:
    """Warns of masks in no fold of a cross-validation that is otherwise over all of them."""
    used = {patient for patients in experiment.split.values() for patient in patients}
    masked = experiment.data.masked(full=True)
    outside = [patient for patient in masked if patient not in used]
    if experiment.config.data.fold and outside and not set(masked) & set(experiment.weak()):
        yield (
            f"{counted(len(outside), 'patient')} with full masks in no fold, not being training patients: "
            f"{few(outside)}; to use all masks, give --config.data.split_sizes='((None, 0, 0),)'."
        )
