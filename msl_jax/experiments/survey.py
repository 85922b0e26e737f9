"""Statistics of every case of a data set under a config, and warnings about possible mistakes.

Errors are raised earlier, when the data set is built and the experiment is opened.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import hashlib

import numpy as np

from msl_jax.data import intensity, ready
from msl_jax.data.builder import Entry
from msl_jax.data.case import ROLES, Case, in_case
from msl_jax.data.formats.orientation import COARSER
from msl_jax.data.weak_labels import DRAWN
from msl_jax.experiments.cautions import cautions
from msl_jax.experiments.experiment import Experiment
from msl_jax.labels import UNLABELED
from msl_jax.settings.objects import preparation_of
from msl_jax.system.text import counted, few


@dataclasses.dataclass(frozen=True)
class Finding:
    """The statistics of one case.

    Attributes:
      entry: the case in the data set.
      role: one of ROLES, or "" for an unused case.
      kind: the source of its weak labels: a recipe, "annotation", "mask", "partial mask" or "nothing"; "" in
        validation and test.
      shape: (slice, y, x).
      intensities: the 1st and 99th percentile of each channel, (2, channels).
      collapsed: channels whose intensity range from config.data.normalization was widened.
      image: a hash of the image.
      values: label value -> number of voxels in the mask.
      labelled: class or UNLABELED -> number of pixels in the weak labels, resampled as for training.
      contradicted: number of voxels where the drawn annotation contradicts the mask.
    """

    entry: Entry
    role: str
    kind: str
    shape: tuple[int, int, int]
    intensities: np.ndarray
    collapsed: tuple[int, ...]
    image: str
    values: Mapping[int, int]
    labelled: Mapping[int, int]
    contradicted: int


def survey(experiment: Experiment) -> list[Finding]:
    """Reads every case of the data set once."""
    parts = experiment.roles()
    roles = {patient: role for role in ROLES for patient in parts[role]}
    return [_finding(experiment, entry, roles.get(entry.patient, "")) for entry in experiment.data.entries]


def weak_labels_of(experiment: Experiment, entry: Entry, case: Case) -> np.ndarray:
    """The weak labels of a case, int32 (slice, y, x), resampled as for training."""
    return ready.labels(case, entry, preparation_of(experiment.config), experiment.annotator())[1]


def _finding(experiment: Experiment, entry: Entry, role: str) -> Finding:
    case = experiment.data.case(entry)
    trained = role in ("strong", "weak")
    weak = weak_labels_of(experiment, entry, case) if trained else np.empty(0, int)
    statistics = intensity.measure(case.image)
    return Finding(
        entry=entry,
        role=role,
        kind=_kind(experiment, entry) if trained else "",
        shape=case.image.shape[:3],
        intensities=np.stack(intensity.percentiles(statistics, (1, 99))),
        collapsed=tuple(np.flatnonzero(preparation_of(experiment.config).collapsed(statistics)).tolist()),
        image=hashlib.sha256(case.image.tobytes()).hexdigest(),
        values={} if case.mask is None else _counts(case.mask),
        labelled=_counts(weak),
        contradicted=_contradicted(case),
    )


def _contradicted(case: Case) -> int:
    if case.mask is None or case.annotation is None:
        return 0
    both = (case.mask != UNLABELED) & (case.annotation != UNLABELED)
    return int((both & (case.mask != case.annotation)).sum())


def _kind(experiment: Experiment, entry: Entry) -> str:
    recipe = experiment.annotator().recipe_of(entry.patient)
    if recipe != DRAWN:
        return recipe
    kinds = {"annotation": entry.annotated, "mask": entry.full, "partial mask": entry.masked, "nothing": True}
    return next(kind for kind, present in kinds.items() if present)


def _counts(labels: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _sum(findings: Iterable[Finding], of: str) -> Counter:
    total: Counter = Counter()
    for finding in findings:
        total.update(getattr(finding, of))
    return total


def report(experiment: Experiment, findings: Sequence[Finding]) -> str:
    """The survey as text."""
    config, data = experiment.config, experiment.data
    entries = [finding.entry for finding in findings]
    names = {in_case(value): f"{name}={value}" for name, value in data.labels.items()}
    names |= {0: "background=0", UNLABELED: "unlabelled"}
    trained = ["background", *config.data.classes]
    lines = [
        f"{counted(len(entries), 'case')} of {counted(len(data.groups()), 'patient')}, "
        f"{counted(sum(entry.slices for entry in entries), 'slice')}, {counted(data.channels, 'channel')}, "
        f"{counted(sum(entry.full for entry in entries), 'case')} with a full mask, "
        f"{sum(entry.masked and not entry.full for entry in entries)} with a partial mask, "
        f"{sum(entry.annotated for entry in entries)} with a drawn annotation",
        f"size (slice, y, x)     {_range([finding.shape for finding in findings])}",
        f"spacing (slice, y, x)  {_range([entry.spacing for entry in entries])} "
        f"{', '.join(sorted({entry.units for entry in entries}))}",
        f"orientation            {_listed(Counter(entry.axis_codes or 'unknown' for entry in entries))}",
    ]
    intensities = np.stack([finding.intensities for finding in findings])
    for channel in range(data.channels):
        low, high = intensities[..., channel].T
        lines.append(f"intensities, channel {channel}  1 % {_range(low[:, None])}, 99 % {_range(high[:, None])}")
    voxels = _sum(findings, "values")
    total = max(sum(voxels.values()), 1)
    shares = (f"{names[value]} {100 * count / total:.3g} %" for value, count in sorted(voxels.items()))
    lines += [f"voxels in masks        {', '.join(shares)}", f"trained                {', '.join(trained)}", ""]
    groups = data.groups()
    for role in ROLES:
        patients = {finding.entry.patient for finding in findings if finding.role == role}
        counts = Counter(groups[patient] for patient in patients)
        detail = ", ".join(f"{n} {group}" for group, n in sorted(counts.items()) if group)
        lines.append(f"{role:<11}{len(patients):>4} patients  {detail}".rstrip())
    for classes, number in Counter(experiment.unannotated.values()).items():
        structures = ", ".join(trained[c] for c in classes)
        lines.append(f"{structures}: not annotated in {counted(number, 'patient')}, whose background may be these, too")
    lines += [f"strong: {', '.join(experiment.strong)}", ""]
    for role in ("strong", "weak"):
        for kind in dict.fromkeys(finding.kind for finding in findings if finding.role == role):
            of_kind = [finding for finding in findings if (finding.role, finding.kind) == (role, kind)]
            labelled = _sum(of_kind, "labelled")
            total = sum(labelled.values())
            of_class = ", ".join(f"{name} {100 * labelled[c] / total:.3g} %" for c, name in enumerate(trained))
            lines.append(f"weak labels of {role} cases, {kind}: {len(of_kind)} cases, {of_class} of their pixels")
    return "\n".join(lines)


def oddities(experiment: Experiment, findings: Sequence[Finding]) -> list[str]:
    """Warnings about possible mistakes, one sentence each, with what to do."""
    warnings = cautions(experiment)
    used = [finding for finding in findings if finding.role]
    collapsed = [finding.entry.name for finding in used if finding.collapsed]
    if collapsed:
        data = experiment.config.data
        warnings.append(
            f"{few(collapsed)}: {data.normalization} would clip almost the whole image (channel "
            f"{', '.join(map(str, sorted({c for f in used for c in f.collapsed})))}), so its range is widened; look at "
            "the pictures, or give another config.data.normalization."
        )
    contradictory = [finding for finding in used if finding.contradicted]
    if contradictory:
        worst = max(contradictory, key=lambda finding: finding.contradicted)
        warnings.append(
            f"{len(contradictory)} drawn annotations contradict the mask, most of all {worst.entry.name} "
            f"({worst.contradicted} voxels); training uses the annotation, check that it is right."
        )
    empty = [f.entry.name for f in used if f.entry.masked and not set(f.values) - {0, UNLABELED}]
    if empty:
        warnings.append(f"{few(empty)}: the mask has no structure; leave the case out, or complete the mask.")
    weak = [finding for finding in findings if finding.role == "weak"]
    if weak and not set(_sum(weak, "labelled")) - {UNLABELED} and experiment.config.data.weak != "none":
        warnings.append("No weak case has an annotated pixel; put annotations where the layout expects them.")
    thick = [f.entry.name for f in used if max(f.entry.spacing[1:]) > COARSER * f.entry.spacing[0]]
    if thick:
        warnings.append(
            f"{few(thick)}: voxels are more than {COARSER:g} times larger in the slice plane than across slices; try "
            f"another config.data.axis than {experiment.config.data.axis}."
        )
    by_image = defaultdict(list)
    for finding in used:
        by_image[finding.image].append(finding.entry)
    for duplicates in by_image.values():
        if len({entry.patient for entry in duplicates}) > 1:
            warnings.append(f"{few([entry.name for entry in duplicates])}: are the same image; keep one of them.")
    if not experiment.split["validation"]:
        warnings.append(
            "There is no validation case, so no best step can be chosen; with few masks, cross-validate by "
            "python -m msl_jax.sweep --folds=4, which tests every mask once."
        )
    return warnings


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _range(values: Sequence[Sequence[float]]) -> str:
    table = np.asarray(values)
    return " x ".join(
        f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        for low, high in zip(table.min(0), table.max(0), strict=True)
    )
