"""One event and its reply, with the framework FastStream and nothing of guideway.

    faststream_client.py BOOTSTRAP /NAMESPACE/ENDPOINT TEXT [TIMEOUT_S]

Prints the reply, one line of JSON. Exit code 0: completed; 1: failed, or the event was not taken; 2: no reply in time.
KAFKA_CLIENT_CONFIG names a client.properties with the login, where the cluster wants one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import ssl
import sys
import uuid

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from faststream.kafka import KafkaBroker, KafkaMessage
from faststream.kafka.security import parse_security
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512


def login(file: str | None) -> BaseSecurity | None:
    """What the file says in librdkafka's words, as FastStream takes it."""
    if not file:
        return None
    with open(file, encoding="utf-8") as lines:
        said = dict(line.strip().split("=", 1) for line in lines if "=" in line and line.lstrip()[:1] not in "#!")
    protocol = said.get("security.protocol", "PLAINTEXT").upper()
    tls = ssl.create_default_context(cafile=said.get("ssl.ca.location")) if "SSL" in protocol.split("_") else None
    if tls and said.get("ssl.certificate.location"):
        tls.load_cert_chain(
            said["ssl.certificate.location"], said.get("ssl.key.location"), said.get("ssl.key.password")
        )
    if not protocol.startswith("SASL"):
        return BaseSecurity(ssl_context=tls)
    mechanisms = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}
    return mechanisms[said["sasl.mechanism"]](
        username=said["sasl.username"], password=said["sasl.password"], ssl_context=tls, use_ssl=tls is not None
    )


async def require(topic: str, bootstrap: str, security: BaseSecurity | None) -> None:
    """Raises KafkaError. A topic that does not exist would be created by some clusters, or waited for."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **parse_security(security))
    await admin.start()
    try:
        if topic not in await admin.list_topics():
            raise KafkaError(f"there is no topic {topic}, or no right to read it")
    finally:
        await admin.close()


async def ask(bootstrap: str, address: re.Match[str], text: str) -> KafkaMessage:
    """The reply. Raises KafkaError if the event was not taken."""
    events, replies = (f"gw.{address[1]}.{address[2]}.{way}.v1" for way in ("in", "out"))
    security = login(os.environ.get("KAFKA_CLIENT_CONFIG"))
    await require(replies, bootstrap, security)
    broker = KafkaBroker(
        bootstrap.split(","),
        security=security,
        allow_auto_create_topics=False,
        acks="all",
        enable_idempotence=True,
        logger=logging.getLogger("client"),
    )
    subscriber = broker.subscriber(replies, auto_offset_reset="latest", isolation_level="read_committed")
    correlation = uuid.uuid4().hex
    async with broker:
        await broker.start()
        consumer = subscriber.consumer
        assert consumer is not None
        # Where the reply topic ends is asked before the event is sent: the reply lies behind it.
        for partition in consumer.assignment():
            await consumer.position(partition)
        await broker.publish(text, events, correlation_id=correlation, reply_to=replies)
        async for reply in subscriber:
            if reply.headers.get("correlation_id") == correlation:
                return reply
    raise AssertionError("the subscriber ended")


async def main() -> int:
    address = re.fullmatch("/([a-z0-9-]+)/([a-z0-9-]+)", sys.argv[2]) if len(sys.argv) in {4, 5} else None
    if address is None or not re.fullmatch(r"[0-9]+(\.[0-9]+)?", (*sys.argv, "60")[4]):
        print("usage: faststream_client.py BOOTSTRAP /NAMESPACE/ENDPOINT TEXT [TIMEOUT_S]", file=sys.stderr)
        return 64
    logging.disable()
    timeout_s = float(sys.argv[4]) if len(sys.argv) == 5 else 60.0
    try:
        async with asyncio.timeout(timeout_s):
            reply = await ask(sys.argv[1], address, sys.argv[3])
    except KafkaError as error:
        print(f"not sent: {error!r}", file=sys.stderr)
        return 1
    except TimeoutError:
        print(f"no reply within {timeout_s:g} s", file=sys.stderr)
        return 2
    print(reply.body.decode())
    return 0 if reply.headers["guideway_status"] == "completed" else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
