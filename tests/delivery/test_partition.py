"""One partition beside a Kafka of a few lines: what the simulation does not come to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from structlog.testing import capture_logs
from tests.delivery.simulated_kafka import VirtualTime

from guideway.delivery.completed_set import encode
from guideway.delivery.partition import Partition, Phase
from guideway.delivery.settings import DeliverySettings
from guideway.schemas.record import Outgoing, Record

TP = TopicPartition("in", 0)


class FewLines:
    """A partition that holds the offsets from `first` to before `end`, of which `committed` was committed."""

    def __init__(self, committed: OffsetAndMetadata, first: int, end: int) -> None:
        self._committed, self._first, self._end = committed, first, end
        self.sought: list[int] = []

    def producer(self, transactional_id: str) -> FewLines:
        return self

    async def start(self) -> None:
        pass

    begin_transaction = commit_transaction = start

    async def send_offsets_to_transaction(self, offsets: dict[TopicPartition, OffsetAndMetadata], _: str) -> None:
        self._committed = offsets[TP]

    async def renew(self, producer: Any) -> None:
        pass

    async def discard(self, producer: Any) -> None:
        pass

    async def committed(self, tp: TopicPartition) -> OffsetAndMetadata | None:
        return self._committed

    async def first_offset(self, tp: TopicPartition) -> int:
        return self._first

    async def end_offset(self, tp: TopicPartition) -> int:
        return self._end

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.sought.append(offset)

    async def partitions(self, topic: str) -> int:
        return 1


async def nothing(record: Record) -> list[Outgoing]:
    await asyncio.Event().wait()
    return []


async def opened(kafka: FewLines, *, out_of_range: bool = False) -> Partition:
    partition = Partition(TP, group="g", kafka=kafka, settings=DeliverySettings(bootstrap="b"), handle=nothing)
    partition.own()
    while partition.phase is not Phase.OPEN:
        await asyncio.sleep(0)
    if out_of_range:
        partition.take(Record(topic="in", partition=0, offset=150, timestamp_ms=0, key=None, value=b""))
        partition.out_of_range()
        while partition.phase is not Phase.OPEN:
            await asyncio.sleep(0)
    return partition


async def closed(partition: Partition) -> None:
    await partition.disown(1)
    partition.abandon()
    await asyncio.sleep(0)


async def test_it_opens_where_the_group_left_off() -> None:
    kafka = FewLines(OffsetAndMetadata(7, encode(7, {9})), 0, 20)
    partition = await opened(kafka)
    for offset in (7, 8, 9, 10):
        partition.take(Record(topic="in", partition=0, offset=offset, timestamp_ms=0, key=None, value=b""))
    assert (kafka.sought, partition.running) == ([7], 3)
    await closed(partition)


async def test_what_was_deleted_unanswered_is_said_and_passed_over() -> None:
    kafka = FewLines(OffsetAndMetadata(100, ""), 140, 200)
    with capture_logs() as logs:
        partition = await opened(kafka, out_of_range=True)
    assert kafka.sought == [100, 140]
    assert partition.running == 1, "work on what is still there goes on"
    assert [(one["unanswered_from"], one["deleted_up_to"]) for one in logs] == [(100, 140)]
    await closed(partition)


async def test_a_partition_that_ends_before_our_position_is_a_new_one() -> None:
    kafka = FewLines(OffsetAndMetadata(100, ""), 0, 5)
    with capture_logs() as logs:
        partition = await opened(kafka, out_of_range=True)
    assert kafka.sought == [100, 0]
    assert partition.running == 0, "its offsets mean other records now"
    assert "made anew" in logs[0]["event"]
    await closed(partition)


async def test_a_foreign_completed_set_keeps_the_partition_closed() -> None:
    kafka = FewLines(OffsetAndMetadata(7, "somebody else's"), 0, 20)
    partition = Partition(TP, group="g", kafka=kafka, settings=DeliverySettings(bootstrap="b"), handle=nothing)
    with capture_logs() as logs:
        partition.own()
        while not logs:
            await asyncio.sleep(0)
    assert partition.phase is Phase.OPENING
    assert "version" in logs[0]["error"]
    assert not kafka.sought, "replaying silently would repeat results"
    await closed(partition)


async def takes_as_long_as_it_says(record: Record) -> list[Outgoing]:
    await asyncio.sleep(float(record.value or b"0"))
    return []


async def published(begun: list[float], took: list[float]) -> list[tuple[float, int]]:
    """(seconds, low watermark) of every commit with results, for records that begin then and take so long.

    Work begins 20 ms late, once it is noted that it does.
    """

    class Clocked(FewLines):
        async def send_offsets_to_transaction(self, offsets: dict[TopicPartition, OffsetAndMetadata], _: str) -> None:
            commits.append((round(asyncio.get_running_loop().time() - start, 3), offsets[TP].offset))

    commits: list[tuple[float, int]] = []
    kafka = Clocked(OffsetAndMetadata(0, ""), 0, 20)
    settings = DeliverySettings(bootstrap="b")
    partition = Partition(TP, group="g", kafka=kafka, settings=settings, handle=takes_as_long_as_it_says)
    partition.own()
    while partition.phase is not Phase.OPEN:
        await asyncio.sleep(0)
    start = asyncio.get_running_loop().time()
    for offset, (when, long) in enumerate(zip(begun, took, strict=True)):
        await asyncio.sleep(when + start - asyncio.get_running_loop().time())
        value = str(long).encode()
        partition.take(Record(topic="in", partition=0, offset=offset, timestamp_ms=0, key=None, value=value))
    await asyncio.sleep(100)
    await closed(partition)
    return [(when, low) for when, low in commits if low > 0]


@pytest.mark.parametrize(
    ("begun", "took", "commits"),
    [
        ([0.0], [1.0], [(1.071, 1)]),
        ([0.0], [0.1], [(0.14, 1)]),
        ([0.0], [61.0], [(61.52, 1)]),
        ([0.0, 0.0, 0.0], [5.0, 5.1, 5.2], [(5.271, 3)]),
        ([0.0, 0.0], [5.0, 5.4], [(5.271, 1), (5.691, 2)]),
        ([0.0, 5.1], [5.0, 0.01], [(5.13, 2)]),
    ],
    ids=["a twentieth more", "at least 20 ms", "at most 0.5 s", "three at once", "one too late", "a quick one hurries"],
)
def test_results_wait_for_others_for_a_share_of_what_they_took(
    begun: list[float], took: list[float], commits: list[tuple[float, int]]
) -> None:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        assert runner.run(published(begun, took)) == commits
