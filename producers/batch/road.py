"""A job's way to the endpoint services and back: pieces are published in transactions, and replies are read.

The rows of a piece and the number of pieces that are published are committed together, so that whoever goes on with the
job knows what is under way. The one who opens the road last is the only one who can publish: that fences all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka.structs import OffsetAndMetadata, TopicPartition

from guideway.delivery.clients.kafka_client import make_consumer, make_producer, started
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards import group_guards, transaction_guards
from guideway.delivery.settings import BATCH_BYTES, MAX_REQUEST_BYTES
from guideway.producers.batch.stored import RequestIds, SentRow
from guideway.schemas.names import header
from guideway.schemas.names.addresses import BATCH_REPLIES
from guideway.schemas.names.groups import batch_job_group
from guideway.schemas.names.service_topics import batch_topic
from guideway.schemas.names.topics import batch_call_topic, reply_topic
from guideway.schemas.services.batch import BatchJob

_TRANSACTION_S: Final = 30.0
_MOST_REPLIES: Final = 2000

Headers = list[tuple[str, bytes]]
Event = tuple[bytes | None, bytes | None, Headers]
"""(key, value, headers)"""


class Way:
    """What the events of a job say beside their rows. Pure."""

    def __init__(self, namespace: str, job: BatchJob, partition: int) -> None:
        """partition: of the job's record, and of the replies."""
        self.group = batch_job_group(namespace, job.id)
        self.jobs = TopicPartition(batch_topic(namespace), partition)
        self.replies = TopicPartition(reply_topic(namespace, BATCH_REPLIES), partition)
        self.calls = batch_call_topic(namespace)
        self._job, self._ids = job.id, RequestIds(job.id, job.secret)
        self._of_all: Headers = [
            (header.DEADLINE, str(job.deadline_ms).encode()),
            (header.REPLY_TO, self.replies.topic.encode()),
            (header.REPLY_PARTITION_HEADERS[0], partition.to_bytes(4, "big")),
        ]

    def event(self, number: int, row: SentRow) -> Event:
        """The event that asks for this row."""
        headers = [*row.headers, *self._of_all, (header.REQUEST_ID, self._ids.of(number).encode())]
        headers += self._endpoint(row)
        if row.content_type:
            headers.append((header.CONTENT_TYPE, row.content_type.encode()))
        if row.guidance:
            headers.append((header.GUIDANCE, ",".join(row.guidance).encode()))
        return None, row.content, headers

    def cancellation(self, number: int, row: SentRow) -> Event:
        """The event that cancels this row's request."""
        id_ = self._ids.of(number).encode()
        # With a key: aiokafka refuses a record without key and value.
        return id_, None, [*self._of_all, (header.CANCEL, id_), *self._endpoint(row)]

    def is_ours(self, headers: Iterable[tuple[str, bytes]]) -> bool:
        """Whether a reply with these headers is to a request of this job, as the service that wrote it says."""
        begin = f"{self._job}.".encode()
        return any(name == header.REQUEST_ID and value.startswith(begin) for name, value in headers)

    def _endpoint(self, row: SentRow) -> Headers:
        return [(header.ENDPOINT, row.endpoint.encode())] if row.endpoint is not None else []


class Road:
    """An open road. Every method raises KafkaError, after which another has to be opened."""

    def __init__(self, way: Way, producer: Any, consumer: Any) -> None:
        self._way, self._producer, self._consumer = way, producer, consumer

    @staticmethod
    @asynccontextmanager
    async def open(cluster: Cluster, way: Way) -> AsyncIterator[Road]:
        """Raises Refusal(broker_unreachable | not_allowed), KafkaError."""
        producer = make_producer(
            cluster,
            "batcher",
            transactional_id=way.group,
            transaction_timeout_ms=int(_TRANSACTION_S * 1000),
            request_timeout_ms=15_000,
            retry_backoff_ms=20,
            max_request_size=MAX_REQUEST_BYTES,
            max_batch_size=BATCH_BYTES,
        )
        consumer = make_consumer(cluster, "batcher", group_id=way.group, auto_offset_reset="earliest")
        try:
            # First the lock: only from then on is what was committed the last word.
            async with asyncio.timeout(_TRANSACTION_S):
                await producer.start()
            async with started(consumer, cluster):
                consumer.assign([way.replies])
                yield Road(way, producer, consumer)
        finally:
            await asyncio.shield(transaction_guards.discard(producer))

    async def committed(self) -> tuple[int, str]:
        """(how many pieces are published, what was noted with the last)."""
        found = await group_guards.all_committed(self._consumer, [self._way.jobs])
        one = found.get(self._way.jobs)
        return (one.offset, one.metadata) if one is not None else (0, "")

    async def first_reply(self) -> int:
        """The offset of the oldest reply that is still there."""
        return int((await self._consumer.beginning_offsets([self._way.replies]))[self._way.replies])

    async def end_of_replies(self) -> int:
        """The offset behind the last reply."""
        return int((await self._consumer.end_offsets([self._way.replies]))[self._way.replies])

    def read_from(self, offset: int) -> None:
        """Read replies from here on."""
        self._consumer.seek(self._way.replies, offset)

    async def position(self) -> int:
        """The offset of the reply that is read next."""
        return int(await self._consumer.position(self._way.replies))

    async def replies(self, timeout_s: float) -> Sequence[bytes]:
        """What has come, waiting so long for the first. Replies to other jobs are left out by their header alone: each
        job of the partition reads all of it, and answers may be long.
        """
        batch = await self._consumer.getmany(
            self._way.replies, timeout_ms=int(timeout_s * 1000), max_records=_MOST_REPLIES
        )
        return [
            one.value
            for records in batch.values()
            for one in records
            if one.value is not None and self._way.is_ours(one.headers)
        ]

    async def publish(self, rows: Iterable[tuple[int, SentRow]], pieces: int | None = None, noted: str = "") -> None:
        """Publish the events of these rows in one transaction.

        pieces, noted: how many pieces are published with these, and what is noted; None: these are repeated.
        """
        await self._transact((self._way.event(number, row) for number, row in rows), pieces, noted)

    async def cancel(self, rows: Iterable[tuple[int, SentRow]]) -> None:
        """Cancel the requests of these rows."""
        await self._transact((self._way.cancellation(number, row) for number, row in rows), None, "")

    async def _transact(self, events: Iterable[Event], pieces: int | None, noted: str) -> None:
        async with asyncio.timeout(_TRANSACTION_S):
            await self._producer.begin_transaction()
            sent = [
                await self._producer.send(self._way.calls, key=key, value=value, headers=headers)
                for key, value, headers in events
            ]
            for one in await asyncio.gather(*sent, return_exceptions=True):
                if isinstance(one, BaseException):
                    raise one
            if pieces is not None:
                offset = OffsetAndMetadata(pieces, noted)
                await self._producer.send_offsets_to_transaction({self._way.jobs: offset}, self._way.group)
            await self._producer.commit_transaction()
            await transaction_guards.renew_epoch(self._producer)
