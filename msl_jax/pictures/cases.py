"""The page of sample cases that `prepare` draws."""

from matplotlib.figure import Figure
import numpy as np

from msl_jax.data.case import ROLES
from msl_jax.experiments.experiment import Experiment
from msl_jax.experiments.survey import Finding, weak_labels_of
from msl_jax.labels import UNLABELED
from msl_jax.pictures import plots
from msl_jax.settings.objects import preparation_of

CASES_A_ROLE = 4
"""Number of cases on the page for each role and kind of weak label."""


def page(experiment: Experiment, findings: list[Finding]) -> Figure:
    """A few cases of every role and kind of weak label, each by the slice with the most foreground."""
    rows: dict[str, list[plots.Sample]] = {}
    for finding in sorted(findings, key=lambda finding: (*ROLES, "").index(finding.role)):
        row = " ".join(filter(None, (finding.role, finding.kind)))
        if finding.role and len(rows.setdefault(row, [])) < CASES_A_ROLE:
            rows[row].append(_sample(experiment, finding))
    return plots.samples(rows, ("background", *experiment.config.data.classes))


def _sample(experiment: Experiment, finding: Finding) -> plots.Sample:
    case = experiment.data.case(finding.entry)
    class_of_value = preparation_of(experiment.config).class_of_value()
    unlabeled = np.full(case.image.shape[:3], UNLABELED)
    mask = class_of_value[unlabeled if case.mask is None else case.mask]
    weak = weak_labels_of(experiment, finding.entry, case) if finding.kind else None
    foreground = [((labels > 0) & (labels != UNLABELED)).sum((1, 2)) for labels in (mask, weak) if labels is not None]
    z = int(np.argmax(sum(foreground))) if np.any(foreground) else len(mask) // 2
    return plots.Sample(case.name, case.image[z, ..., 0], mask[z], None if weak is None else weak[z], case.spacing)
