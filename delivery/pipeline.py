"""consume → work → publish: the one loop that reads Kafka for a group and keeps every promise of delivery/."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import structlog
from aiokafka import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from aiokafka.structs import ConsumerRecord, TopicPartition

from guideway.delivery.budget import Budget
from guideway.delivery.clients.kafka_client import PartitionClient, make_consumer, unreachable
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.delivery.guards import fetch_guards, group_guards
from guideway.delivery.in_flight import Handle, Refuse, refuse_by_dead_letter
from guideway.delivery.intake import Intake, Room
from guideway.delivery.offsets.crash_history import new_token
from guideway.delivery.partition import Partition, Phase
from guideway.delivery.publishing.publisher import OnPublished
from guideway.delivery.settings import DeliverySettings
from guideway.delivery.watchdog import Signs, Watchdog
from guideway.schemas import names
from guideway.schemas.record import Record

log = structlog.get_logger(__name__)

_NOWHERE = TopicPartition("", 0)
_LOOK_S = 0.05
"""How soon at the latest a full pipeline looks around again."""


class Pipeline(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Reads `topics` (or all that match `pattern`) as `group` and publishes what `handle` returns, exactly once.

    A record's results and its offset become visible together or not at all, in whatever order records finish.
    """

    def __init__(
        self,
        settings: DeliverySettings,
        *,
        group: str,
        handle: Handle,
        refuse: Refuse = refuse_by_dead_letter,
        topics: Sequence[str] = (),
        pattern: str | None = None,
        intake: Intake | None = None,
        on_published: OnPublished = lambda topic, placed: None,
    ) -> None:
        """`intake` shares the slots among parties; without one, whoever comes first has them.

        `on_published` is told after each transaction what it published, and where that stands.
        """
        self._settings = settings
        self._group = group
        self._handle = handle
        self._refuse = refuse
        self._intake = intake
        self._on_published = on_published
        self._subscription: dict[str, Any] = {"topics": list(topics)} if pattern is None else {"pattern": pattern}
        self._partitions: dict[TopicPartition, Partition] = {}
        self._budget = Budget(settings.held_bytes, lambda: sum(one.held_bytes for one in self._partitions.values()))
        self._token = new_token()
        self._stopping = asyncio.Event()
        self._drain_timeout_s = settings.drain_timeout_s
        self._freed = asyncio.Event()
        self._turn = 0
        self._rejoined_at = self._polled_at = float("-inf")
        self._fetching_since = float("inf")
        self.topics = TopicDirectory(settings.bootstrap, names.client_id("directory"))
        self.joined = asyncio.Event()
        """Set once partitions were assigned for the first time."""

    async def run(self) -> None:
        """Until `stop`. Raises Refusal(broker_unreachable) if the cluster cannot be reached at the start."""
        self._consumer = make_consumer(
            self._settings.bootstrap,
            "consumer",
            client_id=names.client_id("consumer", self._token),
            group_id=self._group,
            # Positions are set by Partition from what was committed; where there is none, an error tells.
            auto_offset_reset="none",
            session_timeout_ms=int(self._settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(self._settings.session_timeout_s * 1000 / 6),
            rebalance_timeout_ms=20_000,
            # Not to read for long is no fault here: the watchdog knows better than a clock that only sees reading.
            max_poll_interval_ms=24 * 3600 * 1000,
            metadata_max_age_ms=5_000,
            partition_assignment_strategy=(StickyPartitionAssignor,),
        )
        self._client = PartitionClient(self._consumer, self.topics, self._settings)
        # From the first: to start is to join the group, and a group may never answer.
        self._started_at = self._polled_at = time.monotonic()
        watchdog = Watchdog(self._signs, self._settings.stall_s)
        watchdog.start()
        try:
            await self._start_clients()
            while not self._stopping.is_set():
                await self._poll()
        finally:
            watchdog.stop()
            await self._shut_down()

    def stop(self, within_s: float | None = None) -> None:
        """Finish what is running, in `within_s` or what the settings say, publish it and end `run`."""
        if within_s is not None:
            self._drain_timeout_s = min(within_s, self._drain_timeout_s)
        self._stopping.set()

    def look_again(self) -> None:
        """The intake lets more in than before."""
        self._freed.set()

    def held_back(self) -> set[TopicPartition]:
        """Partitions of which the intake lets nothing in now, whether or not anything waits there."""
        room = self._room()
        return {tp for tp, one in self._partitions.items() if one.phase is Phase.OPEN and room.is_full(tp.topic)}

    async def position(self, tp: TopicPartition) -> int | None:
        """The offset of this partition that comes next, or None while it is not open here."""
        if tp not in self._partitions or self._partitions[tp].phase is not Phase.OPEN:
            return None
        return int(await self._consumer.position(tp))

    async def _start_clients(self) -> None:
        try:
            await self.topics.start()
            self._consumer.subscribe(**self._subscription, listener=self)
            await self._consumer.start()
        except KafkaError as error:
            raise unreachable(self._settings.bootstrap, error) from None
        # From here on brokers may come and go, and the client's errors tell of it.
        logging.getLogger("aiokafka").setLevel(logging.ERROR)

    async def _poll(self) -> None:
        self._polled_at = time.monotonic()
        self._rejoin_if_fenced(self._polled_at)
        room = self._room()
        assigned = self._consumer.assignment()
        open_ = [tp for tp in assigned if tp in self._partitions and self._partitions[tp].accepting]
        # The others keep what was fetched of them, and are not asked for more: nobody waits for them.
        open_ = [tp for tp in open_ if room.of(tp.topic) > 0]
        if not open_:
            self._fetching_since = float("inf")
            self._freed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._freed.wait(), _LOOK_S)
        elif self._fetching_since == float("inf"):
            self._fetching_since = self._polled_at
        try:
            if open_:
                await self._take(open_, room)
            else:
                # Takes nothing, but lets the client say what is wrong with the group.
                await self._consumer.getmany(_NOWHERE, max_records=1)
        except OffsetOutOfRangeError as error:
            for tp in error.args[0]:
                if tp in self._partitions:
                    self._partitions[tp].out_of_range()
        except KafkaError as error:
            log.error("reading failed", group=self._group, error=repr(error))
            await asyncio.sleep(1)

    def _room(self) -> Room:
        running: Counter[str] = Counter()
        in_hand: Counter[str] = Counter()
        for tp, partition in self._partitions.items():
            running[tp.topic] += partition.running
            in_hand[tp.topic] += partition.in_hand
        return Room(self._intake, self._settings.capacity, running, in_hand)

    async def _take(self, open_: list[TopicPartition], room: Room) -> None:
        """Take records in, from all these partitions alike; wait a little if there are none.

        What a partition may not take yet stays in the client, which fetches no more of it meanwhile. To pause the
        partition instead would throw away what was fetched.
        """
        self._turn += 1
        first = self._turn % len(open_)
        share = max(1, room.left // len(open_))
        found = False
        for tp in open_[first:] + open_[:first]:
            # What the others have just taken in may have used up the bytes that may be held.
            accepts = tp in self._partitions and self._partitions[tp].accepting
            if accepts and (allowed := min(share, room.of(tp.topic))) > 0:
                batch = (await self._consumer.getmany(tp, max_records=allowed)).get(tp, [])
                found = found or bool(batch)
                room.take(tp.topic, len(batch))
                self._start(tp, batch)
        if not found:
            # One, for this says no more than that something has come: the next round shares it out.
            for tp, batch in (await self._consumer.getmany(*open_, timeout_ms=50, max_records=1)).items():
                self._start(tp, batch)

    def _start(self, tp: TopicPartition, batch: Iterable[ConsumerRecord[bytes, bytes]]) -> None:
        for record in batch:
            if tp in self._partitions:
                self._partitions[tp].take(as_record(record))

    def _rejoin_if_fenced(self, now: float) -> None:
        fenced = any(partition.phase is Phase.FENCED for partition in self._partitions.values())
        if fenced and now - self._rejoined_at >= self._settings.rejoin_interval_s:
            self._rejoined_at = now
            group_guards.request_rejoin(self._consumer)

    def _signs(self) -> Signs:
        return Signs(
            polled_at=self._polled_at,
            heartbeat_at=max(self._started_at, fetch_guards.heartbeat_answered_at(self._consumer)),
            fetched_at=max(self._fetching_since, fetch_guards.fetch_answered_at(self._consumer)),
            owing_since={
                f"{tp.topic}/{tp.partition}": partition.owes_since
                for tp, partition in list(self._partitions.items())
                if partition.owes_since is not None
            },
            moved_at=max((partition.moved_at for partition in list(self._partitions.values())), default=float("-inf")),
        )

    async def _shut_down(self) -> None:
        # Phase 1: no more records; let running work end. Phase 2: publish it. Phase 3: leave the group.
        held = list(self._partitions.values())
        for partition in held:
            partition.leave()
        await asyncio.gather(*(partition.finish_running(self._drain_timeout_s) for partition in held))
        await asyncio.gather(*(partition.disown(self._settings.flush_timeout_s) for partition in held))
        for partition in held:
            partition.abandon()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._consumer.stop(), 10)
        await asyncio.gather(*(partition.released() for partition in held))
        await self.topics.stop()

    # Rebalance: both return quickly, for no heartbeat is sent while they run ------------------------------------------

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        given = [self._partitions[tp] for tp in revoked if tp in self._partitions]
        await asyncio.gather(*(partition.disown(self._settings.revoke_timeout_s) for partition in given))

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        for tp in set(self._partitions) - set(assigned):
            self._partitions.pop(tp).abandon()
        for tp in assigned:
            if tp not in self._partitions:
                self._partitions[tp] = Partition(
                    tp,
                    group=self._group,
                    kafka=self._client,
                    settings=self._settings,
                    handle=self._handle,
                    refuse=self._refuse,
                    token=self._token,
                    budget=self._budget,
                    on_room=self._freed.set,
                    on_published=self._on_published,
                )
            if not self._stopping.is_set():
                self._partitions[tp].own()
        self.joined.set()
        log.info("partitions assigned", group=self._group, partitions=len(assigned))


def as_record(record: ConsumerRecord[bytes, bytes]) -> Record:
    """The record without its client library."""
    return Record(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
    )
