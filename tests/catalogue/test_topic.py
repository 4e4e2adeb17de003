"""The catalogue topic on a real broker: read whole, followed, written to."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest
from aiokafka.structs import TopicPartition

from guideway.catalogue.changes import Change, plan_changes, plan_deletion
from guideway.catalogue.entries import Catalogue, Identity
from guideway.catalogue.topic import CatalogueFollower, Overtaken, publish, publish_planned, sole_writer
from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.infra import topics
from guideway.infra.cluster import administrator
from guideway.infra.local_broker import RunningBroker
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Guidance


@pytest.fixture
async def bootstrap(broker: RunningBroker) -> str:
    await topics.apply(broker.bootstrap, topics.wanted([]))
    return broker.bootstrap


def prompt(namespace: str, text: str = "Be kind.") -> Guidance:
    return Guidance(namespace=namespace, name="tone", form="text_prompt", text=text)


async def test_a_reader_has_all_at_the_start_and_follows(bootstrap: str, unique_name: str) -> None:
    identity = Identity.of(prompt(unique_name))
    await publish(bootstrap, plan_changes(Catalogue(), [prompt(unique_name)]))
    async with CatalogueFollower(bootstrap) as early:
        assert early.catalogue.versions(identity) == [1]
        offset = await publish(bootstrap, plan_changes(early.catalogue, [prompt(unique_name, "Be very kind.")]))
        await early.seen(offset)
        async with CatalogueFollower(bootstrap) as late:
            for reader in (early, late):
                assert reader.catalogue.versions(identity) == [1, 2]
                assert reader.catalogue.latest(identity) == (2, prompt(unique_name, "Be very kind."))
            await late.seen(await publish(bootstrap, plan_deletion(late.catalogue, identity, [1, 2])))
            assert late.catalogue.latest(identity) is None


async def test_no_version_is_planned_twice(bootstrap: str, unique_name: str) -> None:
    """Two that publish at once: the earlier one writes nothing, and neither finds the other's under its version."""
    mine, yours = prompt(unique_name), prompt(unique_name, "Be very kind.")
    async with sole_writer(bootstrap) as write, CatalogueFollower(bootstrap) as reader:
        planned = plan_changes(reader.catalogue, [mine])
        async with sole_writer(bootstrap) as write_too, CatalogueFollower(bootstrap) as theirs:
            await theirs.seen(await write_too(plan_changes(theirs.catalogue, [yours])))
        with pytest.raises(Overtaken):
            await write(planned)
    async with sole_writer(bootstrap) as write, CatalogueFollower(bootstrap) as reader:
        await reader.seen(await write(plan_changes(reader.catalogue, [mine])))
        assert [reader.catalogue.get(Identity.of(mine), version) for version in (1, 2)] == [yours, mine]


async def test_who_is_overtaken_plans_again(bootstrap: str, unique_name: str) -> None:
    mine, yours = prompt(unique_name), prompt(unique_name, "Be very kind.")
    catalogues = []

    async def planned(catalogue: Catalogue) -> list[Change]:
        catalogues.append(catalogue)
        if len(catalogues) == 1:
            async with sole_writer(bootstrap) as write:
                await write(plan_changes(catalogue, [yours]))
        return plan_changes(catalogue, [mine])

    [change], _ = await publish_planned(bootstrap, planned)
    assert (len(catalogues), change.version) == (2, 2)
    assert catalogues[-1].get(Identity.of(mine), 1) == yours
    assert catalogues[-1].get(Identity.of(mine), 2) == mine


async def test_what_was_applied_a_moment_ago_is_waited_for(bootstrap: str, unique_name: str) -> None:
    def ask(catalogue: Catalogue) -> str:
        return catalogue.guidance(f"{unique_name}/tone", for_namespace=unique_name)[1].text

    async with CatalogueFollower(bootstrap) as reader:
        await publish(bootstrap, plan_changes(Catalogue(), [prompt(unique_name)]))
        # Whether or not the reader has seen it by now.
        assert await asyncio.gather(*(reader.eventually(ask, timeout_s=20) for _ in range(3))) == ["Be kind."] * 3


async def test_what_is_gone_is_refused_as_soon_as_the_topic_is_read_to_its_end(
    bootstrap: str, unique_name: str
) -> None:
    async with CatalogueFollower(bootstrap) as reader:
        await publish(bootstrap, plan_changes(Catalogue(), [prompt(unique_name)]))
        plain, looks = reader._topic._consumer.end_offsets, []

        async def end_offsets(partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
            looks.append(partitions)
            found: dict[TopicPartition, int] = await plain(partitions)
            return found

        reader._topic._consumer.end_offsets = end_offsets

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


async def test_applying_twice_writes_nothing(bootstrap: str, unique_name: str) -> None:
    async with CatalogueFollower(bootstrap) as reader:
        await reader.seen(await publish(bootstrap, plan_changes(reader.catalogue, [prompt(unique_name)])))
        changes = plan_changes(reader.catalogue, [msgspec.structs.replace(prompt(unique_name))])
        assert [change.action for change in changes] == ["unchanged"]
        assert await publish(bootstrap, changes) == -1


RUBBISH: list[tuple[bytes, bytes]] = [
    (b"guidance/team/tone@" + b"9" * 4301, b"{}"),
    (b"", b"\xff\xfe"),
    (b"\xff" * 10, b"["),
    (b"endpoint/team/task@1", b"[" * 100_000),
    (b"endpoint/team/task@" + b"0" * 20, b""),
    (b"alias/team/facts@1", b'{"kind":"alias/v1","namespace":"team","name":"facts","version":' + b"1" * 5000 + b"}"),
]


async def test_whatever_is_written_to_the_topic_stops_nobody(bootstrap: str, unique_name: str) -> None:
    """At each start every process reads all of it."""
    async with CatalogueFollower(bootstrap) as early:
        async with started(make_producer(bootstrap, "test"), bootstrap) as producer:
            for key, value in RUBBISH:
                headers = [("", None), ("x" * 1000, b"\xff")]
                await producer.send_and_wait(names.CATALOGUE_TOPIC, key=key, value=value, headers=headers, partition=0)
        await early.seen(await publish(bootstrap, plan_changes(early.catalogue, [prompt(unique_name)])))
        async with CatalogueFollower(bootstrap) as late:
            for reader in (early, late):
                assert reader.catalogue.latest(Identity.of(prompt(unique_name))) == (1, prompt(unique_name))
                assert reader.catalogue.strangers == 4
                assert {(one.identity.kind, one.version) for one in reader.catalogue.unread()} == {
                    ("endpoint", 1),
                    ("alias", 1),
                }


async def test_a_follower_that_fails_goes_on_where_it_stood(
    bootstrap: str, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not come to be silently out of date."""
    async with CatalogueFollower(bootstrap) as reader:
        plain = reader._topic._consumer.getmany
        failures = 0

        async def getmany(*partitions: object, **named: object) -> object:
            found = await plain(*partitions, **named)
            nonlocal failures
            if found and not failures:
                failures += 1
                raise RuntimeError("nobody has thought of this")
            return found

        monkeypatch.setattr(reader._topic._consumer, "getmany", getmany)
        await reader.seen(await publish(bootstrap, plan_changes(reader.catalogue, [prompt(unique_name)])))
        assert failures == 1
        assert reader.catalogue.latest(Identity.of(prompt(unique_name))) == (1, prompt(unique_name))


async def test_a_topic_made_anew_is_read_from_its_beginning(own_broker: RunningBroker, unique_name: str) -> None:
    """A follower would stand beyond the end of the new one for good, and go on with what the old one said."""
    bootstrap = own_broker.bootstrap
    await topics.apply(bootstrap, topics.wanted([]))
    old, new = prompt(unique_name), msgspec.structs.replace(prompt(unique_name), name="new")
    await publish(bootstrap, plan_changes(Catalogue(), [old, msgspec.structs.replace(old, name="older")]))
    async with CatalogueFollower(bootstrap, look_s=0.2) as reader, asyncio.timeout(60):
        async with administrator(bootstrap) as admin:
            await admin.delete_topics([names.CATALOGUE_TOPIC])
        made = False
        while not made:
            with contextlib.suppress(Refusal):
                await topics.apply(bootstrap, topics.wanted([]), timeout_s=2)
                made = True
        await publish(bootstrap, plan_changes(Catalogue(), [new]))
        while reader.catalogue.identities() != [Identity.of(new)]:
            await asyncio.sleep(0.1)


async def test_no_broker_is_a_refusal() -> None:
    with pytest.raises(Refusal) as caught:
        async with CatalogueFollower("127.0.0.1:1"):
            pass
    assert caught.value.code is FailureCode.BROKER_UNREACHABLE
