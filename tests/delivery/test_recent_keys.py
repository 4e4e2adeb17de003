"""The recent of keys seen of late, against a list that remembers everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guideway.delivery.recent_keys import RecentKeys, SharedRecentKeys


def test_a_key_is_new_once_until_its_time_is_over() -> None:
    recent: RecentKeys[str] = RecentKeys(ttl_s=10)
    assert recent.add("a", 100)
    assert not recent.add("a", 105)
    assert recent.holds("a", 109.9)
    assert not recent.holds("a", 110), "a repeat does not prolong"
    assert recent.add("a", 110)
    assert recent.pushed_out == 0


def test_renewing_prolongs() -> None:
    recent: RecentKeys[str] = RecentKeys(ttl_s=10)
    recent.add("a", 100)
    recent.renew("a", 105)
    assert recent.holds("a", 114.9)
    assert not recent.holds("a", 115)


def test_the_oldest_goes_first_and_it_is_counted() -> None:
    recent: RecentKeys[int] = RecentKeys(limit=3, ttl_s=10)
    for key in range(5):
        recent.add(key, key)
    assert [key for key in range(5) if recent.holds(key, 5)] == [2, 3, 4]
    assert recent.pushed_out == 2
    recent.add(9, 100)
    assert (len(recent), recent.pushed_out) == (1, 2), "what is over time goes without being pushed out"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=60), st.integers(1, 4))
def test_it_answers_as_a_plain_list_does(steps: list[tuple[int, int]], limit: int) -> None:
    recent: RecentKeys[int] = RecentKeys(limit=limit, ttl_s=7)
    known: list[tuple[int, int]] = []
    now = 0
    for key, later in steps:
        now += later
        known = [(one, at) for one, at in known if now - at < 7]
        new = key not in [one for one, _ in known]
        assert recent.add(key, now) is new
        if new:
            known = [*known, (key, now)][-limit:]
        assert [one for one in range(6) if recent.holds(one, now)] == sorted(one for one, _ in known)


@pytest.mark.parametrize("bounds", [{"limit": 0}, {"ttl_s": 0}])
def test_bounds_are_checked(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RecentKeys(**bounds)


def test_a_shared_window_pushes_out_what_the_largest_party_has_longest() -> None:
    recent: SharedRecentKeys[int] = SharedRecentKeys(limit=10, ttl_s=100)
    for key in range(3):
        recent.renew("small", key, 0)
    for key in range(50):
        recent.renew("large", key, 1)
    assert len(recent) == 10
    assert all(recent.holds("small", key, 2) for key in range(3))
    assert [key for key in range(50) if recent.holds("large", key, 2)] == list(range(43, 50))
    recent.renew("new", 0, 2)
    assert not recent.holds("large", 43, 2), "room for who comes is made by who has most"
    assert recent.pushed_out == 44


def test_in_a_shared_window_what_is_over_makes_room_first() -> None:
    recent: SharedRecentKeys[int] = SharedRecentKeys(limit=4, ttl_s=10)
    for key in range(3):
        recent.renew("old", key, 0)
    recent.renew("new", 0, 11)
    recent.renew("new", 1, 11)
    assert (len(recent), recent.pushed_out) == (2, 0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.integers(0, 5)), max_size=200))
def test_a_shared_window_is_bounded_and_counts_what_it_holds(steps: list[tuple[str, int, int]]) -> None:
    recent, now = SharedRecentKeys[int](limit=7, ttl_s=12), 0
    for party, key, later in steps:
        now += later
        recent.renew(party, key, now)
        assert recent.holds(party, key, now)
        assert len(recent) == sum(map(len, recent._windows.values())) <= 7
