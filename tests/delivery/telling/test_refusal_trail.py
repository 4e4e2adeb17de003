"""Refusals in the audit trail: told, counted, bounded."""

from __future__ import annotations

import msgspec

from guideway.delivery.telling.refusal_trail import MOST, MOST_THINGS, WINDOW_S, Refusals
from guideway.schemas.failures import FailureCode
from guideway.schemas.services.audit import Audited


def refused(offset: int = 0, **fields: object) -> Audited:
    one = Audited(
        at_ms=1, service="endpoints", action="refused", namespace="shop", what="/a/b", code=FailureCode.NOT_ALLOWED,
        topic="gw.shop.call.v1", partition=0, offset=offset,
    )  # fmt: skip
    return msgspec.structs.replace(one, **fields)


def test_the_first_is_told_at_once_and_the_others_are_counted() -> None:
    refusals = Refusals()
    told = [one for offset in range(1, 1001) for one in refusals.note(refused(offset), 0.0)]
    assert [(one.offset, one.count) for one in told] == [(1, 1), (2, 9), (11, 90), (101, 900)]
    assert sum(one.count for one in told) == 1000


def test_what_is_left_is_told_after_the_window() -> None:
    refusals = Refusals()
    for offset in range(5):
        refusals.note(refused(offset), 0.0)
    assert refusals.note(refused(5), WINDOW_S - 1) == []
    left, first = refusals.note(refused(6, what="/c/d"), WINDOW_S)
    assert (left.what, left.offset, left.count) == ("/a/b", 1, 5)
    assert (first.what, first.count) == ("/c/d", 1)


def test_a_million_refusals_of_a_million_things_are_few_records() -> None:
    refusals = Refusals()
    told = [one for n in range(20_000) for one in refusals.note(refused(n, what=f"/a/x{n}"), 0.0)]
    assert len(told) <= MOST_THINGS + 5
    others = Refusals()
    told = [one for n in range(20_000) for one in others.note(refused(n, namespace=f"n{n}"), 0.0)]
    assert len(told) <= MOST + 5
    assert sum(one.count for one in told) > 10_000
