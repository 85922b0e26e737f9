"""What may be installed: ranges, in the form from which .ci/versions takes the lowest versions."""

import re

from processes import ROOT


def test_every_requirement_has_a_lower_and_an_upper_bound():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[\w-]+(\[\w+\])?>=[\d.]+,<[\d.]+(; [^#]+|  # .+)?", line), line
    names = [re.match(r"[\w-]+", line).group() for line in lines]
    assert names == sorted(set(names), key=str.lower)
