"""The catalogue topic on a real broker: read whole, followed, written to."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest
from aiokafka.structs import TopicPartition
from tests.delivery.made_anew import delete_topic

from guideway.catalogue.changes import Change, plan_changes, plan_deletion
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.catalogue.writing import Overtaken, publish, publish_planned, sole_writer
from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.delivery.connection.cluster import Cluster
from guideway.infra import topics
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Guidance
from guideway.schemas.names.service_topics import catalogue_topic


@pytest.fixture
async def cluster(broker: RunningBroker, unique_name: str) -> Cluster:
    await make_topics(broker.cluster, topics.catalogues([unique_name]))
    return broker.cluster


def prompt(namespace: str, text: str = "Be kind.") -> Guidance:
    return Guidance(namespace=namespace, name="tone", form="text_prompt", text=text)


async def test_a_reader_has_all_at_the_start_and_follows(cluster: Cluster, unique_name: str) -> None:
    identity = Identity.of(prompt(unique_name))
    await publish(cluster, plan_changes(Catalogue(), [prompt(unique_name)]))
    async with CatalogueFollower(cluster) as early:
        assert early.catalogue.versions(identity) == [1]
        offset = await publish(cluster, plan_changes(early.catalogue, [prompt(unique_name, "Be very kind.")]))
        await early.seen(offset)
        async with CatalogueFollower(cluster) as late:
            for reader in (early, late):
                assert reader.catalogue.versions(identity) == [1, 2]
                assert reader.catalogue.latest(identity) == (2, prompt(unique_name, "Be very kind."))
            await late.seen(await publish(cluster, plan_deletion(late.catalogue, identity, [1, 2])))
            assert late.catalogue.latest(identity) is None


async def test_no_version_is_planned_twice(cluster: Cluster, unique_name: str) -> None:
    """Two that publish at once: the earlier one writes nothing, and neither finds the other's under its version."""
    mine, yours = prompt(unique_name), prompt(unique_name, "Be very kind.")
    async with (
        sole_writer(cluster, [catalogue_topic(unique_name)]) as write,
        CatalogueFollower(cluster) as reader,
    ):
        planned = plan_changes(reader.catalogue, [mine])
        async with (
            sole_writer(cluster, [catalogue_topic(unique_name)]) as write_too,
            CatalogueFollower(cluster) as theirs,
        ):
            await theirs.seen(await write_too(plan_changes(theirs.catalogue, [yours])))
        with pytest.raises(Overtaken):
            await write(planned)
    async with (
        sole_writer(cluster, [catalogue_topic(unique_name)]) as write,
        CatalogueFollower(cluster) as reader,
    ):
        await reader.seen(await write(plan_changes(reader.catalogue, [mine])))
        assert [reader.catalogue.get(Identity.of(mine), version) for version in (1, 2)] == [yours, mine]


async def test_who_is_overtaken_plans_again(cluster: Cluster, unique_name: str) -> None:
    mine, yours = prompt(unique_name), prompt(unique_name, "Be very kind.")
    catalogues = []

    async def planned(catalogue: Catalogue) -> list[Change]:
        catalogues.append(catalogue)
        if len(catalogues) == 1:
            async with sole_writer(cluster, [catalogue_topic(unique_name)]) as write:
                await write(plan_changes(catalogue, [yours]))
        return plan_changes(catalogue, [mine])

    [change], _ = await publish_planned(cluster, [catalogue_topic(unique_name)], planned)
    assert (len(catalogues), change.version) == (2, 2)
    assert catalogues[-1].get(Identity.of(mine), 1) == yours
    assert catalogues[-1].get(Identity.of(mine), 2) == mine


async def test_what_was_applied_a_moment_ago_is_waited_for(cluster: Cluster, unique_name: str) -> None:
    def ask(catalogue: Catalogue) -> str:
        return catalogue.guidance(f"{unique_name}/tone", for_namespace=unique_name)[1].text

    async with CatalogueFollower(cluster) as reader:
        await publish(cluster, plan_changes(Catalogue(), [prompt(unique_name)]))
        # Whether or not the reader has seen it by now.
        assert await asyncio.gather(*(reader.eventually(ask, timeout_s=20) for _ in range(3))) == ["Be kind."] * 3


async def test_what_is_gone_is_refused_as_soon_as_the_topic_is_read_to_its_end(
    cluster: Cluster, unique_name: str
) -> None:
    # Its own looks are questions as well, and none is to come between.
    async with CatalogueFollower(cluster, look_s=3600) as reader:
        await publish(cluster, plan_changes(Catalogue(), [prompt(unique_name)]))
        plain, looks = reader._topics._reader._consumer.end_offsets, []

        async def end_offsets(partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
            looks.append(partitions)
            found: dict[TopicPartition, int] = await plain(partitions)
            return found

        reader._topics._reader._consumer.end_offsets = end_offsets

        async def is_refused() -> FailureCode:
            with pytest.raises(Refusal) as caught:
                # So long that the test would time out if it were waited for.
                await reader.eventually(lambda catalogue: catalogue.endpoint(unique_name, "nothing"), timeout_s=3600)
            return caught.value.code

        assert set(await asyncio.gather(*(is_refused() for _ in range(500)))) == {FailureCode.UNKNOWN_ENDPOINT}
        assert len(looks) <= 2, "they share the question"
        with pytest.raises(Refusal) as caught:
            await reader.eventually(
                lambda catalogue: catalogue.guidance(f"{unique_name}/tone", for_namespace="rival"), timeout_s=20
            )
        assert caught.value.code is FailureCode.GUIDANCE_FORBIDDEN, "at once: waiting would not change it"


async def test_applying_twice_writes_nothing(cluster: Cluster, unique_name: str) -> None:
    async with CatalogueFollower(cluster) as reader:
        await reader.seen(await publish(cluster, plan_changes(reader.catalogue, [prompt(unique_name)])))
        changes = plan_changes(reader.catalogue, [msgspec.structs.replace(prompt(unique_name))])
        assert [change.action for change in changes] == ["unchanged"]
        assert await publish(cluster, changes) == {}


RUBBISH: list[tuple[bytes, bytes]] = [
    (b"guidance/team/tone@" + b"9" * 4301, b"{}"),
    (b"", b"\xff\xfe"),
    (b"\xff" * 10, b"["),
    (b"endpoint/team/task@1", b"[" * 100_000),
    (b"endpoint/team/task@" + b"0" * 20, b""),
    (b"alias/team/facts@1", b'{"kind":"alias/v1","namespace":"team","name":"facts","version":' + b"1" * 5000 + b"}"),
]


async def test_whatever_is_written_to_the_topic_stops_nobody(cluster: Cluster, unique_name: str) -> None:
    """At each start every process reads all of it."""
    async with CatalogueFollower(cluster) as early:
        topic = catalogue_topic(unique_name)
        async with started(make_producer(cluster, "test"), cluster) as producer:
            for key, value in [(key.replace(b"team", unique_name.encode()), value) for key, value in RUBBISH]:
                headers = [("", None), ("x" * 1000, b"\xff")]
                await producer.send_and_wait(topic, key=key, value=value, headers=headers, partition=0)
        await early.seen(await publish(cluster, plan_changes(early.catalogue, [prompt(unique_name)])))
        async with CatalogueFollower(cluster) as late:
            for reader in (early, late):
                assert reader.catalogue.latest(Identity.of(prompt(unique_name))) == (1, prompt(unique_name))
                assert reader.catalogue.strangers == 4
                assert {(one.identity.kind, one.version) for one in reader.catalogue.unread()} == {
                    ("endpoint", 1),
                    ("alias", 1),
                }


async def test_a_follower_that_fails_goes_on_where_it_stood(
    cluster: Cluster, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not come to be silently out of date."""
    async with CatalogueFollower(cluster) as reader:
        plain = reader._topics._reader._consumer.getmany
        failures = 0

        async def getmany(*partitions: object, **named: object) -> object:
            found = await plain(*partitions, **named)
            nonlocal failures
            if found and not failures:
                failures += 1
                raise RuntimeError("nobody has thought of this")
            return found

        monkeypatch.setattr(reader._topics._reader._consumer, "getmany", getmany)
        await reader.seen(await publish(cluster, plan_changes(reader.catalogue, [prompt(unique_name)])))
        assert failures == 1
        assert reader.catalogue.latest(Identity.of(prompt(unique_name))) == (1, prompt(unique_name))


async def _make_anew(cluster: Cluster, namespace: str) -> None:
    await delete_topic(cluster, catalogue_topic(namespace))
    made = False
    while not made:
        with contextlib.suppress(Refusal):
            await make_topics(cluster, topics.catalogues([namespace]), timeout_s=2)
            made = True


async def test_a_topic_made_anew_is_read_from_its_beginning(own_broker: RunningBroker, unique_name: str) -> None:
    """A follower would stand beyond the end of the new one for good, and go on with what the old one said."""
    cluster = own_broker.cluster
    await make_topics(cluster, topics.catalogues([unique_name]))
    old, new = prompt(unique_name), msgspec.structs.replace(prompt(unique_name), name="new")
    await publish(cluster, plan_changes(Catalogue(), [old, msgspec.structs.replace(old, name="older")]))
    async with CatalogueFollower(cluster, look_s=0.2) as reader, asyncio.timeout(60):
        await _make_anew(cluster, unique_name)
        await publish(cluster, plan_changes(Catalogue(), [new]))
        while reader.catalogue.identities() != [Identity.of(new)]:
            await asyncio.sleep(0.1)


async def test_a_topic_made_anew_and_still_empty_says_nothing(own_broker: RunningBroker, unique_name: str) -> None:
    """The client may stand at the beginning of the new topic before anything comes that would tell of it."""
    cluster = own_broker.cluster
    await make_topics(cluster, topics.catalogues([unique_name]))
    await publish(cluster, plan_changes(Catalogue(), [prompt(unique_name)]))
    # Apache Kafka says by itself that the position is beyond the end; noida-db has to be asked.
    look_s = 100 if own_broker.kind == "apache-kafka" else 0.2
    async with CatalogueFollower(cluster, look_s=look_s) as reader, asyncio.timeout(60):
        await _make_anew(cluster, unique_name)
        while reader.catalogue.identities():
            await asyncio.sleep(0.1)


async def test_no_broker_is_a_refusal() -> None:
    with pytest.raises(Refusal) as caught:
        async with CatalogueFollower(Cluster("127.0.0.1:1")):
            pass
    assert caught.value.code is FailureCode.BROKER_UNREACHABLE
