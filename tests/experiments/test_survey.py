import dataclasses

import numpy as np
import pytest

from msl_jax.data import builder
from msl_jax.experiments import survey
from msl_jax.experiments.opening import open_experiment
from msl_jax.experiments.survey import oddities, report
from msl_jax.labels import UNLABELED
from msl_jax.settings.objects import preparation_of


@pytest.fixture
def opened(tiny_config):
    def make(**settings):
        config = tiny_config("classes=all")
        config.update_from_flattened_dict({f"data.{key}": value for key, value in settings.items()})
        return open_experiment(config)

    return make


@pytest.fixture
def alter(monkeypatch, phantoms):
    """alter(change): applies `change` to every case of the data set and updates its entries."""

    def apply(change):
        def case(self, entry):
            return change(read(self, entry))

        read = builder.Dataset.case
        changed = [change(read(phantoms, entry)) for entry in phantoms.entries]
        entries = [
            dataclasses.replace(
                entry,
                spacing=case.spacing,
                values=() if case.mask is None else tuple(np.unique(case.mask).tolist()),
                masked=case.mask is not None,
                annotated=case.annotation is not None,
            )
            for entry, case in zip(phantoms.entries, changed, strict=True)
        ]
        monkeypatch.setattr(builder.Dataset, "case", case)
        data = dataclasses.replace(phantoms, entries=tuple(entries))
        monkeypatch.setattr(builder, "build", lambda source, cache: data)

    return apply


def test_every_pixel_is_counted(opened, phantoms):
    experiment = opened(weak="full")
    findings = survey.survey(experiment)
    assert [finding.entry for finding in findings] == list(phantoms.entries)
    for finding in findings:
        mask = phantoms.case(finding.entry).mask
        assert finding.values == {v: n for v in range(4) if (n := int((mask == v).sum()))}
        assert finding.shape == mask.shape and finding.contradicted == 0
        trained = finding.role in ("strong", "weak")
        assert finding.kind == ("full" if trained else "")
        y, x = preparation_of(experiment.config).grid(mask.shape[1:], finding.entry.spacing[1:])
        assert sum(finding.labelled.values()) == (len(mask) * y * x if trained else 0)
    roles = {finding.entry.patient: finding.role for finding in findings}
    assert sorted(roles.values()) == 3 * ["strong"] + 2 * ["test"] + ["validation"] + 2 * ["weak"]
    text = report(experiment, findings)
    assert (
        text.startswith("16 cases of 8 patients")
        and "16 cases with a full mask, 0 with a partial mask, 0 with a drawn annotation" in text
    )
    assert oddities(experiment, findings) == []


def warnings_of(experiment):
    return "\n".join(oddities(experiment, survey.survey(experiment)))


def annotate(case):
    """Annotates half of every image as LV, for every second patient."""
    if case.patient[-1] in "2468":
        return case
    annotation = np.full_like(case.mask, UNLABELED)
    annotation[:, ::2] = 3
    return dataclasses.replace(case, annotation=annotation)


def test_annotations_that_contradict_masks_are_counted(opened, alter, phantoms):
    alter(annotate)
    experiment = opened(weak="drawn")
    contradicted = {
        entry.name: int((phantoms.case(entry).mask[:, ::2] != 3).sum())
        for entry in phantoms.entries
        if entry.patient[-1] not in "2468"
    }
    worst = max(contradicted, key=contradicted.get)
    expected = f"{len(contradicted)} drawn annotations contradict the mask, most of all {worst} ({contradicted[worst]} "
    assert expected in warnings_of(experiment)
    kinds = {finding.entry.patient: finding.kind for finding in survey.survey(experiment) if finding.kind}
    assert all(kind == ("mask" if patient[-1] in "2468" else "annotation") for patient, kind in kinds.items())


@pytest.mark.parametrize(
    ("change", "settings", "expected"),
    [
        (
            lambda case: dataclasses.replace(case, mask=case.mask * (case.phase == "ED")),
            {},
            "the mask has no structure",
        ),
        (lambda case: dataclasses.replace(case, mask=np.minimum(case.mask, 2)), {}, "No strong case contains LV=3"),
        (lambda case: dataclasses.replace(case, spacing=(1.0, 2.5, 1.0)), {}, "another config.data.axis than 2"),
        (
            lambda case: dataclasses.replace(case, image=np.zeros_like(case.image[:, :9, :9])),
            {},
            "are the same image; keep one of them",
        ),
        (
            lambda case: dataclasses.replace(
                case, image=case.image * (np.arange(case.image.size) < 99).reshape(case.image.shape)
            ),
            {},
            "percentiles would clip almost the whole image (channel 0), so its range is widened",
        ),
        (lambda case: case, {"weak": "none"}, ""),
        (
            lambda case: dataclasses.replace(case, annotation=np.full_like(case.mask, UNLABELED)),
            {"weak": "drawn"},
            "No weak case has an annotated pixel",
        ),
        (lambda case: case, {"split_sizes": ((None, 0, 2),)}, "There is no validation case"),
    ],
)
def test_possible_mistakes_give_a_warning(opened, alter, change, settings, expected):
    alter(change)
    text = warnings_of(opened(**settings))
    assert expected in text if expected else not text
