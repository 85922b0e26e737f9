"""The output of a run during training."""

import itertools

import pytest

from msl_jax.runs import journal

COLUMNS = ["step", "learning_rate", "loss", "kd", "validation_dice_student", "validation_dice_student_LV", "skipped"]


@pytest.fixture(autouse=True)
def ten_seconds(monkeypatch):
    """Ten seconds between two reads of the clock."""
    monkeypatch.setattr(journal.time, "monotonic", itertools.count(0, 10).__next__)


def test_a_report_is_one_line_and_the_header_repeats(capsys):
    clock = journal.Clock(0, 3000, COLUMNS)
    for step in range(100, 3100, 100):
        clock.print_row(step, {"learning_rate": 0.004, "loss": 12.34567, "kd": 0.00001})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 30 + 2 and lines[0] == lines[21] and lines[0].split()[:3] == ["step", "steps/s", "min"]
    assert lines[1] == " 100/3000     10.00       4.8   12.3457    0.0000"
    assert [line.split()[0] for line in lines[22:]] == [f"{step}/3000" for step in range(2100, 3100, 100)]


@pytest.mark.parametrize("steps", [10, 2000, 150_000])
def test_every_value_is_below_its_name(capsys, steps):
    clock = journal.Clock(steps - 10, steps, COLUMNS)
    clock.print_row(steps, dict(zip(COLUMNS[2:], (0.5, 0.25, 0.831, 1.0, 2), strict=True)))
    header, line = (f" {line}" for line in capsys.readouterr().out.splitlines())
    for name, value in (
        ("step", f"{steps}/{steps}"),
        ("steps/s", "1.00"),
        ("min left", "0.0"),
        ("loss", "0.5000"),
        ("kd", "0.2500"),
        ("student Dice %", "83.1"),
        ("student LV %", "100.0"),
        ("skipped", "2"),
    ):
        assert line[: header.index(name) + len(name)].endswith(f" {value}")
