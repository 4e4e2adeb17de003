"""Answers what stands on a general address, as our services would, without a model. Each kind of text says how."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from aiokafka.structs import TopicPartition

from guideway.delivery.clients.kafka_client import as_record, make_consumer, make_producer
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.guards.fetch_guards import know_topics
from guideway.delivery.replies import failed, reply_records
from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.names.topics import call_topic, partial_topic_beside
from guideway.schemas.partial import Partial
from guideway.schemas.record import Record
from guideway.schemas.reply import Completed, Reply, Sample, Usage
from guideway.schemas.request import ReplyAddress
from guideway.schemas.wire import PARTIAL


async def make_call_topics(cluster: Cluster, *namespaces: str) -> None:
    await make_topics(cluster, [one for ns in namespaces for one in topics.calls(ns)])


class Answering:
    """Events with the text `fail CODE` are refused with it; `hold …` waits for `release`; the rest is echoed.

    Where pieces are wanted, `tell …` has its words told one by one, after a first attempt that ended early.
    """

    def __init__(self) -> None:
        self.seen: list[Record] = []
        self.cancelled: list[str] = []
        self.times: Counter[str] = Counter()
        """Request id → how many events had it."""
        self._released = asyncio.Event()

    def release(self) -> None:
        self._released.set()

    async def reply(self, record: Record) -> Reply:
        request_id = (record.header(header.REQUEST_ID) or b"").decode()
        address = (record.header(header.ENDPOINT) or f"/{record.topic.split('.')[1]}/routed".encode()).decode()
        _, namespace, name = address.split("/")
        text = (record.value or b"").decode("utf-8", "replace")
        if text.startswith("fail "):
            refusal = Refusal(FailureCode(text.split()[1]), "change it")
            return failed(request_id, namespace, name, refusal)
        if text.startswith("hold"):
            await self._released.wait()
            if request_id in self.cancelled:
                return failed(request_id, namespace, name, Refusal(FailureCode.CANCELLED, "cancelled"))
        return Completed(
            id=request_id,
            namespace=namespace,
            endpoint=name,
            endpoint_version=1,
            samples=[Sample(value=text, text=text, finish_reason="stop")],
            usage=Usage(prompt_tokens=1, output_tokens=1),
            guidance=[],
            model_fingerprint="sha256:" + "0" * 64,
        )


@contextlib.asynccontextmanager
async def answering(cluster: Cluster, namespaces: Sequence[str]) -> AsyncIterator[Answering]:
    """Answers on the general addresses of these namespaces, from now on."""
    made = Answering()
    producer = make_producer(cluster, "client")
    consumer = make_consumer(cluster, "client", auto_offset_reset="earliest")
    working: set[asyncio.Task[None]] = set()

    async def tell(record: Record, reply: Reply) -> None:
        words = [f"{word} " for word in (record.value or b"").decode().split()]
        topic = partial_topic_beside((record.header(header.REPLY_TO) or b"").decode())
        headers = [(header.CORRELATION_ID, record.header(header.CORRELATION_ID))]
        for attempt, told in ((1, words[:1]), (2, words[:-1])):
            for number, word in enumerate(told):
                piece = Partial(
                    id=reply.id,
                    namespace=reply.namespace,
                    endpoint=reply.endpoint,
                    sample=0,
                    attempt=attempt,
                    number=number,
                    text=word,
                )
                await producer.send_and_wait(topic, value=PARTIAL.encode(piece), headers=headers)

    async def answer(record: Record) -> None:
        reply = await made.reply(record)
        if record.header(header.PARTIAL) == b"true" and (record.value or b"").startswith(b"tell"):
            await tell(record, reply)
        address = ReplyAddress(topic=(record.header(header.REPLY_TO) or b"").decode())
        for out in reply_records(reply, [address], record):
            await producer.send_and_wait(out.topic, key=out.key, value=out.value, headers=list(out.headers))

    async def read() -> None:
        async for one in consumer:
            record = as_record(one)
            if record.value is None:
                made.cancelled.append((record.header(header.CANCEL) or b"").decode())
                continue
            made.seen.append(record)
            made.times[(record.header(header.REQUEST_ID) or b"").decode()] += 1
            task = asyncio.create_task(answer(record))
            working.add(task)
            task.add_done_callback(working.discard)

    async with contextlib.AsyncExitStack() as stack:
        await consumer.start()
        stack.push_async_callback(consumer.stop)
        await producer.start()
        stack.push_async_callback(producer.stop)
        topics_ = [call_topic(ns) for ns in namespaces]
        await know_topics(consumer, topics_)
        consumer.assign([TopicPartition(one, n) for one in topics_ for n in consumer.partitions_for_topic(one) or ()])
        await consumer.seek_to_beginning()
        reading = asyncio.create_task(read())
        try:
            yield made
        finally:
            reading.cancel()
            for task in working:
                task.cancel()
            await asyncio.gather(reading, *working, return_exceptions=True)
