"""How far partitions are read, and which topics were made anew, with literal offsets."""

from __future__ import annotations

from aiokafka.structs import TopicPartition

from guideway.delivery.clients.positions import Positions

A0, A1, B0 = TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("b", 0)


def reading(**offsets: int) -> Positions:
    positions = Positions()
    for tp, offset in zip((A0, A1, B0), offsets.values(), strict=True):
        positions.add([tp])
        positions.move(tp, offset)
    return positions


def test_all_is_taken_where_each_partition_is_at_its_end_or_beyond_and_one_that_is_not_read_does_not_count() -> None:
    positions = reading(a0=3, a1=5, b0=0)
    assert positions.has_reached({A0: 3, A1: 4, B0: 0})
    assert not positions.has_reached({A0: 4})
    assert positions.has_reached({TopicPartition("c", 0): 7})
    assert positions.has_passed(A0, 2)
    assert not positions.has_passed(A0, 3)
    assert not positions.has_passed(TopicPartition("c", 0), 0)


def test_a_topic_was_made_anew_where_it_goes_back_or_ends_before_its_position() -> None:
    positions = reading(a0=3, a1=5, b0=2)
    assert positions.goes_back(A0, 2)
    assert not positions.goes_back(A0, 3)
    assert positions.beyond({A0: 3, A1: 4, B0: 2}) == {"a"}
    positions.begin_anew("a")
    assert dict(positions.items()) == {A0: 0, A1: 0, B0: 2}
    assert positions.anew == 1
    assert not positions.goes_back(A0, 0)


def test_what_is_forgotten_does_not_move_and_is_read_from_its_beginning_if_it_comes_again() -> None:
    positions = reading(a0=3, a1=5, b0=2)
    positions.forget({"a"})
    positions.move(A0, 4)
    assert dict(positions.items()) == {B0: 2}
    assert (positions.topics, A0 in positions, positions.of("a")) == ({"b"}, False, [])
    positions.add([A1])
    assert dict(positions.items()) == {B0: 2, A1: 0}
