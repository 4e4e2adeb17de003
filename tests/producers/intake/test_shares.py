"""Shares of a lane, by literal numbers and times."""

from __future__ import annotations

import pytest
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.progress import Progress
from guideway.delivery.intake import UNBOUNDED
from guideway.producers.intake.shares import HEAVY_BYTES, LEAST, Party, Shares

LANE = "gw.infer.small.interactive.v1"
OTHER = "gw.infer.small.batch.v1"
A, B, C = (Party(namespace, LANE) for namespace in "abc")


def at(partition: int = 0, lane: str = LANE) -> TopicPartition:
    return TopicPartition(lane, partition)


def published(shares: Shares, namespace: str, offsets: range, partition: int = 0, *, now: float = 0) -> None:
    for offset in offsets:
        shares.published(at(partition), offset, namespace, 100, now)


def room(shares: Shares, *parties: Party, holding: tuple[Party, ...] = (), now: float = 0) -> list[int]:
    limit = shares.limits(holding, now)
    return [limit(party) for party in parties]


def test_who_is_alone_has_the_whole_lane_and_who_comes_finds_a_share() -> None:
    shares = Shares(queue=256)
    assert room(shares, A) == [256]
    published(shares, "a", range(256))
    assert room(shares, A, B) == [0, 128]
    assert room(shares, A, B, C, holding=(B,)) == [0, 128, 85], "what is in hand counts as being there"
    assert room(shares, Party("a", OTHER)) == [256], "another lane is another queue"


def test_however_many_there_are_everybody_has_a_little() -> None:
    shares = Shares(queue=256)
    for number in range(100):
        published(shares, f"n{number}", range(number, number + 1))
    assert room(shares, A, Party("n0", LANE)) == [LEAST, LEAST - 1]


def test_a_lane_is_divided_by_weight() -> None:
    shares = Shares(queue=300, weight=lambda namespace: 2.0 if namespace == "a" else 1.0)
    published(shares, "b", range(1))
    assert room(shares, A, B) == [200, 299]
    assert room(shares, A, B, holding=(A, B)) == [200, 99]
    assert shares.waiting("b") == 1


def test_what_the_workers_have_committed_makes_room() -> None:
    shares = Shares(queue=100)
    published(shares, "a", range(60), partition=0)
    published(shares, "a", range(40), partition=1)
    assert room(shares, A) == [0]
    # Below 20 and 30 to 34 of the one; of the other nothing was ever committed.
    shares.answered({at(0): Progress(20, {30, 31, 32, 33, 34}, 61), at(1): Progress(0, (), 0)}, now=1)
    assert room(shares, A, now=1) == [25]
    assert shares.unanswered([LANE]) == 75
    shares.answered({at(0): Progress(61, (), 61), at(1): Progress(40, (), 40)}, now=2)
    assert shares.lanes == [], "nothing to ask about"
    # Everything was answered a second ago, or two.
    assert room(shares, A, B, now=2.5) == [100, 100]


def test_a_lane_that_is_drained_fast_may_hold_what_two_seconds_drain() -> None:
    shares = Shares(queue=100)
    low = 0
    for now in (0.0, 0.2, 0.4):
        published(shares, "a", range(low, low + 80), now=now)
        low += 80
        shares.answered({at(): Progress(low, (), low)}, now)
    assert shares.target(LANE, 0.4) == 4 * 240, "240 in half a second"
    assert shares.target(LANE, 0.6) == 4 * 160
    assert shares.target(LANE, 0.9) == 100


def test_each_worker_is_kept_busy() -> None:
    shares = Shares(queue=100)
    published(shares, "a", range(100))
    shares.workers([LANE], 3)
    assert room(shares, A, B) == [200, 150]
    shares.workers([LANE], 0)
    assert room(shares, A, B) == [0, 50], "without any worker one is expected"


def test_a_long_request_weighs_more() -> None:
    shares = Shares(queue=256)
    shares.published(at(), 0, "a", 63 * HEAVY_BYTES, now=0)
    assert room(shares, A) == [256 - 64]


def test_a_crowded_lane_gives_everybody_the_least() -> None:
    """After a restart, or where many services run, what is in the lane is not known to be anybody's."""
    shares = Shares(queue=100)
    published(shares, "a", range(1000, 1004))
    shares.answered({at(): Progress(600, (), 1004)}, now=0)
    assert room(shares, A, B) == [LEAST - 4, LEAST]
    shares.answered({at(): Progress(604, (), 1004)}, now=1)
    assert room(shares, A, B, now=1) == [100 - 4, 50]


def test_a_partition_that_stands_still_crowds_nobody_and_holds_nobody_up() -> None:
    shares = Shares(queue=100)
    published(shares, "a", range(50), partition=0)
    published(shares, "a", range(50), partition=1)
    told = {at(0): Progress(0, (), 9000), at(1): Progress(1, (), 50)}
    shares.answered(told, now=0)
    assert room(shares, B) == [LEAST]
    shares.answered(told, now=59)
    assert room(shares, A, now=59) == [0]
    shares.answered(told, now=60)
    assert room(shares, A, B, now=60) == [1, 50], "no worker has answered anything for a minute: all of it waits"
    shares.answered({at(0): Progress(0, (), 9000), at(1): Progress(2, (), 50)}, now=61)
    assert room(shares, A, now=61) == [100 - 48], "the others get on"
    shares.answered({at(0): Progress(50, (), 9000), at(1): Progress(2, (), 50)}, now=62)
    assert shares.unanswered([LANE]) == 48, "what was given up is not counted twice"


@pytest.mark.parametrize(("now", "limit"), [(10.0, 0), (39.9, 0), (40.0, UNBOUNDED)])
def test_who_cannot_see_for_long_holds_nothing_back(now: float, limit: int) -> None:
    shares = Shares(queue=100)
    published(shares, "a", range(100))
    shares.unknown([LANE], now=10)
    shares.unknown([LANE], now=20)
    assert room(shares, A, now=now) == [limit]
    shares.answered({at(): Progress(0, (), 100)}, now=now)
    assert room(shares, A, now=now) == [0], "until it sees again"


def test_events_of_what_is_gone_wait_for_no_worker() -> None:
    assert room(Shares(), Party("a", "")) == [UNBOUNDED]


def test_a_lane_that_is_gone_is_forgotten_with_what_was_in_it() -> None:
    shares = Shares(queue=100)
    published(shares, "a", range(100))
    shares.forget(LANE)
    assert room(shares, A) == [100]
    assert shares.lanes == []
