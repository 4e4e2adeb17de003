"""A pipeline in FastStream: reviews in, complaints out. In between, an endpoint says which is which.

    topic `reviews` → endpoint `/shop/mood` → those whose mood is `negative` → topic `complaints`

    pip install 'guideway[faststream]'
    KAFKA_BOOTSTRAP_SERVERS=localhost:9092 python examples/pipelines/complaints.py

Both topics have to exist (`kafka-topics.sh --create …`). tests/test_faststream.py tries it without Kafka.
"""

from __future__ import annotations

import asyncio
import os

from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker
from faststream.kafka.annotations import KafkaMessage

from guideway.faststream import Endpoint, parser

broker = KafkaBroker(
    os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092").split(","),
    parser=parser,
    acks="all",
    enable_idempotence=True,
    allow_auto_create_topics=False,
)
mood = Endpoint(broker, "/shop/mood")
complaints = broker.publisher("complaints")


# FastStream commits a record before it is worked on, unless one says otherwise.
@broker.subscriber(
    "reviews", group_id="shop.complaints", ack_policy=AckPolicy.NACK_ON_ERROR, auto_offset_reset="earliest"
)
async def read(text: str, message: KafkaMessage) -> None:
    """Each review goes to the endpoint under an id of its own: read again after a crash, it is the same work."""
    record = message.raw_message
    assert not isinstance(record, tuple), "one record at a time"
    reply = await mood(text, key=record.key, request_id=f"{record.topic}-{record.partition}-{record.offset}")
    if reply.value == "negative":
        await complaints.publish(text, key=record.key)


if __name__ == "__main__":
    asyncio.run(FastStream(broker).run())
