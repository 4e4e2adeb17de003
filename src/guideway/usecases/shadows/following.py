"""Live events of one endpoint: a share of them is asked again of both trials, and becomes rows, each exactly once.

A pipeline of `delivery/` reads the endpoint's topics in a group of the shadow's own: a row and the offset of its event
are one transaction. Any number of processes share the partitions, and whichever is killed, the next goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
import structlog
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.clients.kafka_client import make_consumer, started
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards import group_guards
from guideway.delivery.pipeline import Pipeline
from guideway.delivery.settings import MAX_RECORD_BYTES, DeliverySettings
from guideway.producers.client.client import Client, split_address
from guideway.schemas.failures import Refusal
from guideway.schemas.names.clients import client_id
from guideway.schemas.names.groups import shadow_group
from guideway.schemas.names.service_topics import shadows_topic
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.wire import SHADOW
from guideway.training.replays.answers import Asked, Given, Side, given_of
from guideway.usecases.replay.asking import Trials
from guideway.usecases.replay.folder import Plan
from guideway.usecases.replay.inputs import take, topics_of
from guideway.usecases.replay.live import is_chosen
from guideway.usecases.shadows.book import key_of_row, row_of

log = structlog.get_logger(__name__)

_LOOK_S: Final = 0.5
_TELL_AGAIN_S: Final = 5.0
_NO_ROOM: Final = MAX_RECORD_BYTES - 1000


class _Chosen:
    """The row of one event, if there is one."""

    def __init__(self) -> None:
        self.row: Asked | None = None

    def add(self, row: Asked) -> None:
        self.row = row

    def leave_out(self, why: str) -> None:
        log.info("an event is left out of a shadow", why=why)


class Following:
    """One shadow, while it is followed by this process."""

    def __init__(
        self,
        cluster: Cluster,
        plan: Plan,
        begun_ms: int,
        most: int,
        is_known: Callable[[bytes], bool],
        tell: Callable[[str], Awaitable[bool]],
    ) -> None:
        """begun_ms: when it began: one that begins again reads what comes from then on.

        most: rows at a time. is_known: whether the row of this key is there. tell: is given what keeps the trials from
        answering, and an empty text once they answer again; says whether that is told.
        """
        assert plan.shadow is not None, "a plan of a shadow"
        self._cluster, self._plan, self._share = cluster, plan, plan.shadow.share
        self._most, self._is_known, self._tell = most, is_known, tell
        namespace, self._name = split_address(plan.question.address)
        self._group = shadow_group(namespace, f"{plan.id}.{begun_ms}")
        self._topic = shadows_topic(namespace)
        # As callers know it: its input is that of the trial.
        self._endpoint = msgspec.structs.replace(plan.now, name=self._name)
        self._lost: asyncio.Future[str]
        self._trials: Trials
        self._is_told, self._tell_at = False, 0.0

    async def run(self, versions: Mapping[Side, int], is_over: Callable[[], bool]) -> str:
        """Until `is_over`, or until the trials do not answer: returns why, for a person; else empty.

        versions: of the trials. Raises Refusal(broker_unreachable | unknown_endpoint), KafkaError.
        """
        self._lost = asyncio.get_running_loop().create_future()
        topics = await self._begun()
        async with Client(self._cluster) as client:
            self._trials = Trials(client, self._plan, versions)
            pipeline = Pipeline(
                DeliverySettings(
                    cluster=self._cluster,
                    capacity=self._most,
                    partition_capacity=64,
                    # Another goes on with what is asked now.
                    drain_timeout_s=0.1,
                    session_timeout_s=6.0,
                ),
                group=self._group,
                handle=self._handle,
                refuse=self._refuse,
                topics=topics,
            )
            running = asyncio.create_task(pipeline.run(), name=f"shadow {self._plan.id}")
            ends: list[asyncio.Future[Any]] = [running, self._lost]
            try:
                while not (running.done() or self._lost.done() or is_over()):
                    await asyncio.wait(ends, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                    await self._say_trouble()
            finally:
                pipeline.stop(0.1)
                await running
        return self._lost.result() if self._lost.done() else ""

    async def _begun(self) -> list[str]:
        """The topics of its events. A shadow that begins reads what comes from now on."""
        directory = TopicDirectory(self._cluster, client_id("shadows"))
        async with started(directory, self._cluster):
            there = await topics_of(self._endpoint, directory, self._cluster)
        partitions = [TopicPartition(topic, number) for topic, count in there.items() for number in range(count)]
        consumer = make_consumer(self._cluster, "shadows", group_id=self._group, auto_offset_reset="none")
        async with started(consumer, self._cluster):
            consumer.assign(partitions)
            known = await group_guards.all_committed(consumer, partitions)
            if not known:
                ends = await consumer.end_offsets(partitions)
                await consumer.commit({tp: OffsetAndMetadata(end, "") for tp, end in ends.items()})
        return sorted(there)

    async def _say_trouble(self) -> None:
        """Where it begins, and where it ends: to say it takes the right to write from others."""
        trouble, now = self._trials.trouble, asyncio.get_running_loop().time()
        if bool(trouble) != self._is_told and now >= self._tell_at:
            self._tell_at = now + _TELL_AGAIN_S
            if await self._tell(trouble):
                self._is_told = bool(trouble)

    async def _handle(self, record: Record) -> list[Outgoing]:
        chosen = _Chosen()
        take(record, self._endpoint, chosen, lambda id_: is_chosen(id_, self._plan.id, self._share))
        if (row := chosen.row) is None or self._is_known(key := key_of_row(self._name, self._plan.id, row.id)):
            return []
        try:
            now, new = [await self._given("now", row), await self._given("new", row)]
        except Refusal as refusal:
            # The event stays unfinished: whoever follows next asks it again.
            if not self._lost.done():
                self._lost.set_result(refusal.message)
            await asyncio.Event().wait()
            raise
        value = SHADOW.encode(row_of(self._plan.id, row.id, now, new))
        if len(value) > _NO_ROOM:
            chosen.leave_out("its results are larger than a record")
            return []
        return [Outgoing(topic=self._topic, key=key, value=value)]

    async def _given(self, side: Side, row: Asked) -> Given:
        while True:
            try:
                reply, took_ms = await self._trials.answer(side, row)
            except KafkaError as error:
                log.warning("a shadow could not ask; it is tried again", shadow=self._plan.id, error=repr(error))
                await asyncio.sleep(1)
            else:
                return given_of(reply, row.number, side, took_ms)

    async def _refuse(self, record: Record, refusal: Refusal) -> list[Outgoing]:
        """An event that is too large to read, or that processes died of. Its caller is answered by others."""
        log.warning("an event is left out of a shadow", shadow=self._plan.id, why=refusal.message)
        return []
