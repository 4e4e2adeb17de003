"""A limit in any minute, by literal times and by any times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guideway.producers.intake.minute import MINUTE_S, Minute


@pytest.mark.parametrize(
    ("amount", "now", "wait_s"),
    [
        (4, 10.0, 0.0),
        (5, 10.0, 50.0),
        (10, 10.0, 50.0),
        (11, 10.0, 57.5),
        (12, 10.0, 57.5),
        (99, 10.0, 57.5),
        (11, 60.0, 7.5),
        (99, 67.5, 0.0),
    ],
)
def test_amounts_come_back_a_minute_after_they_were_used(amount: int, now: float, wait_s: float) -> None:
    minute = Minute()
    minute.use(6, 0.0)
    minute.use(2, 7.5)
    assert minute.wait_s(amount, 12, now) == wait_s


def test_what_is_used_together_comes_back_together() -> None:
    minute = Minute()
    for now in (0.0, 0.1, 0.2, 0.3):
        minute.use(1, now)
    assert [minute.used(now) for now in (60.0, 60.2, 60.3)] == [4, 1, 0]


uses = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 12)), max_size=60)
"""(seconds after the one before, amount)"""


@given(uses, st.integers(1, 30))
def test_never_more_than_the_limit_in_any_minute_and_nobody_waits_longer_than_one(
    wanted: list[tuple[float, int]], limit: int
) -> None:
    minute, now, let = Minute(), 0.0, list[tuple[float, int]]()
    for after, amount in wanted:
        now += after
        wait_s = minute.wait_s(amount, limit, now)
        assert 0 <= wait_s <= MINUTE_S + 1e-9
        now += wait_s
        # Rounding may leave a little of the wait.
        now += 1e-6 * (wait_s > 0)
        assert minute.wait_s(amount, limit, now) == 0, "who has waited is let through"
        minute.use(min(amount, limit), now)
        let.append((now, min(amount, limit)))
    for begin, _ in let:
        assert sum(amount for at, amount in let if begin <= at < begin + MINUTE_S) <= limit
