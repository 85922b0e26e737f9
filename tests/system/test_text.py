"""Tables line up and survive a round trip."""

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from msl_jax.system import text

TEXT = st.text(st.characters(blacklist_categories=("C", "Z"), blacklist_characters="|"))
ROWS = st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(TEXT, min_size=n, max_size=n), min_size=1))


@given(ROWS)
def test_markdown_lines_up_and_contains_every_cell(rows):
    lines = text.markdown(rows[0], rows[1:]).split("\n")
    assert len({len(line) for line in lines}) == 1
    assert set(lines.pop(1)) == {"|", "-"}
    assert [[cell.strip() for cell in line[1:-1].split("|")] for line in lines] == rows


@given(st.lists(st.lists(st.text(st.characters(blacklist_categories=("C",))), min_size=2, max_size=2)))
def test_csv_round_trip(rows):
    assert list(csv.reader(io.StringIO(text.csv_text(rows)))) == rows
