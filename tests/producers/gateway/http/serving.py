"""A gateway with its HTTP door on a port of this machine, before a general address that is answered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
from tests.producers.gateway.answering import Answering, answering, make_call_topics

from guideway.delivery.connection.cluster import Cluster
from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.producers.gateway.gateway import Gateway, GatewaySettings
from guideway.producers.gateway.http.server import HttpServer, Listen, listening
from guideway.producers.gateway.identity.key_topic import write_key
from guideway.producers.gateway.identity.keys import new_key


class Door:
    """One process's HTTP door."""

    def __init__(self, gateway: Gateway, port: int, keys: dict[str, str]) -> None:
        self.gateway, self.port, self.keys = gateway, port, keys
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)

    def as_(self, namespace: str, **headers: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[namespace]}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }

    async def post(self, namespace: str, path: str, content: str | bytes, **headers: str) -> httpx.Response:
        sent = self.as_(namespace, **{"content_type": "text/plain"} | headers)
        return await self.client.post(path, content=content, headers=sent)

    async def raw(self, sent: bytes, *, until_closed: bool = True) -> bytes:
        """What comes back for these bytes, written as they are."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        try:
            async with asyncio.timeout(30):
                return await reader.read() if until_closed else await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def door(cluster: Cluster, keys: dict[str, str], **limits: Any) -> AsyncIterator[Door]:
    bound = listening(Listen(host="127.0.0.1", port=0))
    async with Gateway(GatewaySettings(cluster=cluster, **limits)) as gateway:
        server = HttpServer(gateway, Listen(host="127.0.0.1", port=0))
        running = asyncio.create_task(server.run(bound))
        made = Door(gateway, bound.getsockname()[1], keys)
        async with made.client:
            try:
                yield made
            finally:
                server.stop()
                await running
                bound.close()


@contextlib.asynccontextmanager
async def ground(cluster: Cluster, *namespaces: str) -> AsyncIterator[tuple[Answering, dict[str, str]]]:
    """Namespaces with their topics, whoever answers there, and a key of each."""
    await make_call_topics(cluster, *namespaces)
    await make_topics(cluster, [*topics.catalogues([]), topics.KEYS])
    keys = {}
    for namespace in namespaces:
        key, keys[namespace] = new_key(namespace, now_ms=time.time_ns() // 1_000_000)
        await write_key(cluster, key)
    async with answering(cluster, namespaces) as services:
        yield services, keys
