"""One event and its reply, with the library confluent-kafka and nothing of guideway.

    confluent_client.py BOOTSTRAP /NAMESPACE/ENDPOINT TEXT [TIMEOUT_S]

Prints the reply, one line of JSON. Exit code 0: completed; 1: failed, or the event was not taken; 2: no reply in time.
KAFKA_CLIENT_CONFIG names a client.properties with the login, where the cluster wants one.
"""

from __future__ import annotations

import os
import re
import sys
import time
import uuid

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition


def login(file: str | None) -> dict[str, str]:
    """What the file says, in librdkafka's words."""
    if not file:
        return {}
    with open(file, encoding="utf-8") as lines:
        return dict(line.strip().split("=", 1) for line in lines if "=" in line and line.lstrip()[:1] not in "#!")


def ask(bootstrap: str, address: re.Match[str], text: str, timeout_s: float) -> Message | None:
    """The reply's record, or None if none came in time. Raises KafkaException if the event was not taken."""
    events, replies = (f"gw.{address[1]}.{address[2]}.{way}.v1" for way in ("in", "out"))
    secured = login(os.environ.get("KAFKA_CLIENT_CONFIG"))
    common = secured | {"bootstrap.servers": bootstrap, "allow.auto.create.topics": False, "log_level": 0}
    reading = {"group.id": "not-used", "enable.auto.commit": False, "isolation.level": "read_committed"}
    consumer = Consumer(common | reading)
    producer = Producer(common | {"enable.idempotence": True, "partitioner": "murmur2_random"})
    try:
        # Where the reply topic ends is asked before the event is sent: the reply lies behind it.
        known = consumer.list_topics(replies, timeout=10).topics[replies]
        if known.error is not None:
            raise KafkaException(known.error)
        partitions = [TopicPartition(replies, number) for number in known.partitions]
        for partition in partitions:
            _, partition.offset = consumer.get_watermark_offsets(partition, timeout=10)
        consumer.assign(partitions)

        correlation = uuid.uuid4().bytes
        headers = {"correlation_id": correlation, "reply_to": replies.encode(), "content-type": b"text/plain"}
        outcomes: list[object] = []
        producer.produce(events, text.encode(), headers=headers, on_delivery=lambda error, _: outcomes.append(error))
        producer.flush(10)
        if outcomes != [None]:
            raise KafkaException(*outcomes)

        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            reply = consumer.poll(left_s)
            if reply and not reply.error() and dict(reply.headers() or []).get("correlation_id") == correlation:
                return reply
        return None
    finally:
        consumer.close()


def main() -> int:
    address = re.fullmatch("/([a-z0-9-]+)/([a-z0-9-]+)", sys.argv[2]) if len(sys.argv) in {4, 5} else None
    if address is None or not re.fullmatch(r"[0-9]+(\.[0-9]+)?", (*sys.argv, "60")[4]):
        print("usage: confluent_client.py BOOTSTRAP /NAMESPACE/ENDPOINT TEXT [TIMEOUT_S]", file=sys.stderr)
        return 64
    timeout_s = float(sys.argv[4]) if len(sys.argv) == 5 else 60.0
    try:
        reply = ask(sys.argv[1], address, sys.argv[3], timeout_s)
    except KafkaException as error:
        print(f"not sent: {error}", file=sys.stderr)
        return 1
    if reply is None:
        print(f"no reply within {timeout_s:g} s", file=sys.stderr)
        return 2
    print(reply.value().decode())
    return 0 if dict(reply.headers())["guideway_status"] == b"completed" else 1


if __name__ == "__main__":
    sys.exit(main())
