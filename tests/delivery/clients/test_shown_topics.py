"""Which topics are read, left out and forgotten, with literal times."""

from __future__ import annotations

from guideway.delivery.clients.shown_topics import ShownTopics


def test_what_is_new_is_read_and_what_is_missing_for_three_looks_is_forgotten() -> None:
    """A broker that lags behind may not show a topic that was made a moment ago."""
    shown = ShownTopics(look_s=10, look_again_s=60)
    assert shown.heed({"a", "b"}, set(), shown=2, now=0) == ({"a", "b"}, set())
    assert shown.heed({"a"}, {"a", "b"}, shown=1, now=10) == (set(), set())
    assert shown.missing == {"b": 10}
    assert shown.heed({"a", "b"}, {"a", "b"}, shown=2, now=20) == (set(), set())
    assert shown.missing == {}
    for now in (30, 40, 50):
        assert shown.heed({"a"}, {"a", "b"}, shown=1, now=now) == (set(), set())
    assert shown.heed({"a"}, {"a", "b"}, shown=1, now=60) == (set(), {"b"})
    assert shown.missing == {}
    assert shown.heed({"a", "b"}, {"a"}, shown=2, now=70) == ({"b"}, set())


def test_what_may_not_be_read_is_tried_again_later() -> None:
    shown = ShownTopics(look_s=10, look_again_s=60)
    shown.refused("b", now=5)
    assert shown.heed({"a", "b"}, {"a"}, shown=2, now=64) == (set(), set())
    assert shown.heed({"a", "b"}, {"a"}, shown=2, now=65) == ({"b"}, set())


def test_the_question_takes_a_fifth_of_the_time_at_most() -> None:
    shown = ShownTopics(look_s=10, look_again_s=60)
    assert shown.rest_s(0) == 0
    shown.heed(set(), set(), shown=1000, now=100)
    assert 0.2 < shown.rest_s(100) <= 0.25
    assert shown.rest_s(101) == 0
    shown.heed(set(), set(), shown=1_000_000, now=200)
    assert shown.rest_s(200) == 1, "whoever asks for a new namespace waits for it"
