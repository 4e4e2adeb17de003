"""Slots shared among parties, by literal numbers; and on the pipeline itself, in virtual time."""

from __future__ import annotations

from collections.abc import Collection, Hashable

import pytest

from guideway.delivery.intake import UNBOUNDED, Limit, Room


class ByFirstLetter:
    """A party is a topic's first letter; `limits` are what each may have in hand."""

    def __init__(self, **limits: int) -> None:
        self._limits = limits
        self.holding: Collection[Hashable] = ()

    def party(self, topic: str) -> Hashable:
        return topic[0]

    def limits(self, holding: Collection[Hashable]) -> Limit:
        self.holding = holding
        return lambda party: self._limits.get(str(party), UNBOUNDED)


def test_without_an_intake_whoever_comes_first_may_use_all_slots() -> None:
    room = Room(None, 64, {"a": 60}, {"a": 300})
    assert (room.of("a"), room.of("b")) == (4, 4)
    room.take("a", 4)
    assert (room.of("a"), room.of("b")) == (0, 0)


@pytest.mark.parametrize(
    ("running", "of"),
    [
        ({}, {"a": 32, "b": 32}),  # who is alone may use half
        ({"a": 32}, {"a": 0, "b": 21}),  # who comes finds a third
        ({"a": 32, "b": 21}, {"a": 0, "b": 0, "c": 11}),  # a fourth would be 16, and 11 are left
        ({"a": 10, "b": 21}, {"a": 11, "b": 0}),
        ({"a1": 30, "a2": 2}, {"a1": 0, "a3": 0, "b": 21}),  # any number of topics is one party
        ({"a": 63}, {"a": 0, "b": 1}),
    ],
)
def test_a_party_that_comes_finds_room(running: dict[str, int], of: dict[str, int]) -> None:
    room = Room(ByFirstLetter(), 64, running, running)
    assert {topic: room.of(topic) for topic in of} == of


def test_more_parties_than_slots_have_one_each_as_long_as_there_are_any() -> None:
    running = dict.fromkeys("abc", 1)
    room = Room(ByFirstLetter(), 4, running, running)
    assert (room.of("a"), room.of("d")) == (0, 1)
    room.take("d", 1)
    assert room.of("e") == 0


def test_what_is_in_hand_is_limited_with_what_is_still_to_be_published() -> None:
    intake = ByFirstLetter(a=10)
    room = Room(intake, 64, {"a": 0, "b": 0}, {"a": 8, "b": 0})
    assert (room.of("a"), room.of("b")) == (2, 32), "what waits to be published holds no slot"
    assert list(intake.holding) == ["a"]
    room.take("a", 2)
    assert room.of("a") == 0
    assert room.of("b") == 21, "a holds slots now"


def test_a_limit_below_what_is_in_hand_takes_nothing() -> None:
    room = Room(ByFirstLetter(a=3), 64, {"a": 5}, {"a": 5})
    assert room.of("a") == 0
