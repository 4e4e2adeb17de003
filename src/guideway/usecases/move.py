"""The catalogue and the artefacts of an earlier guideway, moved to where each namespace has its own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from aiokafka.errors import KafkaError

from guideway.catalogue.artefacts.cache import ArtefactCache
from guideway.catalogue.artefacts.store import ArtefactStore
from guideway.catalogue.changes import Moved
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.former import Former, owners_of_artefacts, plan_moves, read_former
from guideway.catalogue.writing import publish_planned
from guideway.delivery.clients.administrator import administrator, partitions_by_topic
from guideway.delivery.clients.kafka_client import unreachable
from guideway.infra import topics
from guideway.infra.topic_making import make_topics
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import Deleted, Manifest
from guideway.schemas.names.service_topics import FORMER_CATALOGUE_TOPIC
from guideway.schemas.wire import CATALOGUE_ENTRY, Undecodable
from guideway.settings import Settings


class MoveDone(msgspec.Struct, frozen=True):
    """What was moved, and what was not."""

    former: Former
    artefacts: int
    left: list[tuple[str, str]]
    """(digest, why) of artefacts that stay where they are."""


async def move_catalogue(settings: Settings) -> MoveDone:
    """Move each entry to the catalogue of its namespace, with its version, and its artefact to the namespace's part.

    What was moved before is left alone, so this may be done again. An artefact that entries of several namespaces name
    is not moved: who put it is not known, and a digest is no right. Raises Refusal as `apply` does.
    """
    cluster = settings.answering_cluster()
    try:
        former = await read_former(cluster)
    except (KafkaError, TimeoutError) as error:
        raise unreachable(cluster, error) from None
    wanted = plan_moves(former, Catalogue())
    if not wanted.moves:
        return MoveDone(wanted, 0, [])
    await make_topics(cluster, topics.wanted(_readable(wanted.moves)))
    plans: list[Former] = []

    async def planned(catalogue: Catalogue) -> Sequence[Moved]:
        plans.append(plan_moves(former, catalogue))
        return plans[-1].moves

    # Artefacts first: no entry is to be seen before what it names.
    moved, left = _move_artefacts(settings, owners_of_artefacts(wanted.moves))
    await publish_planned(cluster, {one.identity.topic for one in wanted.moves}, planned)
    return MoveDone(plans[-1], moved, left)


async def has_former(settings: Settings) -> bool:
    """Whether the topic of an earlier guideway's catalogue is there. Raises Refusal(broker_unreachable)."""
    async with administrator(settings.answering_cluster()) as admin:
        return FORMER_CATALOGUE_TOPIC in await partitions_by_topic(admin)


def _move_artefacts(settings: Settings, owners: dict[str, set[str]]) -> tuple[int, list[tuple[str, str]]]:
    store = ArtefactStore(settings.store)
    moved, left = 0, []
    with tempfile.TemporaryDirectory() as folder:
        cache = ArtefactCache(Path(folder) / "artefacts")
        for digest, namespaces in sorted(owners.items()):
            if len(namespaces) > 1:
                left.append((digest, f"{', '.join(sorted(namespaces))} all name it: each is to apply it again"))
                continue
            try:
                store.of(*namespaces).put(store.read(digest, cache))
            except Refusal as refusal:
                left.append((digest, refusal.message))
            else:
                moved += 1
    return moved, left


def _readable(moves: Sequence[Moved]) -> list[Manifest]:
    found: list[Manifest] = []
    for one in moves:
        try:
            entry = CATALOGUE_ENTRY.decode(one.value)
        except Undecodable:
            continue
        if not isinstance(entry, Deleted):
            found.append(entry)
    return found
