"""The catalogue of an earlier guideway is moved to its owners: versions stay, and what disagrees stays behind."""

from __future__ import annotations

from pathlib import Path

import msgspec

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.changes import plan_changes
from guideway.catalogue.entries import Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.clients.kafka_client import make_producer, started
from guideway.infra.local_broker import RunningBroker
from guideway.infra.topic_making import make_topics
from guideway.infra.topics import COMPACTED, TopicDefinition
from guideway.schemas.manifests import Guidance, Model
from guideway.schemas.names.service_topics import FORMER_CATALOGUE_TOPIC
from guideway.schemas.wire import MANIFEST
from guideway.settings import Settings
from guideway.usecases.move import has_former, move_catalogue

TONE = Guidance(namespace="shop", name="tone", form="text_prompt", text="Be kind.")
SMALL = Model(namespace="public", name="small", source="/models/small")


def lora(namespace: str, artefact: str) -> Guidance:
    fingerprint = "sha256:" + "1" * 64
    return Guidance(namespace=namespace, name="lora", form="lora", artefact=artefact, model_fingerprint=fingerprint)


async def test_entries_go_to_their_owners_with_their_versions(own_broker: RunningBroker, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, store=str(tmp_path / "store"), named=own_broker.cluster)
    store, cluster = ArtefactStore(settings.store), own_broker.cluster
    digests = [
        store.put({"adapter_config.json": bytearray(b"{}"), "adapter_model.safetensors": bytearray(one)})
        for one in (b"a", b"b")
    ]
    former = [
        (Identity.of(TONE).key(2), MANIFEST.encode(TONE)),
        (Identity.of(TONE).key(3), MANIFEST.encode(msgspec.structs.replace(TONE, text="Be brief."))),
        (Identity.of(SMALL).key(1), MANIFEST.encode(SMALL)),
        (b"guidance/shop/gone@5", b'{"kind":"deleted/v1"}'),
        (b"guidance/shop/newer@4", b'{"kind":"guidance/v9"}'),
        (b"guidance/shop/forged@1", MANIFEST.encode(TONE)),
        (b"model/shop/small@1", MANIFEST.encode(SMALL)),
        (b"nonsense", b"{}"),
        (b"guidance/shop/lora@1", MANIFEST.encode(lora("shop", digests[0]))),
        (b"guidance/rival/lora@1", MANIFEST.encode(lora("rival", digests[1]))),
        (b"guidance/thief/lora@1", MANIFEST.encode(lora("thief", digests[1]))),
    ]
    await make_topics(cluster, [TopicDefinition(FORMER_CATALOGUE_TOPIC, configs=COMPACTED)])
    async with started(make_producer(cluster, "test"), cluster) as producer:
        for key, value in former:
            await producer.send_and_wait(FORMER_CATALOGUE_TOPIC, key=key, value=value, partition=0)
    assert await has_former(settings)
    done = await move_catalogue(settings)
    assert len(done.former.moves) == 8
    assert [key for key, _ in done.former.refused] == ["guidance/shop/forged@1", "model/shop/small@1", "nonsense"]
    assert (done.artefacts, [digest for digest, _ in done.left]) == (1, [digests[1]])
    assert "rival, thief all name it" in done.left[0][1]
    async with CatalogueFollower(cluster) as reader:
        catalogue = reader.catalogue
        assert catalogue.versions(Identity.of(TONE)) == [2, 3]
        assert catalogue.model("small") == SMALL
        assert plan_changes(catalogue, [msgspec.structs.replace(TONE, name="gone")])[0].version == 6
        assert [(one.identity.name, one.version) for one in catalogue.unread()] == [("newer", 4)]
        assert (catalogue.foreign.count, catalogue.strangers) == (0, 0)
    assert store.of("shop").read(digests[0], ArtefactCache(tmp_path / "cache"))

    again = await move_catalogue(settings)
    assert again.former.moves == []
    assert len(again.former.there) == 7
