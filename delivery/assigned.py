"""The partitions that its group has assigned to a pipeline: begun, given up, and asked about."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable

import structlog
from aiokafka import ConsumerRebalanceListener
from aiokafka.structs import ConsumerRecord, TopicPartition

from guideway.delivery.clients.kafka_client import as_record
from guideway.delivery.partition import Partition, Phase
from guideway.schemas.record import Record

log = structlog.get_logger(__name__)


class AssignedPartitions(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Owner of one pipeline's partitions. Its consumer says which they are."""

    def __init__(
        self,
        make: Callable[[TopicPartition], Partition],
        *,
        group: str,
        revoke_timeout_s: float,
        stopping: asyncio.Event,
    ) -> None:
        """make: a partition that is not begun yet. stopping: once it is set, none is begun.

        revoke_timeout_s: seconds for one that is given up to publish what is ready.
        """
        self._make = make
        self._group = group
        self._revoke_timeout_s = revoke_timeout_s
        self._stopping = stopping
        self._partitions: dict[TopicPartition, Partition] = {}
        self.held_bytes = 0
        """What all of them hold: counted by `count_held`, and what they take in since."""
        self.assignments = 0
        """How often partitions were assigned."""
        self.joined = asyncio.Event()
        """Set once partitions were assigned for the first time."""

    # What the consumer tells; both return quickly, for no heartbeat is sent while they run ---------------------------

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        given = [self._partitions[tp] for tp in revoked if tp in self._partitions]
        await asyncio.gather(*(partition.disown(self._revoke_timeout_s) for partition in given))

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        for tp in set(self._partitions) - set(assigned):
            self._partitions.pop(tp).abandon()
        for tp in assigned:
            if tp not in self._partitions:
                self._partitions[tp] = self._make(tp)
            if not self._stopping.is_set():
                self._partitions[tp].own()
        self.assignments += 1
        self.joined.set()
        log.info("partitions assigned", group=self._group, partitions=len(assigned))

    # Records taken in ------------------------------------------------------------------------------------------------

    def accepts(self, tp: TopicPartition) -> bool:
        """Whether it is ours, and more of its records may be taken in."""
        return tp in self._partitions and self._partitions[tp].accepting

    def count_held(self) -> None:
        """Count what all of them hold."""
        self.held_bytes = sum(one.held_bytes for one in self._partitions.values())

    def take(self, tp: TopicPartition, batch: Iterable[ConsumerRecord[bytes, bytes]]) -> None:
        """Start work on these records, if the partition is ours still."""
        for one in batch:
            if (partition := self._partitions.get(tp)) is not None:
                before = partition.held_bytes
                partition.take(as_record(one))
                self.held_bytes += partition.held_bytes - before

    def out_of_range(self, tp: TopicPartition) -> None:
        """The broker has no record at its position."""
        if tp in self._partitions:
            self._partitions[tp].out_of_range()

    # Questions about all of them -------------------------------------------------------------------------------------

    def all(self) -> list[Partition]:
        """Those that are ours at this moment."""
        return list(self._partitions.values())

    def open(self) -> set[TopicPartition]:
        """Those that let records in, as far as they accept any."""
        return {tp for tp, one in self._partitions.items() if one.phase is Phase.OPEN}

    def is_open(self, tp: TopicPartition) -> bool:
        """Whether it is one of `open`."""
        return tp in self._partitions and self._partitions[tp].phase is Phase.OPEN

    @property
    def is_fenced(self) -> bool:
        """Whether another process has the lock of one of them."""
        return any(partition.phase is Phase.FENCED for partition in self._partitions.values())

    def by_topic(self) -> Counter[str]:
        """Topic → how many of its partitions are ours."""
        return Counter(tp.topic for tp in self._partitions)

    def counts(self) -> tuple[Counter[str], Counter[str]]:
        """By topic: (records that hold a slot, these and the ones still to be published)."""
        running: Counter[str] = Counter()
        in_hand: Counter[str] = Counter()
        for tp, partition in self._partitions.items():
            running[tp.topic] += partition.running
            in_hand[tp.topic] += partition.in_hand
        return running, in_hand

    def owing_since(self) -> dict[TopicPartition, float]:
        """Those that wait to open or to publish, and since when. The watchdog asks, from its thread."""
        found = ((tp, partition.owes_since) for tp, partition in list(self._partitions.items()))
        return {tp: since for tp, since in found if since is not None}

    def moved_at(self) -> float:
        """When one of them last opened or published; −∞: never. The watchdog asks, from its thread."""
        return max((partition.moved_at for partition in self.all()), default=float("-inf"))

    # Questions of whoever works on a record --------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def resting(self, record: Record) -> AsyncIterator[None]:
        """While this lasts, the record is not worked on: it holds no slot. Its partition bounds how many may rest.

        Where owners of its partition have died, work goes on after this a moment later, once that is noted.
        """
        partition = self._of(record)
        if partition is None:
            yield
            return
        async with partition.resting(record.offset):
            yield

    def recovers(self, record: Record) -> bool:
        """Whether an owner of its partition has died, and the lowest record is unfinished since.

        Another death would count against that one, so what need not wait should be finished now.
        """
        partition = self._of(record)
        return partition is not None and partition.recovers

    def in_single_file(self, record: Record) -> bool:
        """Whether the others of its partition wait for it: owner after owner died, so none begins beside another."""
        partition = self._of(record)
        return partition is not None and partition.in_single_file

    def _of(self, record: Record) -> Partition | None:
        return self._partitions.get(TopicPartition(record.topic, record.partition))
