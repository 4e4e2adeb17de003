"""One event and its reply in Protobuf, with the libraries confluent-kafka and protobuf and nothing of guideway.

    client.py BOOTSTRAP TEXT [/NAMESPACE/ENDPOINT [MESSAGE]]

MESSAGE: which message the reply is to be, such as guideway.v1.Reply; without it the endpoint's own.
Prints the reply's content type and the message. Exit code 0: completed; 1: failed; 2: no reply in time.
"""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.text_format import MessageToString

HERE = Path(__file__).resolve().parent
FILES = (HERE / "ticket.binpb", HERE.parents[1] / "schemas" / "protobuf" / "descriptors.binpb")
"""Ours, and that of guideway.v1.Reply. Generated code does as well."""


def classes() -> DescriptorPool:
    pool = DescriptorPool()
    for path in FILES:
        for file in FileDescriptorSet.FromString(path.read_bytes()).file:
            pool.Add(file)
    return pool


def ask(bootstrap: str, address: str, value: bytes, accept: str) -> Message | None:
    """The reply's record, or None if none came within a minute."""
    events, replies = (f"gw.{address.strip('/').replace('/', '.')}.{way}.v1" for way in ("in", "out"))
    common = {"bootstrap.servers": bootstrap, "allow.auto.create.topics": False, "log_level": 0}
    reading = {"group.id": "not-used", "enable.auto.commit": False, "isolation.level": "read_committed"}
    consumer = Consumer(common | reading)
    try:
        # Where the reply topic ends is asked before the event is sent: the reply lies behind it.
        partitions = [
            TopicPartition(replies, number) for number in consumer.list_topics(replies).topics[replies].partitions
        ]
        for partition in partitions:
            _, partition.offset = consumer.get_watermark_offsets(partition)
        consumer.assign(partitions)
        correlation = uuid.uuid4().bytes
        headers = {
            "correlation_id": correlation,
            "reply_to": replies.encode(),
            "content-type": b"application/protobuf; messageType=shop.v1.Ticket",
            "accept": accept.encode(),
        }
        producer = Producer(common | {"enable.idempotence": True})
        producer.produce(events, value, headers=headers)
        producer.flush(10)
        deadline = time.monotonic() + 60
        while (left_s := deadline - time.monotonic()) > 0:
            reply = consumer.poll(left_s)
            if reply and not reply.error() and dict(reply.headers() or []).get("correlation_id") == correlation:
                return reply
        return None
    finally:
        consumer.close()


def main(bootstrap: str, text: str, address: str = "/shop/ticket-mood", message: str = "") -> int:
    pool = classes()
    ticket: Any = GetMessageClass(pool.FindMessageTypeByName("shop.v1.Ticket"))
    value = ticket(text=text, customer={"name": "Ada", "orders": 2}).SerializeToString()
    accept = f"application/protobuf; messageType={message}" if message else "application/protobuf"
    reply = ask(bootstrap, address, value, accept)
    if reply is None:
        print("no reply within a minute", file=sys.stderr)
        return 2
    headers = dict(reply.headers())
    content_type = headers["content-type"].decode()
    answered: Any = GetMessageClass(pool.FindMessageTypeByName(content_type.partition("messageType=")[2]))
    print(content_type)
    print(MessageToString(answered.FromString(reply.value()), as_one_line=True))
    return 0 if headers["guideway_status"] == b"completed" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
