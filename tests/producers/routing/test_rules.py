"""Which rule of a router holds for an event, and which rules are refused beforehand."""

from __future__ import annotations

import time
from typing import Any

import pytest

from guideway.producers.routing.rules import Facts, check_rule, facts_of, ruled, text_of
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.router import RoutingRule
from guideway.schemas.record import Record


def rule(when: str, endpoint: str = "/team/task") -> RoutingRule:
    return RoutingRule(when=when, endpoint=endpoint)


def facts(content: Any = "hello", key: bytes | None = b"k", **headers: bytes | None) -> Facts:
    record = Record(
        topic="gw.team.call.v1",
        partition=0,
        offset=0,
        timestamp_ms=1,
        key=key,
        value=b"",
        headers=[*headers.items()],
    )
    return facts_of(record, content)


def test_the_first_rule_that_holds_decides() -> None:
    rules = [rule("headers.task == 'a'"), rule("fields.address"), rule("contains(text, '?')"), rule("`true`")]
    assert ruled(rules, facts(task=b"a")) == 0
    assert ruled(rules, facts({"address": "x", "text": "why?"})) == 1
    assert ruled(rules, facts("why?")) == 2
    assert ruled(rules, facts("so")) == 3
    assert ruled(rules[:3], facts("so")) is None
    assert ruled([], facts()) is None


@pytest.mark.parametrize("value", ["", None, [], {}, False])
def test_what_is_false_for_jmespath_does_not_hold(value: Any) -> None:
    assert ruled([rule("fields.a")], facts({"a": value})) is None


@pytest.mark.parametrize("value", [0, "0", [0], {"a": None}, True, "false"])
def test_all_else_holds(value: Any) -> None:
    assert ruled([rule("fields.a")], facts({"a": value})) == 0


def test_a_rule_that_does_not_fit_the_event_does_not_hold_and_the_next_is_tried() -> None:
    rules = [rule("starts_with(headers.task, 'a')"), rule("fields.n > `3`"), rule("key == 'k'")]
    assert ruled(rules, facts({"n": "four"})) == 2
    assert ruled(rules, facts({"n": 4})) == 1
    assert ruled(rules, facts(key=None)) is None


def test_what_is_no_text_is_left_out_and_the_last_of_repeated_headers_counts() -> None:
    record = Record(
        topic="gw.team.call.v1",
        partition=0,
        offset=0,
        timestamp_ms=1,
        key=b"\xff",
        value=b"",
        headers=[("task", b"a"), ("task", b"b"), ("task", b"\xff"), ("none", None)],
    )
    assert facts_of(record, "x") == {"fields": {}, "headers": {"task": "b"}, "text": "x", "key": None}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        ({"text": "a", "b": "c"}, "a"),
        ({"b": "c", "n": 1, "d": "e"}, "c\ne"),
        ({"text": 7, "b": "c"}, "c"),
        ({}, ""),
    ],
)
def test_the_text_of_an_event(content: Any, text: str) -> None:
    assert text_of(content) == text


def test_rules_that_cost_too_much_are_refused_in_bounded_time() -> None:
    """A list of two of the list before, thirty times, would have a billion values."""
    doubling = "@"
    for _ in range(30):
        doubling = f"[{doubling}, {doubling}]" if len(doubling) < 400 else f"{doubling} | [@, @]"
    explode = rule(f"[fields] | {' | '.join(['[@, @]'] * 30)}")
    begun = time.monotonic()
    with pytest.raises(Refusal, match=r"rule 2: .*cost more") as refused:
        ruled([rule("fields.a"), explode], facts({"a": ""}))
    assert refused.value.code is FailureCode.NO_ROUTE
    assert time.monotonic() - begun < 5


def test_all_rules_of_a_router_share_one_budget() -> None:
    costly = [rule("length(map(&length(@), fields.a)) < `0`") for _ in range(200)]
    with pytest.raises(Refusal, match="cost more"):
        ruled(costly, facts({"a": ["x"] * 2000}))


@pytest.mark.parametrize(
    ("when", "why"),
    [
        ("fields.", "not JMESPath"),
        ("fields.a ==", "not JMESPath"),
        ("header.task", "did you mean headers"),
        ("address == 'x'", "write `fields.address`"),
        ("contain(text, 'x')", "its functions are"),
        ("contains(text)", "argument"),
        ("`false`", "never holds"),
        ("[fields] | " + " | ".join(["[@, @]"] * 40), "cost more"),
    ],
)
def test_a_rule_that_can_hold_for_no_event_is_refused(when: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_rule(rule(when))


@pytest.mark.parametrize("when", ["fields.a", "text", "`true`", 'headers."content-type"', "contains(key, 'x')"])
def test_a_rule_that_can_hold_is_taken(when: str) -> None:
    check_rule(rule(when))
