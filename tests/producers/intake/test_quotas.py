"""What a namespace may still do, by literal times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guideway.delivery.intake import UNBOUNDED
from guideway.producers.intake.minute import MINUTE_S
from guideway.producers.intake.owned_part import OwnedPart, parts
from guideway.producers.intake.quotas import ADDRESS_S, Quotas
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.namespace import Namespace


def quotas(part: float = 1.0, **limits: Any) -> Quotas:
    """Of the namespace `a`; all others have no limits."""
    limited = Namespace(namespace="public", name="a", **limits)
    return Quotas(lambda name: limited if name == "a" else Namespace(namespace="public", name=name), lambda name: part)


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(Refusal) as caught:
        act()
    assert caught.value.code is FailureCode.QUOTA_EXCEEDED
    assert caught.value.code.retryable
    return caught.value.message


def test_without_limits_nothing_is_counted() -> None:
    one = quotas()
    for _ in range(1000):
        one.request("a", 0, 0.0)
        one.tokens("a", 10**9, 0.0)
        one.cancellation("a", 0.0)
    assert one.room("a", 10**6, 0.0) == UNBOUNDED
    assert not one._of


def test_requests_wait_until_a_minute_after_those_before() -> None:
    one = quotas(requests_per_minute=3)
    assert one.room("a", 0, 0.0) == 3
    for now in (0.0, 1.0, 2.0):
        one.request("a", 0, now)
    assert [one.room("a", 0, now) for now in (2.0, 59.9, 60.0, 61.0, 62.0)] == [0, 0, 1, 2, 3]
    assert one.held["a", "requests_per_minute"] == 2
    assert one.room("b", 0, 2.0) == UNBOUNDED, "another's limit is not this one's"


def test_who_wants_it_is_refused_and_told_when_to_come_again() -> None:
    one = quotas(requests_per_minute=2, over_limit="refuse")
    assert one.room("a", 0, 0.0) == UNBOUNDED
    one.request("a", 0, 0.0)
    one.request("a", 0, 12.0)
    told = refused(lambda: one.request("a", 0, 20.0))
    assert told.startswith("namespace a is at its limit `requests_per_minute`: 2 requests in the last minute, 2 may be")
    assert "again in 40 s" in told
    one.request("a", 0, 60.0)


def test_the_first_request_is_taken_alone_because_nobody_knows_its_size() -> None:
    one = quotas(tokens_per_minute=1000)
    assert one.room("a", 0, 0.0) == 1
    one.tokens("a", 100, 0.0)
    assert one.room("a", 0, 1.0) == 9, "as many as fit, if all are as large"
    one.tokens("a", 450, 1.0)
    assert one.room("a", 0, 1.0) == 1
    one.tokens("a", 450, 2.0)
    assert one.room("a", 0, 2.0) == 0
    assert one.room("a", 0, 62.0) == 2


def test_a_request_of_more_tokens_than_a_minute_has_takes_the_whole_minute() -> None:
    one = quotas(tokens_per_minute=1000)
    one.tokens("a", 5000, 0.0)
    assert [one.room("a", 0, now) for now in (1.0, 59.9, 60.0)] == [0, 0, 1]


def test_waiting_work_is_bounded() -> None:
    one = quotas(waiting=10)
    assert [one.room("a", waiting, 0.0) for waiting in (0, 9, 10, 11)] == [10, 1, 0, 0]
    strict = quotas(waiting=10, over_limit="refuse")
    strict.request("a", 9, 0.0)
    assert "10 of its requests are unanswered, 10 may be" in refused(lambda: strict.request("a", 10, 0.0))


def test_cancellations_beyond_the_limit_wait_with_what_is_behind_them() -> None:
    one = quotas(cancellations_per_minute=2)
    assert one.may_cancel_ahead("a", 0.0)
    one.cancellation("a", 0.0)
    assert not one.may_cancel_ahead("a", 1.0)
    assert [one.room("a", 0, now) for now in (1.0, 60.0)] == [0, UNBOUNDED]
    assert one.may_cancel_ahead("b", 1.0)


def test_reply_topics_in_use_are_bounded_and_come_free() -> None:
    one = quotas(reply_addresses=2)
    one.address("a", "gw.a.x.out.v1", 0.0)
    one.address("a", "gw.a.y.out.v1", 10.0)
    one.address("a", "gw.a.x.out.v1", 20.0)
    assert "2 reply topics are in use, 2 may be" in refused(lambda: one.address("a", "gw.a.z.out.v1", 30.0))
    one.address("a", "gw.a.z.out.v1", 10.0 + ADDRESS_S)
    assert "are in use" in refused(lambda: quotas(reply_addresses=0).address("a", "gw.a.x.out.v1", 0.0))


def test_several_processes_have_parts_of_a_limit_and_each_has_one_at_least() -> None:
    assert quotas(0.25, requests_per_minute=10).room("a", 0, 0.0) == 2
    assert quotas(0.25, requests_per_minute=1).room("a", 0, 0.0) == 1


def test_a_part_is_that_of_the_namespaces_event_partitions() -> None:
    owned = {"gw.a.x.in.v1": (1, 4), "gw.a.y.in.v1": (2, 2), "gw.b.x.in.v1": (0, 1), "other": (1, 1)}
    assert parts(owned) == {"a": 0.5, "b": 0.0}

    class Fake:
        assignments = 1

        def owned(self) -> dict[str, tuple[int, int]]:
            return owned

    fake = Fake()
    part = OwnedPart(lambda: fake)
    assert (part("a"), part("unknown")) == (0.5, 1.0)
    owned["gw.a.x.in.v1"] = (4, 4)
    assert part("a") == 0.5, "counted once for each assignment"
    fake.assignments = 2
    assert part("a") == 1.0


@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 400)), max_size=40),
    st.integers(1, 8),
    st.integers(1, 1000),
    st.lists(st.sampled_from([1 / 3, 0.5, 1 / 6]), min_size=1, max_size=3),
)
def test_requests_never_exceed_the_limit_in_any_minute_over_all_processes(
    wanted: list[tuple[float, int]], requests: int, tokens: int, owned: list[float]
) -> None:
    """Each process takes in one event at a time, whenever it has room; they are asked in turn."""
    limit = max(requests, len(owned))
    several = [quotas(part, requests_per_minute=limit, tokens_per_minute=tokens) for part in owned]
    let: list[float] = []
    now = 0.0
    for number, (after, count) in enumerate(wanted):
        now += after
        one = several[number % len(several)]
        if one.room("a", 0, now) >= 1:
            one.request("a", 0, now)
            one.tokens("a", count, now)
            let.append(now)
    for begin in let:
        assert sum(begin <= at < begin + MINUTE_S for at in let) <= max(limit, len(owned))
    for one in several:
        assert one.room("a", 0, now + MINUTE_S + 1) >= 1, "nobody waits for ever"
