"""The audit trail on brokers: each record of a catalogue once, through ends and beginnings of stewards."""

from __future__ import annotations

import asyncio
from collections import Counter

from guideway.catalogue.entries import Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.rights.spaces import fixed_topics
from guideway.infra.topic_making import make_topics
from guideway.producers.gateway.identity.key_topic import write_key
from guideway.producers.gateway.identity.keys import new_key
from guideway.schemas.manifests import Guidance
from guideway.schemas.names.addresses import PUBLIC
from guideway.schemas.names.service_topics import catalogue_topic, owner_of_catalogue
from guideway.schemas.services.audit import Audited
from guideway.schemas.wire import MANIFEST
from guideway.usecases.rights.audit import audited
from guideway.usecases.rights.trail_service import TrailService

RECORDS = 120


async def test_each_record_is_told_once_however_often_stewards_end(broker: RunningBroker, unique_name: str) -> None:
    cluster, ns = broker.cluster, unique_name
    await make_topics(cluster, [*fixed_topics(PUBLIC), *fixed_topics(ns), topics.KEYS])
    key, _ = new_key(ns, now_ms=1)
    await write_key(cluster, key)
    topic = catalogue_topic(ns)
    one = Guidance(namespace=ns, name="tone", form="text_prompt", text="a secret")
    async with started(make_producer(cluster, "test"), cluster) as producer:
        for version in range(1, RECORDS + 1):
            await producer.send_and_wait(topic, MANIFEST.encode(one), key=Identity.of(one).key(version), partition=0)

    for round_s in (0.3, 0.5, None):
        async with CatalogueFollower(cluster) as reader:
            service = TrailService(cluster, reader, lambda topic: [f"User:{owner_of_catalogue(topic)}"])
            running = asyncio.create_task(service.pipeline.run())
            async with asyncio.timeout(60):
                await service.pipeline.assigned.joined.wait()
                if round_s is not None:
                    # It ends as one that is killed does: without time for what is begun.
                    await asyncio.sleep(round_s)
                    service.pipeline.stop(0)
                    await running
                    continue
                while len(await told(broker, ns)) < RECORDS or not await keys_told(broker, ns):
                    await asyncio.sleep(0.2)
            service.pipeline.stop()
            await running
    found = await told(broker, ns)
    assert Counter(entry.offset for entry in found) == Counter(range(RECORDS))
    assert {(entry.action, entry.principal, entry.service) for entry in found} == {
        ("published", f"User:{ns}", "steward"),
    }
    assert [(one.action, one.what) for one in await keys_told(broker, ns)] == [("granted", f"key {ns}/{key.id}")]


async def keys_told(broker: RunningBroker, namespace: str) -> list[Audited]:
    return [one for one in await told(broker, PUBLIC) if namespace in one.to]


async def told(broker: RunningBroker, namespace: str) -> list[Audited]:
    return [one async for one in audited(broker.cluster, follow=False) if one.namespace == namespace]
