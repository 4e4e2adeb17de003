"""consume → work → publish: the one loop that reads Kafka for a group and keeps every promise of delivery/."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Sequence
from typing import Any

import structlog
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, TopicAuthorizationFailedError
from aiokafka.structs import TopicPartition

from guideway.delivery.assigned import AssignedPartitions
from guideway.delivery.budget import Budget
from guideway.delivery.clients.kafka_client import make_consumer, unreachable
from guideway.delivery.clients.partition_client import PartitionClient
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.delivery.forbidden import Forbidden
from guideway.delivery.guards import connection_guards, fetch_guards, group_guards
from guideway.delivery.in_flight import Handle, Refuse, refuse_by_dead_letter
from guideway.delivery.intake import Intake, Room
from guideway.delivery.offsets.crash_history import new_token
from guideway.delivery.partition import Partition
from guideway.delivery.publishing.publisher import OnPublished
from guideway.delivery.settings import DeliverySettings
from guideway.delivery.watchdog import Signs, Watchdog
from guideway.schemas.names.clients import client_id

log = structlog.get_logger(__name__)

_NOWHERE = TopicPartition("", 0)
_GARBAGE = (10_000, 20, 20)
"""Thresholds of Python's collector. A record in work is some dozen objects: by the default, 700, those of a burst are
looked through again and again."""
_LOOK_S = 0.05
"""How soon at the latest a full pipeline looks around again."""


class Pipeline:
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
        self._budget = Budget(settings.held_bytes, lambda: self.assigned.held_bytes)
        self._token = new_token()
        self._stopping = asyncio.Event()
        self._starting: asyncio.Timeout | None = None
        """Ends the start where `stop` comes first: a group may never answer."""
        self._drain_timeout_s = settings.drain_timeout_s
        self._freed = asyncio.Event()
        self._turn = 0
        self._forbidden = Forbidden(group)
        self._rejoined_at = self._polled_at = float("-inf")
        self._fetching_since = float("inf")
        self.topics = TopicDirectory(settings.cluster, client_id("directory"))
        self.assigned = AssignedPartitions(
            self._partition, group=group, revoke_timeout_s=settings.revoke_timeout_s, stopping=self._stopping
        )

    async def run(self) -> None:
        """Until `stop`. Raises Refusal(broker_unreachable) if the cluster cannot be reached at the start."""
        self._consumer = make_consumer(
            self._settings.cluster,
            "consumer",
            client_id=client_id("consumer", self._token),
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
        gc.set_threshold(*_GARBAGE)
        self._client = PartitionClient(self._consumer, self.topics, self._settings)
        # From the first: to start is to join the group, and a group may never answer.
        self._started_at = self._polled_at = time.monotonic()
        watchdog = Watchdog(self._signs, self._settings.stall_s)
        watchdog.start()
        try:
            # Who is told to end before it began does not begin: a group may never answer.
            if not self._stopping.is_set():
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
        if self._starting is not None and not self._starting.expired():
            self._starting.reschedule(asyncio.get_running_loop().time())

    def look_again(self) -> None:
        """The intake lets more in than before."""
        self._freed.set()

    @property
    def assignments(self) -> int:
        """How often partitions were assigned."""
        return self.assigned.assignments

    def owned(self) -> dict[str, tuple[int, int]]:
        """Each topic of the subscription → how many of its partitions are assigned here, and how many there are."""
        here = self.assigned.by_topic()
        there = {topic: self._consumer.partitions_for_topic(topic) or () for topic in self._consumer.subscription()}
        return {topic: (here[topic], max(here[topic], len(numbers))) for topic, numbers in there.items()}

    def held_back(self) -> set[TopicPartition]:
        """Partitions of which the intake lets nothing in now, whether or not anything waits there."""
        room = self._room()
        return {tp for tp in self.assigned.open() if room.is_full(tp.topic)}

    async def position(self, tp: TopicPartition) -> int | None:
        """The offset of this partition that comes next, or None while it is not open here."""
        return int(await self._consumer.position(tp)) if self.assigned.is_open(tp) else None

    def _partition(self, tp: TopicPartition) -> Partition:
        return Partition(
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

    async def _start_clients(self) -> None:
        try:
            async with asyncio.timeout(None) as starting:
                self._starting = starting
                await self.topics.start()
                self._consumer.subscribe(**self._subscription, listener=self.assigned)
                await self._consumer.start()
        except KafkaError as error:
            raise unreachable(self._settings.cluster, error) from None
        except TimeoutError:
            if not starting.expired():
                raise
        finally:
            self._starting = None
        # From here on brokers may come and go, and the client's errors tell of it.
        logging.getLogger("aiokafka").setLevel(logging.ERROR)

    async def _poll(self) -> None:
        self._polled_at = time.monotonic()
        self._rejoin_if_fenced(self._polled_at)
        room = self._room()
        self.assigned.count_held()
        open_ = [tp for tp in self._consumer.assignment() if self.assigned.accepts(tp)]
        # The others keep what was fetched of them, and are not asked for more: nobody waits for them.
        open_ = [tp for tp in open_ if room.of(tp.topic) > 0 and self._forbidden.allows(tp.topic, self._polled_at)]
        if not open_:
            self._fetching_since = float("inf")
            self._freed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._freed.wait()
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
                self.assigned.out_of_range(tp)
        except TopicAuthorizationFailedError as error:
            self._forbidden.note(error, self._polled_at)
        except KafkaError as error:
            log.error("reading failed", group=self._group, error=repr(error))
            await asyncio.sleep(1)

    def _room(self) -> Room:
        running, in_hand = self.assigned.counts()
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
            if self.assigned.accepts(tp) and (allowed := min(share, room.of(tp.topic))) > 0:
                try:
                    batch = (await self._consumer.getmany(tp, max_records=allowed)).get(tp, [])
                except TopicAuthorizationFailedError as error:
                    self._forbidden.note(error, self._polled_at)
                    continue
                found = found or bool(batch)
                room.take(tp.topic, len(batch))
                self.assigned.take(tp, batch)
        if not found:
            # One, for this says no more than that something has come: the next round shares it out.
            for tp, batch in (await self._consumer.getmany(*open_, timeout_ms=50, max_records=1)).items():
                self.assigned.take(tp, batch)

    def _rejoin_if_fenced(self, now: float) -> None:
        if self.assigned.is_fenced and now - self._rejoined_at >= self._settings.rejoin_interval_s:
            self._rejoined_at = now
            group_guards.request_rejoin(self._consumer)

    def _signs(self) -> Signs:
        # Whoever is not let in waits until somebody changes that, and to end the process would change nothing. Once it
        # is let in, the group and the fetches have as long as ever.
        excused = connection_guards.refused_at(self._consumer._client)
        return Signs(
            polled_at=self._polled_at,
            heartbeat_at=max(self._started_at, excused, fetch_guards.heartbeat_answered_at(self._consumer)),
            fetched_at=max(self._fetching_since, excused, fetch_guards.fetch_answered_at(self._consumer)),
            owing_since={
                f"{tp.topic}/{tp.partition}": max(since, connection_guards.anybody_refused_at())
                for tp, since in self.assigned.owing_since().items()
            },
            moved_at=self.assigned.moved_at(),
        )

    async def _shut_down(self) -> None:
        # Phase 1: no more records; let running work end. Phase 2: publish it. Phase 3: leave the group.
        held = self.assigned.all()
        for partition in held:
            partition.leave()
        await asyncio.gather(*(partition.finish_running(self._drain_timeout_s) for partition in held))
        await asyncio.gather(*(partition.disown(self._settings.flush_timeout_s) for partition in held))
        for partition in held:
            partition.abandon()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                await self._consumer.stop()
        await asyncio.gather(*(partition.released() for partition in held))
        await self.topics.stop()
