"""One partition beside a Kafka of a few lines: what the simulation does not come to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from structlog.testing import capture_logs
from tests.delivery.simulation.simulated_kafka import VirtualTime

from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards.transaction_guards import OutcomeUnknown
from guideway.delivery.offsets.commit_metadata import decode, encode
from guideway.delivery.offsets.crash_history import CrashHistory
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

    def in_small_batches(self, producer: Any) -> None:
        pass

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
    partition = Partition(TP, group="g", kafka=kafka, settings=DeliverySettings(cluster=Cluster("b")), handle=nothing)
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


async def test_it_recovers_until_the_lowest_record_is_finished_that_was_so_when_an_owner_died() -> None:
    async def echo(record: Record) -> list[Outgoing]:
        return []

    for begun in (False, True):
        crashes = CrashHistory(begun=begun, owner=2**31 + 1 if begun else 0)
        kafka = FewLines(OffsetAndMetadata(7, encode(7, set(), crashes)), 0, 20)
        settings = DeliverySettings(cluster=Cluster("b"))
        partition = Partition(TP, group="g", kafka=kafka, settings=settings, handle=echo)
        partition.own()
        while partition.phase is not Phase.OPEN:
            await asyncio.sleep(0)
        assert partition.recovers is begun
        partition.take(Record(topic="in", partition=0, offset=7, timestamp_ms=0, key=None, value=b""))
        async with asyncio.timeout(5):
            while partition.in_hand:
                await asyncio.sleep(0.01)
        assert not partition.recovers
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
    partition = Partition(TP, group="g", kafka=kafka, settings=DeliverySettings(cluster=Cluster("b")), handle=nothing)
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
    kafka, settings = Clocked(transaction_s), DeliverySettings(cluster=Cluster("b"), flush_results=3)
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

    partition = Partition(
        TP, group="g", kafka=kafka, settings=DeliverySettings(cluster=Cluster("b")), handle=handle, token=3
    )
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


Handle = Callable[[Partition, Record], Awaitable[None]]


async def recovering(handle: Handle, deaths: int = 1) -> tuple[FewLines, Partition]:
    """A partition of which so many owners have died; with what it commits."""
    dead = tuple(2**31 + number for number in range(1, deaths + 1))
    kafka = FewLines(OffsetAndMetadata(7, encode(7, set(), CrashHistory(dead))), 0, 20)

    async def work(record: Record) -> list[Outgoing]:
        await handle(partition, record)
        return []

    settings = DeliverySettings(cluster=Cluster("b"))
    partition = Partition(TP, group="g", kafka=kafka, settings=settings, handle=work, token=3)
    partition.own()
    while partition.phase is not Phase.OPEN:
        await asyncio.sleep(0)
    partition.take(Record(topic="in", partition=0, offset=7, timestamp_ms=0, key=None, value=b""))
    return kafka, partition


def is_noted(kafka: FewLines) -> bool:
    return decode(kafka._committed.offset, kafka._committed.metadata)[1].begun


async def test_where_an_owner_has_died_work_beside_some_that_rests_begins_once_it_is_noted() -> None:
    """Else a record that kills at once would kill for as long as others rest: no death of it would count."""
    noted: list[bool] = []

    async def handle(partition: Partition, record: Record) -> None:
        noted.append(is_noted(kafka))
        if record.offset == 7:
            async with partition.resting(7):
                await asyncio.Event().wait()

    kafka, partition = await recovering(handle)
    async with asyncio.timeout(5):
        while not noted or is_noted(kafka):
            await asyncio.sleep(0.001)
        partition.take(Record(topic="in", partition=0, offset=8, timestamp_ms=0, key=None, value=b""))
        while len(noted) < 2:
            await asyncio.sleep(0.001)
    assert noted == [True, True]
    await closed(partition)


@pytest.mark.parametrize("deaths", [1, 3])
async def test_who_rests_where_none_begins_beside_another_is_told(deaths: int) -> None:
    """It would be blamed for what the others kill; so whoever rests there is to be short."""
    begun: list[int] = []
    goes_on = asyncio.Event()

    async def handle(partition: Partition, record: Record) -> None:
        begun.append(record.offset)
        if record.offset == 7:
            async with partition.resting(7):
                await goes_on.wait()

    _, partition = await recovering(handle, deaths)
    assert partition.in_single_file == (deaths == 3)
    async with asyncio.timeout(5):
        partition.take(Record(topic="in", partition=0, offset=8, timestamp_ms=0, key=None, value=b""))
        while len(begun) < 2:
            await asyncio.sleep(0.01)
            if deaths == 3 and begun == [7]:
                goes_on.set()
    assert begun == [7, 8]
    assert goes_on.is_set() == (deaths == 3)
    goes_on.set()
    await closed(partition)


async def test_work_that_rests_while_its_process_ends_goes_on_without_a_note() -> None:
    """None is written any more: to wait for one would take as long as the process may take to end."""
    told, goes_on = asyncio.Event(), asyncio.Event()

    async def handle(partition: Partition, record: Record) -> None:
        await told.wait()
        async with partition.resting(7):
            await goes_on.wait()

    kafka, partition = await recovering(handle)
    async with asyncio.timeout(5):
        while not is_noted(kafka):
            await asyncio.sleep(0.001)
        partition.leave()
        ending = asyncio.create_task(partition.finish_running(5))
        while is_noted(kafka):
            await asyncio.sleep(0.001)
        told.set()
        await asyncio.sleep(0.1)
        goes_on.set()
        await ending
        await closed(partition)
    assert kafka._committed.offset == 8


async def test_work_that_waits_for_its_note_as_its_process_ends_begins_without_one() -> None:
    async def handle(partition: Partition, record: Record) -> None:
        if record.offset == 7:
            async with partition.resting(7):
                await asyncio.Event().wait()

    kafka, partition = await recovering(handle)
    async with asyncio.timeout(5):
        while not is_noted(kafka):
            await asyncio.sleep(0.001)
        while is_noted(kafka):
            await asyncio.sleep(0.001)
        partition.take(Record(topic="in", partition=0, offset=8, timestamp_ms=0, key=None, value=b""))
        await asyncio.sleep(0)
        partition.leave()
        await partition.finish_running(5)
        await closed(partition)
    assert decode(7, kafka._committed.metadata)[0] == {8}
