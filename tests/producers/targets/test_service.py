"""Results on their way out, on a broker: to topics of others, to webhooks, again after a failure, and no further."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from standardwebhooks import Webhook as Verifier
from tests.conftest import ONE_OF_KINDS
from tests.producers.targets.kills import killed
from tests.producers.targets.receiver import Received, Receiver, answering, receiving
from tests.workers.end_to_end import EndToEnd, end_to_end_of, until

from guideway.catalogue.archive.archive import Archive
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.settings import DeliverySettings
from guideway.infra.local_broker import RunningBroker
from guideway.producers.targets.service import TargetsService, TargetsSettings
from guideway.producers.targets.webhooks.egress import egress_of
from guideway.producers.targets.webhooks.secret_files import SecretFiles
from guideway.schemas.failures import FailureCode
from guideway.schemas.kinds.targets import Target, Webhook, WebhookUse
from guideway.schemas.manifests import Endpoint, Manifest
from guideway.schemas.names.service_topics import deliveries_topic
from guideway.schemas.names.topics import dead_letter_topic, reply_topic
from guideway.schemas.output import Text
from guideway.schemas.reply import Completed, Failed
from guideway.schemas.wire import DELIVERY

pytestmark = pytest.mark.parametrize("kind", ONE_OF_KINDS)


@contextlib.asynccontextmanager
async def targets(system: EndToEnd) -> AsyncIterator[TargetsService]:
    """A process of the service, which may post to this machine."""
    settings = TargetsSettings(
        delivery=DeliverySettings(cluster=system.cluster),
        secrets=system.folder / "secrets",
        store=str(system.folder / "store"),
        gather_s=0.2,
        egress=egress_of("http://127.0.0.1:*"),
    )
    async with CatalogueFollower(system.cluster) as reader:
        service = TargetsService(settings, reader)
        running = asyncio.create_task(service.run())
        try:
            yield service
        finally:
            service.stop()
            await running


def webhook(namespace: str, name: str, receiver: Receiver) -> Webhook:
    return Webhook(namespace=namespace, name=name, url=f"http://127.0.0.1:{receiver.port}/{name}", secret="all")


def task(namespace: str, *targets: str | WebhookUse) -> Endpoint:
    return Endpoint(namespace=namespace, name="task", model_size=namespace, output=Text(), targets=list(targets))


def archived(namespace: str, *webhooks: str) -> Endpoint:
    plain = task(namespace, *(WebhookUse(webhook=one) for one in webhooks))
    return msgspec.structs.replace(plain, archive=True)


def ids(posts: list[Received]) -> list[str]:
    return [post.headers["webhook-id"] for post in posts]


async def test_results_go_where_the_endpoint_says(
    kind: str, broker_of_kind: Callable[[str], RunningBroker], unique_name: str, tmp_path: Path
) -> None:
    name, desk = unique_name, f"{unique_name}-desk"
    secret = SecretFiles(tmp_path / "secrets").create(name, "all")
    async with receiving(answering(204)) as good, receiving(answering(410)) as gone:
        more: list[Manifest] = [
            task(
                name, f"/{desk}/inbox", f"/{desk}/shut", *(WebhookUse(webhook=one) for one in ("good", "gone", "bad"))
            ),
            Target(namespace=desk, name="inbox", accepts_from=[name]),
            Target(namespace=desk, name="shut", accepts_from=["others"]),
            webhook(name, "good", good),
            webhook(name, "gone", gone),
            Webhook(namespace=name, name="bad", url="http://localhost/", secret="all"),
        ]
        cluster = broker_of_kind(kind).cluster
        async with end_to_end_of(cluster, name, tmp_path, more=more) as system, system.worker():
            await system.submit("first", "a")
            async with targets(system):
                await good.until(lambda posts: len(posts) == 1)
                await gone.until(lambda posts: len(posts) == 1)
                dead = dead_letter_topic(deliveries_topic(name))
                await until(lambda: has(system, dead, 2))
                assert isinstance(await system.submit("second", "b"), Completed)
                failed = await system.client.submit(system.address, {"txet": "x"}, request_id="c", timeout_s=60)
                assert isinstance(failed, Failed)
                await good.until(lambda posts: len(posts) == 3)
                await until(lambda: has(system, dead, 6))
            # What was held is held for the next process too.
            async with targets(system):
                await system.submit("third", "d")
                await good.until(lambda posts: len(posts) == 4)
                await until(lambda: has(system, dead, 8))
            assert len(gone.posts) == 1
            bodies = [json.loads(post.body) for post in good.posts]
            assert sorted(one["data"]["id"] for one in bodies) == ["a", "b", "c", "d"]
            assert {one["data"]["id"]: one["type"] for one in bodies}["c"] == "guideway.reply.failed"
            for post in good.posts:
                Verifier(secret).verify(post.body, post.headers)
            assert len({*ids(good.posts)}) == 4
            letters = await system.records(dead)
            codes = [one.header("guideway_dlq_code") for one in letters]
            assert codes.count(FailureCode.WEBHOOK_FAILED.encode()) == codes.count(b"egress_refused") == 4
            assert {DELIVERY.decode(one.value).attempts for one in letters} == {0}
            inbox = await system.all_replies(reply_topic(desk, "inbox"))
            assert sorted(one.id for one in inbox) == ["a", "b", "d"]
            assert await system.all_replies(reply_topic(desk, "shut")) == []


async def test_what_failed_is_tried_again_by_the_next_process_with_the_same_id(
    kind: str, broker_of_kind: Callable[[str], RunningBroker], unique_name: str, tmp_path: Path
) -> None:
    name = unique_name
    SecretFiles(tmp_path / "secrets").create(name, "all")
    working = asyncio.Event()

    async def sometimes(post: Received, writer: asyncio.StreamWriter) -> None:
        await answering(204 if working.is_set() else 500)(post, writer)

    async def slow(_post: Received, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with receiving(sometimes) as ill, receiving(slow) as stuck, receiving(answering(204)) as well:
        more: list[Manifest] = [
            archived(name, "ill", "stuck", "well"),
            webhook(name, "ill", ill),
            webhook(name, "well", well),
            Webhook(namespace=name, name="stuck", url=f"http://127.0.0.1:{stuck.port}/", secret="all", timeout_s=1),
        ]
        cluster = broker_of_kind(kind).cluster
        async with end_to_end_of(cluster, name, tmp_path, more=more) as system, system.worker():
            async with targets(system):
                await asyncio.gather(*(system.submit("text", str(number)) for number in range(30)))
                # One that fails and one that does not answer delay nobody.
                await well.until(lambda posts: len(posts) == 30)
                await ill.until(lambda posts: len({*ids(posts)}) == 30)
            before = {*ids(ill.posts)}
            working.set()
            ill.posts.clear()
            async with targets(system):
                await ill.until(lambda posts: before <= {*ids(posts)})
            assert {*ids(ill.posts)} == before
            assert len({*ids(well.posts)}) == len(well.posts) == 30
            rows = list(Archive(str(tmp_path / "store"), name, "task").rows())
            assert sorted(int(row.id) for row in rows) == list(range(30))
            assert {(row.text, row.value, row.endpoint_version) for row in rows} == {("text", "text", 1)}


async def has(system: EndToEnd, topic: str, count: int) -> bool:
    return len(await system.records(topic)) >= count


async def test_what_a_killed_process_had_in_hand_is_delivered_under_its_id(
    kind: str, broker_of_kind: Callable[[str], RunningBroker], unique_name: str, tmp_path: Path
) -> None:
    # `make targets-faults` does it with 1,000 results and more kills.
    posts, _ = await killed(broker_of_kind(kind).cluster, unique_name, tmp_path, results=40, kills=1)
    assert posts >= 40
