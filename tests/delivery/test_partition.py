"""One partition beside a Kafka of a few lines: what the simulation does not come to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from structlog.testing import capture_logs
from tests.delivery.simulation.simulated_kafka import VirtualTime

from guideway.delivery.guards.transaction_guards import OutcomeUnknown
from guideway.delivery.offsets.commit_metadata import decode, encode
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

    async def alive(self) -> frozenset[int]:
        return frozenset()

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


class Clocked(FewLines):
    """Remembers (seconds, low watermark) of every commit."""

    def __init__(self, transaction_s: float) -> None:
        super().__init__(OffsetAndMetadata(0, ""), 0, 20)
        self.commits: list[tuple[float, int]] = []
        self._transaction_s = transaction_s

    async def send_offsets_to_transaction(self, offsets: dict[TopicPartition, OffsetAndMetadata], _: str) -> None:
        await super().send_offsets_to_transaction(offsets, _)
        self.commits.append((round(asyncio.get_running_loop().time(), 3), offsets[TP].offset))
        await asyncio.sleep(self._transaction_s)


async def published(
    records: list[tuple[float, float]], ends: float = 70, transaction_s: float = 0
) -> list[tuple[float, int]]:
    """The commits with results, for records that (come, take) so many seconds and a partition taken away at `ends`.

    Work begins late by 20 ms and a transaction, once it is noted that it does.
    """
    kafka, settings = Clocked(transaction_s), DeliverySettings(bootstrap="b", flush_results=3)
    partition = Partition(TP, group="g", kafka=kafka, settings=settings, handle=takes_as_long_as_it_says)
    partition.own()
    while partition.phase is not Phase.OPEN:
        await asyncio.sleep(0)
    for offset, (comes, takes) in enumerate(records):
        await asyncio.sleep(comes - asyncio.get_running_loop().time())
        value = str(takes).encode()
        partition.take(Record(topic="in", partition=0, offset=offset, timestamp_ms=0, key=None, value=value))
    await asyncio.sleep(ends - asyncio.get_running_loop().time())
    await closed(partition)
    # The others note that work begins and that it ends.
    return [one for one, before in zip(kafka.commits[1:], kafka.commits, strict=False) if one[1] > before[1]]


LONG = (0.0, 80.0)
"""Still worked on when the others are published."""


@pytest.mark.parametrize(
    ("records", "commits"),
    [
        pytest.param([(0, 5)], [(5.04, 1)], id="nobody to wait for: 20 ms"),
        pytest.param([(0, 5), LONG], [(5.271, 1)], id="a twentieth of what it took"),
        pytest.param([(0, 0.1), LONG], [(0.14, 1)], id="at least 20 ms"),
        pytest.param([(0, 61), LONG], [(61.52, 1)], id="at most 0.5 s"),
        pytest.param([(0, 5), (0, 5.1), LONG], [(5.271, 2)], id="the second has come in time"),
        pytest.param([(0, 5), (0, 5.3), LONG], [(5.271, 1), (5.586, 2)], id="the second comes too late"),
        pytest.param([(0, 5), (0, 5.1)], [(5.12, 2)], id="nobody left to wait for"),
        pytest.param([(0, 5), (0, 5.1), (0, 5.11), LONG], [(5.13, 3)], id="enough for a transaction"),
        pytest.param([(0, 5), LONG, (5.1, 0.01)], [(5.13, 1)], id="one that waits less than the first"),
    ],
)
def test_results_wait_for_others_for_a_share_of_what_they_took(
    records: list[tuple[float, float]], commits: list[tuple[float, int]]
) -> None:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        assert runner.run(published(records)) == commits


def test_a_partition_that_is_taken_away_publishes_at_once() -> None:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        assert runner.run(published([(0, 5), LONG], ends=5.1)) == [(5.1, 1)]


def test_what_comes_while_others_are_published_waits_as_well() -> None:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        commits = runner.run(published([(0, 5), (0, 5.3), LONG], transaction_s=0.1))
    assert commits == [(5.376, 1), (5.691, 2)], "the second came at 5.42, before the transaction ended"


async def test_a_process_that_is_told_to_end_takes_its_note_back_before_it_waits_for_its_work() -> None:
    kafka = FewLines(OffsetAndMetadata(7, ""), 0, 20)
    partition = await opened(kafka)
    partition.take(Record(topic="in", partition=0, offset=7, timestamp_ms=0, key=None, value=b""))
    while not decode(7, kafka._committed.metadata)[1].begun:
        await asyncio.sleep(0)
    partition.leave()
    while decode(7, kafka._committed.metadata)[1].begun:
        await asyncio.sleep(0)
    assert partition.running == 1, "should it be killed now, that is no death"
    await closed(partition)


class LosesOneAnswer(FewLines):
    """The second transaction takes effect, and its answer is lost."""

    transactions = 0

    async def commit_transaction(self) -> None:
        self.transactions += 1
        if self.transactions == 2:
            raise OutcomeUnknown("the answer is lost")


async def test_work_after_a_lost_answer_is_noted_again() -> None:
    """The lost commit said that no work is under way; a death in what comes next would not have counted."""
    kafka = LosesOneAnswer(OffsetAndMetadata(0, ""), 0, 9)
    goes_on = asyncio.Event()

    async def handle(record: Record) -> list[Outgoing]:
        if record.offset == 1:
            await goes_on.wait()
        return []

    partition = Partition(TP, group="g", kafka=kafka, settings=DeliverySettings(bootstrap="b"), handle=handle, token=3)
    partition.own()
    for offset in (0, 1):
        while kafka.transactions != 2 * offset or partition.phase is not Phase.OPEN:
            await asyncio.sleep(0.001)
        partition.take(Record(topic="in", partition=0, offset=offset, timestamp_ms=0, key=None, value=b""))
    async with asyncio.timeout(5):
        while kafka.transactions < 3:
            await asyncio.sleep(0.001)
    committed = await kafka.committed(TP)
    assert committed is not None
    assert decode(committed.offset, committed.metadata)[1].begun
    goes_on.set()
    await closed(partition)
