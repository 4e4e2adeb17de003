"""The one catalogue that all namespaces had in earlier versions: what of it is moved to the topics of its owners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from guideway.catalogue.changes import Moved
from guideway.catalogue.entries import Catalogue
from guideway.catalogue.identity import disagreement, of_key
from guideway.delivery.clients.topic_reader import TopicReader
from guideway.delivery.connection.cluster import Cluster
from guideway.schemas.kinds.retrieval_set import RetrievalSet
from guideway.schemas.manifests import Guidance
from guideway.schemas.names.service_topics import FORMER_CATALOGUE_TOPIC
from guideway.schemas.wire import CATALOGUE_ENTRY, Undecodable


class Former(msgspec.Struct, frozen=True):
    """What is to be done with the former catalogue."""

    moves: list[Moved]
    """In order. Versions and bytes stay what they were."""
    there: list[str]
    """What has versions in its owner's catalogue already, and is left alone."""
    refused: list[tuple[str, str]]
    """(key, why) of records that name another than their key does, or nobody."""


async def read_former(cluster: Cluster) -> dict[bytes, bytes]:
    """Key → value of the former catalogue, deletions left out; empty where there is none. Raises KafkaError."""
    kept: dict[bytes, bytes] = {}

    def take(records: Sequence[Any]) -> None:
        for record in records:
            if record.value is None:
                kept.pop(record.key or b"", None)
            else:
                kept[record.key or b""] = record.value

    async with TopicReader(cluster, "catalogue", FORMER_CATALOGUE_TOPIC, take, partitions=[0]) as reader:
        if await reader.find():
            await reader.catch_up()
    return kept


def plan_moves(former: Mapping[bytes, bytes], catalogue: Catalogue) -> Former:
    """What of the former catalogue is moved. Pure. What cannot be read is moved as it is."""
    moves, there, refused = [], set(), []
    for key, value in sorted(former.items()):
        named = of_key(key)
        if named is None:
            refused.append((key[:200].decode("utf-8", "replace"), "its key is none of ours"))
            continue
        identity, version = named
        if why := disagreement(identity.topic, identity, _entry(value)):
            refused.append((key.decode(), why))
        elif catalogue.last_given(identity):
            there.add(str(identity))
        else:
            moves.append(Moved(identity, version, value))
    return Former(sorted(moves, key=lambda one: (one.identity, one.version)), sorted(there), refused)


def owners_of_artefacts(moves: Sequence[Moved]) -> dict[str, set[str]]:
    """Digest → the namespaces whose entries name it. Pure."""
    found: dict[str, set[str]] = {}
    for one in moves:
        entry = _entry(one.value)
        if isinstance(entry, Guidance | RetrievalSet) and entry.artefact:
            found.setdefault(entry.artefact, set()).add(one.identity.namespace)
    return found


def _entry(value: bytes) -> Any:
    try:
        return CATALOGUE_ENTRY.decode(value)
    except Undecodable:
        return None
