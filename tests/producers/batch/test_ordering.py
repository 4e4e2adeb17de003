"""In which order rows are sent."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from guideway.producers.batch.ordering import sending_order
from guideway.producers.batch.stored import SentRow

ENDPOINTS = st.sampled_from([None, "/shop/mood", "/shop/topic", "/lender/parts"])
GUIDANCE = st.sampled_from([(), ("shop/reviews",), ("shop/reviews", "public/short")])


@given(kinds=st.lists(st.tuples(ENDPOINTS, GUIDANCE), max_size=80), first=st.integers(0, 1000))
def test_each_row_is_sent_once_and_those_of_one_kind_together_in_the_order_of_the_file(
    kinds: list[tuple[str | None, tuple[str, ...]]], first: int
) -> None:
    rows = [
        (first + place, SentRow(place + 1, f"r{place}", endpoint, b"{}", "application/json", (), guidance))
        for place, (endpoint, guidance) in enumerate(kinds)
    ]
    found = sending_order(rows)
    assert sorted(found, key=lambda one: one[0]) == rows
    runs = [list(run) for _, run in groupby(found, key=lambda one: (one[1].endpoint, one[1].guidance))]
    assert len(runs) == len({*kinds})
    for run in runs:
        assert run == sorted(run, key=lambda one: one[0])
