"""Kafka as far as delivery needs it, in memory and in virtual time, with every fault that a network can add.

It follows the rules of transactions as aiokafka speaks them (version 0 of the requests): a producer's epoch fences,
offsets are accepted from anybody whose epoch is right, an EndTxn without an open transaction counts as done, and a
request that was delayed takes effect when it arrives. The real `Pipeline` runs on it unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from aiokafka.errors import IllegalStateError, KafkaConnectionError, MessageSizeTooLargeError, ProducerFenced
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata, TopicPartition

from guideway.delivery.guards.transaction_guards import OutcomeUnknown
from guideway.delivery.pipeline import Pipeline

INPUT, OUTPUT = "in", "out"
SESSION_S = 10.0


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next thing to do."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual = 0.0

    def time(self) -> float:
        return self._virtual

    def _run_once(self) -> None:
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        # As the plain loop does afterwards, which would then wait in real time for the one behind them.
        while scheduled and scheduled[0].cancelled():
            self._timer_cancelled_count -= 1  # type: ignore[attr-defined]
            heapq.heappop(scheduled)._scheduled = False  # type: ignore[attr-defined]
        if not self._ready and scheduled:  # type: ignore[attr-defined]
            self._virtual = max(self._virtual, scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


@dataclass
class Faults:
    """Shares of requests that go wrong; guards that are taken away."""

    lost_end: float = 0.0
    """EndTxn whose answer is lost; it takes effect at once, later, or never."""
    doubled_end: float = 0.0
    """EndTxn that is answered, and arrives once more a little later."""
    late_offsets: float = 0.0
    """TxnOffsetCommit that takes effect a little later, without an answer."""
    refused_record: float = 0.0
    lost_commit_lookup: float = 0.0
    """OffsetFetch while the coordinator is loading."""
    ends_again_on_same_epoch: bool = False
    sends_offsets_again_on_same_epoch: bool = False
    looks_up_nothing: bool = False
    one_id_per_process: bool = False
    slow_handover_s: float = 0.0
    """What each request takes more while partitions are given up."""
    renews: bool = True
    transactions: bool = True


@dataclass
class Transaction:
    epoch: int = -1
    open: bool = False
    records: list[tuple[str, bytes]] = field(default_factory=list)
    offsets: dict[TopicPartition, OffsetAndMetadata] = field(default_factory=dict)


class Broker:
    """One input topic with gaps in its offsets, and what became visible to readers of committed records."""

    def __init__(self, partitions: int, records: int, chance: random.Random, faults: Faults) -> None:
        self.chance, self.faults = chance, faults
        self.partitions = [TopicPartition(INPUT, number) for number in range(partitions)]
        self.end = records
        self.committed: dict[TopicPartition, OffsetAndMetadata] = {}
        self.transactions: dict[str, Transaction] = {}
        self.visible: list[tuple[str, bytes]] = []

    def offsets(self) -> list[int]:
        """Those that exist: every seventh is a marker that no reader sees."""
        return [offset for offset in range(self.end) if offset % 7 != 3]

    def results(self) -> Counter[bytes]:
        return Counter(value for _, value in self.visible)

    def finished(self) -> bool:
        return len(self.results()) == len(self.partitions) * len(self.offsets())

    def initialise(self, id_: str) -> int:
        transaction = self.transactions.setdefault(id_, Transaction())
        self._end(transaction, commit=False)
        transaction.epoch += 1
        return transaction.epoch

    def renew(self, id_: str, epoch: int) -> int:
        transaction = self.transactions[id_]
        if transaction.epoch != epoch:
            raise ProducerFenced
        return self.initialise(id_)

    def opened(self, id_: str, epoch: int) -> Transaction:
        transaction = self.transactions[id_]
        if transaction.epoch != epoch:
            raise ProducerFenced
        transaction.open = True
        return transaction

    def end_transaction(self, id_: str, epoch: int) -> None:
        transaction = self.transactions[id_]
        if transaction.epoch != epoch:
            raise ProducerFenced
        if transaction.open:
            self._end(transaction, commit=True)

    def _end(self, transaction: Transaction, *, commit: bool) -> None:
        if commit:
            self.visible += transaction.records
            self.committed |= transaction.offsets
        transaction.open = False
        transaction.records, transaction.offsets = [], {}


class Link:
    """One process's way to the broker: it takes time, can be cut for a while, and ends with the process."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.cut_until = 0.0
        self.dead = False
        self.slow_s = 0.0
        """What each way takes beyond the usual."""

    async def cross(self) -> None:
        slow = self.broker.chance.random() < 0.02
        await asyncio.sleep(self.slow_s + self.broker.chance.expovariate(0.5 if slow else 200))
        if self.dead:
            await asyncio.Event().wait()
        while (left_s := self.cut_until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left_s)

    @property
    def is_cut(self) -> bool:
        return self.dead or self.cut_until > asyncio.get_running_loop().time()


class Producer:
    """With the methods of AIOKafkaProducer that delivery uses."""

    def __init__(self, link: Link, id_: str) -> None:
        self._link, self._broker, self._id = link, link.broker, id_

    async def start(self) -> None:
        await self._link.cross()
        self._epoch = self._broker.initialise(self._id)
        await self._link.cross()

    async def renew(self) -> None:
        await self._link.cross()
        self._epoch = self._broker.renew(self._id, self._epoch)
        await self._link.cross()

    async def begin_transaction(self) -> None:
        pass

    async def send(self, topic: str, *, value: bytes, **_: Any) -> asyncio.Future[None]:
        return asyncio.create_task(self._produce(topic, value))

    async def _produce(self, topic: str, value: bytes) -> None:
        await self._link.cross()
        if self._broker.chance.random() < self._broker.faults.refused_record and topic == OUTPUT:
            raise MessageSizeTooLargeError
        if self._broker.faults.transactions:
            self._broker.opened(self._id, self._epoch).records.append((topic, value))
        else:
            self._broker.visible.append((topic, value))
        await self._link.cross()

    async def send_offsets_to_transaction(self, offsets: dict[TopicPartition, OffsetAndMetadata], _: str) -> None:
        # A request that is on its way arrives, whether or not somebody still waits for its answer.
        await asyncio.shield(asyncio.create_task(self._add_offsets(offsets)))

    async def commit_transaction(self) -> None:
        if self._broker.faults.transactions:
            await asyncio.shield(asyncio.create_task(self._commit()))

    async def _add_offsets(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        await self._link.cross()
        if not self._broker.faults.transactions:
            self._broker.committed |= offsets
            return
        if self._broker.chance.random() < self._broker.faults.late_offsets:
            asyncio.get_running_loop().call_later(
                self._broker.chance.expovariate(20), self._put_offsets_late, offsets, self._epoch
            )
            if not self._broker.faults.sends_offsets_again_on_same_epoch:
                raise OutcomeUnknown
            await self._link.cross()
        self._put_offsets(offsets, self._epoch)
        await self._link.cross()

    async def _commit(self) -> None:
        await self._link.cross()
        chance = self._broker.chance
        if chance.random() < self._broker.faults.lost_end:
            match chance.choice(["at once", "later", "never"]):
                case "at once":
                    self._end()
                case "later":
                    asyncio.get_running_loop().call_later(chance.expovariate(2), self._end_late, self._epoch)
            if not self._broker.faults.ends_again_on_same_epoch:
                raise OutcomeUnknown
            await self._link.cross()
        if chance.random() < self._broker.faults.doubled_end:
            asyncio.get_running_loop().call_later(chance.expovariate(20), self._end_late, self._epoch)
        self._end()
        await self._link.cross()

    def _put_offsets(self, offsets: dict[TopicPartition, OffsetAndMetadata], epoch: int) -> None:
        self._broker.opened(self._id, epoch).offsets |= offsets

    def _put_offsets_late(self, offsets: dict[TopicPartition, OffsetAndMetadata], epoch: int) -> None:
        with contextlib.suppress(ProducerFenced):
            self._put_offsets(offsets, epoch)

    def _end(self) -> None:
        self._broker.end_transaction(self._id, self._epoch)

    def _end_late(self, epoch: int) -> None:
        with contextlib.suppress(ProducerFenced):
            self._broker.end_transaction(self._id, epoch)


class Topics:
    """In place of a TopicDirectory: every topic exists."""

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def partitions(self, topic: str) -> int:
        return 1


class Member:
    """One process: its pipeline, and in place of aiokafka's consumer and of PartitionClient, itself."""

    def __init__(self, broker: Broker, group: Group, pipeline: Pipeline) -> None:
        self.link = Link(broker)
        self.pipeline = pipeline
        self._broker, self._group = broker, group
        self._assigned: set[TopicPartition] = set()
        self._positions: dict[TopicPartition, int] = {}
        self._client = self._coordinator = self

    # As consumer

    def subscribe(self, **_: Any) -> None:
        pass

    async def start(self) -> None:
        self._group.join(self)

    async def stop(self) -> None:
        self._group.leave(self)

    def assignment(self) -> set[TopicPartition]:
        return set(self._assigned)

    def request_rejoin(self) -> None:
        self._group.wanted = True

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int
    ) -> dict[TopicPartition, list[Any]]:
        await self.link.cross()
        found: dict[TopicPartition, list[Any]] = {}
        for tp in self._assigned & set(partitions):
            start = self._positions.get(tp)
            if start is None:
                continue
            offsets = [offset for offset in self._broker.offsets() if offset >= start][:max_records]
            found[tp] = [_record(tp, offset) for offset in offsets]
            self._positions[tp] = offsets[-1] + 1 if offsets else start
            max_records -= len(offsets)
            if not max_records:
                break
        if not any(found.values()):
            await asyncio.sleep(timeout_ms / 1000)
        return found

    # As what a partition needs

    def producer(self, transactional_id: str) -> Producer:
        return Producer(self.link, transactional_id + str(id(self)) * self._broker.faults.one_id_per_process)

    def in_small_batches(self, producer: Producer) -> None:
        pass

    async def renew(self, producer: Producer) -> None:
        if self._broker.faults.renews:
            await producer.renew()

    async def discard(self, producer: Producer) -> None:
        pass

    async def committed(self, tp: TopicPartition) -> OffsetAndMetadata | None:
        await self.link.cross()
        answer = self._broker.committed.get(tp)
        if self._broker.chance.random() < self._broker.faults.lost_commit_lookup:
            if not self._broker.faults.looks_up_nothing:
                raise KafkaConnectionError
            answer = None
        await self.link.cross()
        return answer

    async def alive(self) -> frozenset[int]:
        await self.link.cross()
        return frozenset(member.pipeline._token for member in self._group.members)

    async def first_offset(self, tp: TopicPartition) -> int:
        return 0

    async def end_offset(self, tp: TopicPartition) -> int:
        return self._broker.end

    def seek(self, tp: TopicPartition, offset: int) -> None:
        if tp not in self._assigned:
            raise IllegalStateError
        self._positions[tp] = offset

    async def partitions(self, topic: str) -> int:
        await self.link.cross()
        return 1

    # As member of the group

    async def give_up(self) -> None:
        revoked, self._assigned = self._assigned, set()
        self.link.slow_s = self._broker.faults.slow_handover_s
        await self.pipeline.assigned.on_partitions_revoked(revoked)
        self.link.slow_s = 0

    async def take_over(self, assigned: set[TopicPartition]) -> None:
        self._assigned, self._positions = assigned, {}
        await self.pipeline.assigned.on_partitions_assigned(assigned)


class Group:
    """Eager rebalances: everybody who can be reached gives everything up, then partitions are dealt out."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._members: list[Member] = []
        self.members: list[Member] = []
        """Those of the last round: whoever did not join it in time is none of them."""
        self.wanted = False

    def join(self, member: Member) -> None:
        self._members.append(member)
        self.wanted = True

    def leave(self, member: Member) -> None:
        if member in self._members:
            self._members.remove(member)
            self.wanted = True

    async def run(self) -> None:
        """Watch over the members, for ever."""
        cut_since: dict[Member, float] = {}
        known: list[Member] = []
        while True:
            await asyncio.sleep(0.5)
            now = asyncio.get_running_loop().time()
            for member in list(self._members):
                since = cut_since.setdefault(member, now) if member.link.is_cut else cut_since.pop(member, now)
                if now - since > SESSION_S and member in known:
                    known.remove(member)
                    self.wanted = True
                elif not member.link.is_cut and member not in known:
                    # New, or back from behind a cut: it learns only now that its partitions are gone.
                    known.append(member)
                    self.wanted = True
            known = [member for member in known if member in self._members]
            if self.wanted and known:
                self.wanted = False
                await self._rebalance(known)

    async def _rebalance(self, known: list[Member]) -> None:
        reached = [member for member in known if not member.link.is_cut]
        await asyncio.gather(*(member.give_up() for member in reached))
        if not reached:
            self.wanted = True
            return
        self.members = reached
        dealt: dict[Member, set[TopicPartition]] = {member: set() for member in reached}
        for tp in self._broker.partitions:
            dealt[self._broker.chance.choice(reached)].add(tp)
        for member, assigned in dealt.items():
            await member.take_over(assigned)


def _record(tp: TopicPartition, offset: int) -> Any:
    value = f"{tp.partition}:{offset}".encode()
    return ConsumerRecord(tp.topic, tp.partition, offset, 0, 0, None, value, None, 0, len(value), ())
