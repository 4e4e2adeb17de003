"""How many bytes of records may be held, and by whom."""

from __future__ import annotations

import asyncio

from aiokafka.structs import OffsetAndMetadata
from tests.delivery.test_partition import TP, FewLines, closed

from guideway.delivery.budget import Budget
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.in_flight import InFlight
from guideway.delivery.partition import Partition, Phase
from guideway.delivery.settings import DeliverySettings
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Outgoing, Record, Withheld

MIB = 2**20


def filled(partitions: int, limit: int, each: int) -> list[int]:
    """What partitions hold that take in records of `each` bytes for as long as they may, and finish none."""
    held = [0] * partitions
    budget = Budget(limit, lambda: sum(held))
    moved = True
    while moved:
        moved = False
        for number in range(partitions):
            if budget.admits(held[number]):
                held[number] += each
                moved = True
    return held


def test_one_alone_may_hold_half() -> None:
    assert filled(1, 128 * MIB, MIB) == [64 * MIB]


def test_those_that_stand_still_leave_as_much_free_as_each_of_them_holds() -> None:
    for partitions in (2, 5, 30):
        held = filled(partitions, 128 * MIB, MIB // 16)
        assert max(held) - min(held) <= MIB // 16
        assert 128 * MIB - sum(held) >= min(held) - MIB // 16
        assert min(held) > 0


def record(offset: int, value: bytes | None) -> Record:
    headers = [("reply_to", b"gw.a.b.out.v1")]
    return Record(topic="in", partition=0, offset=offset, timestamp_ms=0, key=b"k", value=value, headers=headers)


async def test_what_is_held_is_counted_until_it_is_published_or_forgotten() -> None:
    async def begin(_: Record) -> None:
        pass

    async def handle(one: Record) -> list[Outgoing]:
        if one.offset == 1:
            await asyncio.Event().wait()
        return [Outgoing(topic="out", value=bytes(MIB))]

    async def refuse(_: Record, __: Refusal) -> list[Outgoing]:
        raise AssertionError

    work = InFlight(handle, refuse, may_begin=begin, on_result=lambda _: None)
    for offset in range(4):
        work.take(record(offset, bytes(MIB)))
    assert 4 * MIB < work.held_bytes < 4.1 * MIB
    work.start(at_most=3)
    while len(work.ready) < 2:
        await asyncio.sleep(0)
    assert 6 * MIB < work.held_bytes < 6.1 * MIB
    work.published(0)
    assert 4 * MIB < work.held_bytes < 4.1 * MIB
    work.drop(lambda offset: offset == 2)
    assert MIB < work.held_bytes < 1.1 * MIB, "one runs; one that waited will be read again"
    work.drop(lambda _: True)
    assert work.held_bytes == 0


async def test_a_partition_takes_in_no_more_than_its_share_of_bytes() -> None:
    async def handle(_: Record) -> list[Outgoing]:
        await asyncio.Event().wait()
        return []

    settings = DeliverySettings(cluster=Cluster("b"), held_bytes=10 * MIB)
    kafka = FewLines(OffsetAndMetadata(0, ""), 0, 20)
    partition = Partition(TP, group="g", kafka=kafka, settings=settings, handle=handle)
    partition.own()
    while partition.phase is not Phase.OPEN:
        await asyncio.sleep(0)
    taken = 0
    while partition.accepting:
        partition.take(record(taken, bytes(MIB)))
        taken += 1
    assert taken == 5
    await closed(partition)


async def test_a_record_without_its_value_is_refused_with_its_size_and_not_worked_on() -> None:
    told: list[Refusal] = []

    async def handle(_: Record) -> list[Outgoing]:
        raise AssertionError

    async def refuse(_: Record, refusal: Refusal) -> list[Outgoing]:
        told.append(refusal)
        return []

    kafka = FewLines(OffsetAndMetadata(0, ""), 0, 20)
    partition = Partition(
        TP, group="g", kafka=kafka, settings=DeliverySettings(cluster=Cluster("b")), handle=handle, refuse=refuse
    )
    partition.own()
    while partition.phase is not Phase.OPEN:
        await asyncio.sleep(0)
    partition.take(record(0, Withheld.of(62_000_000)))
    while not told:
        await asyncio.sleep(0)
    assert told[0].code is FailureCode.TEXT_TOO_LONG
    assert "62000000 bytes" in told[0].message
    await closed(partition)


class Sizes(FewLines):
    """Remembers how many bytes each transaction sent."""

    def __init__(self) -> None:
        super().__init__(OffsetAndMetadata(0, ""), 0, 20)
        self.sent = [0]

    async def send(self, topic: str, *, value: bytes, **_: object) -> asyncio.Future[None]:
        self.sent[-1] += len(value)
        future = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    async def commit_transaction(self) -> None:
        self.sent.append(0)


async def test_one_transaction_sends_so_many_bytes_and_one_result_at_least() -> None:
    kafka = Sizes()

    async def handle(_: Record) -> list[Outgoing]:
        return [Outgoing(topic="out", value=bytes(900_000))]

    settings = DeliverySettings(cluster=Cluster("b"), flush_bytes=3_000_000)
    partition = Partition(TP, group="g", kafka=kafka, settings=settings, handle=handle)
    partition.own()
    while partition.phase is not Phase.OPEN:
        await asyncio.sleep(0)
    for offset in range(8):
        partition.take(record(offset, b""))
    while partition.held_bytes:
        await asyncio.sleep(0.01)
    assert sum(kafka.sent) == 8 * 900_000
    assert max(kafka.sent) == 3 * 900_000
    await closed(partition)
