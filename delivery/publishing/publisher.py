"""Publishes the results of one partition: chooses the next ones, and sends them in one transaction with the offsets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.in_flight import InFlight
from guideway.delivery.partition_kafka import PartitionKafka
from guideway.delivery.publishing.deliverable import (
    DeadLetterHeld,
    deliverable,
    first_results,
    may_be_neighbours,
    refusals,
    topics_of,
)
from guideway.delivery.publishing.slow_topics import SlowTopics
from guideway.delivery.settings import DeliverySettings
from guideway.schemas.record import Outgoing

log = structlog.get_logger(__name__)

OnPublished = Callable[[str, Sequence[tuple[Outgoing, Any]]], None]
"""The input's topic, and what was published of it beside where it stands (aiokafka's RecordMetadata)."""


@dataclass(frozen=True)
class Batch:
    """The results that can be published next."""

    records: Mapping[int, list[Outgoing]]
    """What to send, by the offset of the record that it came of."""
    holds_back: bool
    """Some results were held back, for there is no topic that takes even their dead letters."""


class Publisher:
    """Owned by one partition, as are its results (`work.ready`). Times are seconds of the event loop's clock."""

    def __init__(
        self,
        tp: TopicPartition,
        *,
        group: str,
        kafka: PartitionKafka,
        settings: DeliverySettings,
        work: InFlight,
        on_published: OnPublished,
    ) -> None:
        self._tp = tp
        self._group = group
        self._kafka = kafka
        self._settings = settings
        self._work = work
        self._on_published = on_published
        self._slow = SlowTopics(settings.hold_s)
        self.in_small_batches = False
        """Producers are to send fewer records together: a topic has refused several at once."""
        self._log = log.bind(topic=tp.topic, partition=tp.partition)

    async def next_batch(self, now: float) -> Batch:
        """The next results to publish; those that nobody can take yet are held back. Raises KafkaError, TimeoutError.

        1. Choose the results that are due, as far as their topics are not slow and a transaction has room.
        2. Ask how many partitions their topics have.
        3. Make the records of each result, with dead letters for what cannot be delivered.
        """
        due = {offset: result for offset, result in self._work.ready.items() if result.held_until <= now}
        due = self._slow.chosen(due, lambda result: [out.topic for out in result.outgoing], now)
        due = first_results(due, self._settings.flush_results, self._settings.flush_bytes)

        topics = set().union(*map(topics_of, due.values()))
        async with asyncio.timeout(self._settings.flush_timeout_s):
            partitions = {topic: await self._kafka.partitions(topic) for topic in topics}

        records: dict[int, list[Outgoing]] = {}
        why: set[str] = set()
        for offset, result in due.items():
            try:
                records[offset] = deliverable(result, partitions)
            except DeadLetterHeld as held:
                result.hold(now, self._settings.hold_s, self._settings.max_hold_s)
                why.add(str(held))
        if why:
            self._log.error("dead letters are held back", why=sorted(why), results=len(due) - len(records))
        return Batch(records, holds_back=bool(why))

    async def transact(self, producer: Any, records: Mapping[int, list[Outgoing]], offsets: OffsetAndMetadata) -> None:
        """Publish these records (by offset) and the partition's offsets in one transaction.

        1. Begin the transaction.
        2. Send every record, and wait until a broker has taken or refused each.
        3. Check that each was taken. A refused record does not fail the commit by itself: its result would be lost,
           and its offset committed.
        4. Put the offsets into the same transaction.
        5. Commit.
        6. Tell what was published, and where that stands.

        Raises KafkaError. Whether the transaction has taken effect is then unknown, and the producer is of no more use.
        """
        sending = Sending(records)
        await producer.begin_transaction()
        await self._send(sending, producer)
        self._check_all_taken(sending)
        await producer.send_offsets_to_transaction({self._tp: offsets}, self._group)
        await producer.commit_transaction()
        self._on_published(self._tp.topic, sending.placed())
        self._slow.took({out.topic for outgoing in records.values() for out in outgoing})

    async def _send(self, sending: Sending, producer: Any) -> None:
        try:
            await sending.run(producer)
        except (asyncio.CancelledError, KafkaError) as error:
            if not isinstance(error, ProducerFenced):
                self._note_slow(sending)
            sending.give_up()
            raise

    def _note_slow(self, sending: Sending) -> None:
        """The transaction has waited in vain for some topics."""
        if news := self._slow.waited_for(sending.waiting_topics(), asyncio.get_running_loop().time()):
            self._log.error("topics take nothing; what goes there is tried alone, and less often", topics=sorted(news))

    def _check_all_taken(self, sending: Sending) -> None:
        """Raises the first error. What brokers will never take is remembered, and sent otherwise the next time.

        Brokers refuse all records that were sent together. So the first time nobody is blamed, and smaller batches are
        tried.
        """
        failed = list(sending.failed())
        if failed and not self.in_small_batches and may_be_neighbours(error for *_, error in failed):
            self.in_small_batches = True
            raise failed[0][2]
        for offset, out, error in failed:
            self._work.ready[offset].note(refusals(error, {out.topic}), error)
        if failed:
            raise failed[0][2]


class Sending:
    """The records of one transaction, and what becomes of each."""

    def __init__(self, records: Mapping[int, list[Outgoing]]) -> None:
        """`records`: by the offset of the record that they came of."""
        self._records = records
        self._sent: dict[int, list[asyncio.Future[Any]]] = {offset: [] for offset in records}

    async def run(self, producer: Any) -> None:
        """Hand all records to the producer; return when each was taken or refused. Raises KafkaError."""
        for offset, outgoing in self._records.items():
            for out in outgoing:
                self._sent[offset].append(
                    await producer.send(
                        out.topic, value=out.value, key=out.key, partition=out.partition, headers=list(out.headers)
                    )
                )
        if futures := self._futures():
            await asyncio.wait(futures)

    def give_up(self) -> None:
        """Nobody waits for the outcomes any more: asyncio need not print what becomes of them."""
        for one in self._futures():
            if not one.cancel() and not one.cancelled():
                one.exception()

    def waiting_topics(self) -> set[str]:
        """Topics that took nothing so far, or the first that could not even be sent to."""
        waiting: set[str] = set()
        for offset, outgoing in self._records.items():
            sent = self._sent[offset]
            waiting |= {out.topic for out, one in zip(outgoing, sent, strict=False) if not one.done()}
            if len(sent) < len(outgoing):
                waiting.add(outgoing[len(sent)].topic)
                break
        return waiting

    def failed(self) -> Iterator[tuple[int, Outgoing, BaseException]]:
        """The records that were refused: (offset, record, why). All outcomes are known."""
        for offset, out, one in self._each():
            error = asyncio.CancelledError() if one.cancelled() else one.exception()
            if error is not None:
                yield offset, out, error

    def placed(self) -> list[tuple[Outgoing, Any]]:
        """All records, with where each stands (aiokafka's RecordMetadata). All of them were taken."""
        return [(out, one.result()) for _, out, one in self._each()]

    def _each(self) -> Iterator[tuple[int, Outgoing, asyncio.Future[Any]]]:
        for offset, futures in self._sent.items():
            for out, one in zip(self._records[offset], futures, strict=True):
                yield offset, out, one

    def _futures(self) -> list[asyncio.Future[Any]]:
        return [one for futures in self._sent.values() for one in futures]
