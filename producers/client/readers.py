"""Readers of topics, one for each topic, started when they are first needed."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from aiokafka.structs import TopicPartition

from guideway.delivery.clients.kafka_client import as_record
from guideway.schemas.record import Record


class TopicReader(ABC):
    """Reads one topic from its present end; who it is for is said by those who know its records."""

    def __init__(self, topic: str, consumer: Any) -> None:
        self.topic = topic
        self._consumer = consumer
        self._reading: asyncio.Task[None] | None = None

    async def start(self, partitions: int) -> None:
        """Read all partitions from their present end on."""
        await self._consumer.start()
        await assign_at_end(self._consumer, self.topic, partitions)
        self._reading = asyncio.create_task(self._read(), name=f"read {self.topic}")

    async def stop(self) -> None:
        """End reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._consumer.stop()

    async def abandon(self) -> None:
        """Stop after `start` has failed."""
        await self._consumer.stop()

    @property
    def ended(self) -> bool:
        """Whether reading has ended, for whatever reason."""
        return self._reading is not None and self._reading.done()

    async def _read(self) -> None:
        try:
            async for record in self._consumer:
                self._hand_out(as_record(record))
        except Exception as error:
            self._failed(error)

    @abstractmethod
    def _hand_out(self, record: Record) -> None:
        """Give the record to whoever waits for it."""

    @abstractmethod
    def _failed(self, error: Exception) -> None:
        """Reading has ended. Whoever needs the topic next starts a new reader."""


R = TypeVar("R", bound=TopicReader)


class Readers(Generic[R]):
    """Owner of one reader for each topic. One that has ended is replaced when it is asked for."""

    def __init__(self, start: Callable[[str], Coroutine[Any, Any, R]]) -> None:
        self._start = start
        self._starting: dict[str, asyncio.Task[R]] = {}

    async def of(self, topic: str) -> R:
        """The reader of this topic. Raises what starting it raises."""
        starting = self._starting.get(topic)
        if starting is None or (starting.done() and (starting.exception() or starting.result().ended)):
            starting = self._starting[topic] = asyncio.create_task(self._start(topic))
        return await asyncio.shield(starting)

    async def stop(self) -> None:
        """End all of them."""
        for starting in self._starting.values():
            with contextlib.suppress(Exception):
                await (await starting).stop()


async def assign_at_end(consumer: Any, topic: str, partitions: int) -> None:
    """Let a consumer read all partitions of the topic from their present end on."""
    consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
    await consumer.seek_to_end()
    # Read the position before anything is sent: a later position could be behind the reply.
    for tp in consumer.assignment():
        await consumer.position(tp)


async def begun(reader: R, partitions: int) -> R:
    """The reader, started. Raises what its start raises, and leaves nothing open then."""
    try:
        await reader.start(partitions)
    except BaseException:
        await reader.abandon()
        raise
    return reader
