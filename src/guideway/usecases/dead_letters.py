"""Dead letters: what topics hold of them, looked at, and put back where they came from."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from guideway.catalogue.entries import Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.clients.administrator import administrator, partitions_by_topic
from guideway.delivery.clients.kafka_client import unreachable
from guideway.delivery.clients.span_reader import Spans
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.replay.dead_letter_reader import DeadLetterReader
from guideway.delivery.replay.decision import Replayed, Selection, code_of
from guideway.delivery.replay.replayer import Report, plan, replay
from guideway.producers.client.client import split_address
from guideway.producers.events.addressee import addressee
from guideway.producers.events.envelope import read_envelope
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.service_topics import catalogue_topic
from guideway.schemas.names.topics import (
    dead_letter_topic,
    event_topic,
    is_event_topic,
    sender_of_topic,
    topic_of_dead_letters,
)
from guideway.schemas.nearest import did_you_mean
from guideway.schemas.record import Outgoing, Record
from guideway.settings import Settings

_SHOWN: Final = 10
_AT_A_TIME: Final = 50
"""Partitions: of each, a megabyte may be held."""
Watch = Callable[[int], Callable[[int], None]]
"""Gets how many offsets there are, and gives what is told how many more were walked."""


class Tally(msgspec.Struct):
    """What a dead-letter topic holds. Times are Unix milliseconds."""

    topic: str
    records: int = 0
    replayed: int = 0
    oldest_ms: int = 0
    newest_ms: int = 0
    codes: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, record: Record, *, replayed: bool) -> None:
        self.oldest_ms = min(self.oldest_ms, record.timestamp_ms) if self.records else record.timestamp_ms
        self.newest_ms = max(self.newest_ms, record.timestamp_ms)
        self.records += 1
        self.replayed += replayed
        self.codes[code_of(record)] += 1


@dataclass(frozen=True)
class Replay:
    """What is to be put back. The end is fixed: what dies again meanwhile is not put back without end."""

    cluster: Cluster
    origin: str
    """The topic that they go back to."""
    partitions: int
    """Of that topic."""
    spans: Spans
    selection: Selection


async def tallies(settings: Settings, watch: Watch) -> list[Tally]:
    """Of every dead-letter topic that holds any. Raises Refusal(broker_unreachable)."""
    cluster = settings.answering_cluster()
    there = _dead(await _topics(cluster))
    async with DeadLetterReader.connected(cluster) as reader:
        # A topic's records are counted: transaction markers make its offsets lie.
        found = {topic: Tally(topic) for topic in sorted(there)}
        spans = {tp: span for tp, span in (await reader.letters.spans(there)).items() if len(span)}
        walked, replayed = watch(_offsets(spans)), await reader.all_replayed(spans)
        for begin in range(0, len(spans), _AT_A_TIME):
            some = dict([*spans.items()][begin : begin + _AT_A_TIME])
            async for record in reader.letters.read_together(some):
                known = replayed[TopicPartition(record.topic, record.partition)]
                found[record.topic].add(record, replayed=record.offset in known)
            walked(_offsets(some))
    return [tally for tally in found.values() if tally.records]


async def letters(
    settings: Settings, topic: str, selection: Selection, *, limit: int
) -> tuple[list[tuple[Record, bool]], int]:
    """([record, whether it was replayed], newest last; how many there are of the selection).

    topic: see `dead_letters_of`. limit: so many of the newest; 0: all. Raises Refusal as that does.
    """
    cluster = settings.answering_cluster()
    there = _dead(await _topics(cluster))
    dead = dead_letters_of(topic, there)
    kept: deque[tuple[Record, bool]] = deque(maxlen=limit or None)
    count = 0
    async with DeadLetterReader.connected(cluster) as reader:
        for tp, span in (await reader.letters.spans({dead: there[dead]})).items():
            replayed = await reader.replayed(tp) if len(span) else Replayed()
            async for record in reader.letters.read({tp: span}):
                if selection.wants(record):
                    count += 1
                    kept.append((record, record.offset in replayed))
    return list(kept), count


async def prepare_replay(settings: Settings, topic: str, selection: Selection) -> Replay:
    """What there is to put back now. topic: see `dead_letters_of`.

    Raises Refusal as that does; invalid_setting where the topic that they came from is gone.
    """
    cluster = settings.answering_cluster()
    there = await _topics(cluster)
    dead = dead_letters_of(topic, _dead(there))
    origin = topic_of_dead_letters(dead)
    if origin not in there:
        raise Refusal(FailureCode.INVALID_SETTING, f"topic {origin} does not exist any more: create it first")
    selection = msgspec.structs.replace(selection, orphaned=await _orphaned(cluster, origin, there))
    async with DeadLetterReader.connected(cluster) as reader:
        return Replay(cluster, origin, there[origin], await reader.letters.spans({dead: there[dead]}), selection)


async def preview_replay(wanted: Replay, watch: Watch) -> Report:
    """What `put_back` would do; nothing is written."""
    async with DeadLetterReader.connected(wanted.cluster) as reader:
        return await plan(reader, wanted.spans, wanted.selection, watch(_offsets(wanted.spans)))


async def put_back(wanted: Replay, watch: Watch) -> Report:
    """Put them back, each once, as they were. Interrupted, it may be called again. Raises Refusal as `replay` does."""
    async with DeadLetterReader.connected(wanted.cluster) as reader:
        return await replay(
            wanted.cluster,
            reader,
            wanted.spans,
            wanted.selection,
            origin=wanted.origin,
            origin_partitions=wanted.partitions,
            walked=watch(_offsets(wanted.spans)),
        )


def dead_letters_of(topic: str, there: Mapping[str, int]) -> str:
    """The dead-letter topic that is meant by itself, by the topic whose letters it holds, or by /NAMESPACE/ENDPOINT.

    there: dead-letter topic → its number of partitions. Raises Refusal(invalid_setting) where it is none of them.
    """
    named = event_topic(*split_address(topic)) if topic.startswith("/") else topic
    for candidate in (named, dead_letter_topic(named)):
        if candidate in there:
            return candidate
    if not there:
        told = "there are none: run `guideway topics apply`"
    else:
        names = sorted(there)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        told = f"{did_you_mean(dead_letter_topic(named), names)}there are {', '.join(names[:_SHOWN])}{more}"
    raise Refusal(FailureCode.INVALID_SETTING, f"{topic[:200]!r} has no dead-letter topic: {told}")


async def _orphaned(cluster: Cluster, origin: str, there: Collection[str]) -> Callable[[Outgoing], bool]:
    """Says of events whether their endpoint is gone; not where the catalogue of its namespace cannot be seen.

    there: all topics. Raises Refusal: broker_unreachable; invalid_setting where the own catalogue may not be read.
    """
    if not is_event_topic(origin) or (own := catalogue_topic(sender_of_topic(origin))) not in there:
        return lambda _: False
    async with CatalogueFollower(cluster) as reader:
        try:
            await reader.require([own])
        except KafkaError as error:
            raise unreachable(cluster, error, connected=True) from None
        catalogue, topics = reader.catalogue, {*reader.topics}

    def orphaned(out: Outgoing) -> bool:
        record = Record(
            topic=out.topic, partition=0, offset=0, timestamp_ms=0, key=out.key, value=out.value, headers=out.headers
        )
        try:
            to = addressee(read_envelope(record))
        except Refusal:
            return False
        if to is None or catalogue_topic(to.namespace) not in topics:
            return False
        return catalogue.latest(Identity("endpoint", to.namespace, to.name)) is None

    return orphaned


def _offsets(spans: Spans) -> int:
    return sum(map(len, spans.values()))


async def _topics(cluster: Cluster) -> dict[str, int]:
    """All topics of the cluster, with how many partitions each has."""
    async with administrator(cluster) as admin:
        return {topic: len(partitions) for topic, partitions in (await partitions_by_topic(admin)).items()}


def _dead(there: Mapping[str, int]) -> dict[str, int]:
    return {topic: count for topic, count in there.items() if topic_of_dead_letters(topic) is not None}
