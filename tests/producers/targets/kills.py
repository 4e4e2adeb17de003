"""`guideway targets` is killed with -9 while it posts: every result is delivered, under its one id, and archived once.

`python -m tests.producers.targets.kills [RESULTS]` does it with 1,000 results and 8 kills; a test, with fewer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from standardwebhooks import Webhook as Verifier
from tests.producers.targets.receiver import Received, Receiver, answering, receiving

from guideway.catalogue.archive.archive import Archive
from guideway.catalogue.changes import plan_changes
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import publish
from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import local_broker, topics
from guideway.infra.topic_making import make_topics
from guideway.producers.targets.webhooks.secret_files import SecretFiles
from guideway.producers.targets.webhooks.signing import delivery_id
from guideway.schemas.kinds.targets import Webhook, WebhookUse
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.names.service_topics import results_topic
from guideway.schemas.output import Text
from guideway.schemas.record import Record
from guideway.schemas.reply import Completed, Sample, Usage
from guideway.schemas.services.leaving import Result
from guideway.schemas.wire import RESULT

FAIRLY_OFTEN = 7
"""Each so many-th post is answered 500 at first."""


async def killed(cluster: Cluster, namespace: str, folder: Path, *, results: int, kills: int) -> tuple[int, float]:
    """Returns how many posts came, and the seconds that it took. Raises AssertionError where something is lost."""
    secret = SecretFiles(folder / "secrets").create(namespace, "crm")
    failed: set[str] = set()
    verified: list[str] = []

    async def mostly(post: Received, writer: asyncio.StreamWriter) -> None:
        # At once: receivers take no signature that is older than five minutes.
        Verifier(secret).verify(post.body, post.headers)
        one = post.headers["webhook-id"]
        verified.append(one)
        fails = one not in failed and int(one[-4:], 16) % FAIRLY_OFTEN == 0
        failed.add(one)
        await answering(500 if fails else 204)(post, writer)

    async with receiving(mostly) as receiver:
        await applied(cluster, namespace, receiver.port)
        began = time.monotonic()
        wanted: set[str] = set()
        for number in range(kills):
            before, first = len(wanted), number * results // (kills + 1)
            wanted |= await published(cluster, namespace, range(first, (number + 1) * results // (kills + 1)))
            async with _process(cluster, folder):
                enough = (before + len(wanted)) // 2
                # As a rule before any row is archived: rows wait for others to share an object.
                await receiver.until(lambda posts, enough=enough: len(delivered(posts)) >= enough, 300)  # type: ignore[misc]
        wanted |= await published(cluster, namespace, range(len(wanted), results))
        async with _process(cluster, folder) as process:
            await receiver.until(lambda posts: delivered(posts) >= wanted, 600)
            await _archived(folder, namespace, results)
            took_s = time.monotonic() - began
            process.send_signal(signal.SIGTERM)
            await process.wait()
        ids = _archive_ids(folder, namespace)
        assert len(ids) == len({*ids}) == results
        _check(receiver, wanted)
        assert len(verified) == len(receiver.posts)
    return len(receiver.posts), took_s


def _archive_ids(folder: Path, namespace: str) -> list[str]:
    return [row.id for row in Archive(str(folder / "store"), namespace, "task").rows()]


async def _archived(folder: Path, namespace: str, count: int) -> None:
    async with asyncio.timeout(300):
        while len({*_archive_ids(folder, namespace)}) < count:
            await asyncio.sleep(0.5)


def delivered(posts: list[Received]) -> set[str]:
    return {post.headers["webhook-id"] for post in posts}


def _check(receiver: Receiver, wanted: set[str]) -> None:
    assert delivered(receiver.posts) == wanted, "an id was made anew"
    bodies: dict[str, bytes] = {}
    for post in receiver.posts:
        assert bodies.setdefault(post.headers["webhook-id"], post.body) == post.body
    assert len({json.loads(body)["data"]["id"] for body in bodies.values()}) == len(wanted)


async def applied(cluster: Cluster, namespace: str, port: int) -> None:
    manifests: list[Manifest] = [
        Model(namespace="public", name=namespace, source="none"),
        Webhook(namespace=namespace, name="crm", url=f"http://127.0.0.1:{port}/", secret="crm"),
        Endpoint(
            namespace=namespace,
            name="task",
            model_size=namespace,
            output=Text(),
            targets=[WebhookUse(webhook="crm")],
            archive=True,
        ),
    ]
    await make_topics(cluster, topics.wanted(manifests))
    async with CatalogueFollower(cluster) as reader:
        await reader.seen(await publish(cluster, plan_changes(reader.catalogue, manifests)))


async def published(cluster: Cluster, namespace: str, numbers: Iterable[int]) -> set[str]:
    """Publish results with these numbers as workers do; returns the ids of their deliveries."""
    topic = results_topic(namespace)
    sent = []
    now_ms = int(time.time() * 1000)
    async with started(make_producer(cluster, "test"), cluster) as producer:
        for number in numbers:
            reply = Completed(
                id=f"r{number}",
                namespace=namespace,
                endpoint="task",
                endpoint_version=1,
                samples=[Sample(value="glad", text="glad", finish_reason="stop")],
                usage=Usage(prompt_tokens=1, output_tokens=1),
                guidance=[],
                model_fingerprint="f",
            )
            result = Result(reply=reply, id=reply.id, endpoint="task", endpoint_version=1, completed=True, text="x")
            sent.append(await producer.send(topic, RESULT.encode(result), partition=number % 3, timestamp_ms=now_ms))
        placed = [await one for one in sent]
    return {
        delivery_id(
            Record(
                topic=topic,
                partition=one.partition,
                offset=one.offset,
                timestamp_ms=now_ms,
                key=None,
                value=None,
            ),
            "crm",
        )
        for one in placed
    }


@contextlib.asynccontextmanager
async def _process(cluster: Cluster, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`guideway targets`; killed with -9 at the end, unless it has ended."""
    environ = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": cluster.brokers,
        "GUIDEWAY_HOME": str(folder),
        "GUIDEWAY_EGRESS": "http://127.0.0.1:*",
    }
    command = (sys.executable, "-m", "guideway", "targets", "--no-restart")
    with (folder / "targets.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=log, stderr=log)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _main(results: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = local_broker.up(folder / "broker")
        try:
            posts, took_s = await killed(running.cluster, "shop", folder, results=results, kills=8)
            print(f"{running.kind}: {results} results, 8 kills, {posts} posts, nothing lost, {took_s:.0f} s")
        finally:
            local_broker.down(folder / "broker", wipe=True)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
