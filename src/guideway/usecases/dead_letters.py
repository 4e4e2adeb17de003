"""Dead letters: what topics hold of them, looked at, and put back where they came from."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from guideway.delivery.replay.dead_letter_reader import DeadLetterReader, Spans
from guideway.delivery.replay.decision import Replayed, Selection, code_of
from guideway.delivery.replay.replayer import Report, plan, replay
from guideway.infra.cluster import administrator
from guideway.infra.topics import partitions_by_topic
from guideway.producers.client.client import split_address
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Record
from guideway.settings import Settings

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

    bootstrap: str
    origin: str
    """The topic that they go back to."""
    partitions: int
    """Of that topic."""
    spans: Spans
    selection: Selection


async def tallies(settings: Settings, watch: Watch) -> list[Tally]:
    """Of every dead-letter topic that holds any. Raises Refusal(broker_unreachable)."""
    bootstrap = settings.answering_brokers()
    there = _dead(await _topics(bootstrap))
    async with DeadLetterReader.connected(bootstrap) as reader:
        # A topic's records are counted: transaction markers make its offsets lie.
        found = {topic: Tally(topic) for topic in sorted(there)}
        spans = await reader.spans(there)
        walked = watch(_offsets(spans))
        for tp, span in spans.items():
            replayed = await reader.replayed(tp) if len(span) else Replayed()
            async for record in reader.read({tp: span}):
                found[tp.topic].add(record, replayed=record.offset in replayed)
            walked(len(span))
    return [tally for tally in found.values() if tally.records]


async def letters(
    settings: Settings, topic: str, selection: Selection, *, limit: int
) -> tuple[list[tuple[Record, bool]], int]:
    """([record, whether it was replayed], newest last; how many there are of the selection).

    topic: see `dead_letter_topic`. limit: so many of the newest; 0: all. Raises Refusal as that does.
    """
    bootstrap = settings.answering_brokers()
    there = _dead(await _topics(bootstrap))
    dead = dead_letter_topic(topic, there)
    kept: deque[tuple[Record, bool]] = deque(maxlen=limit or None)
    count = 0
    async with DeadLetterReader.connected(bootstrap) as reader:
        for tp, span in (await reader.spans({dead: there[dead]})).items():
            replayed = await reader.replayed(tp) if len(span) else Replayed()
            async for record in reader.read({tp: span}):
                if selection.wants(record):
                    count += 1
                    kept.append((record, record.offset in replayed))
    return list(kept), count


async def prepare_replay(settings: Settings, topic: str, selection: Selection) -> Replay:
    """What there is to put back now. topic: see `dead_letter_topic`.

    Raises Refusal as that does; invalid_setting where the topic that they came from is gone.
    """
    bootstrap = settings.answering_brokers()
    there = await _topics(bootstrap)
    dead = dead_letter_topic(topic, _dead(there))
    origin = names.topic_of_dead_letters(dead)
    if origin not in there:
        raise Refusal(FailureCode.INVALID_SETTING, f"topic {origin} does not exist any more: create it first")
    async with DeadLetterReader.connected(bootstrap) as reader:
        return Replay(bootstrap, origin, there[origin], await reader.spans({dead: there[dead]}), selection)


async def preview_replay(wanted: Replay, watch: Watch) -> Report:
    """What `put_back` would do; nothing is written."""
    async with DeadLetterReader.connected(wanted.bootstrap) as reader:
        return await plan(reader, wanted.spans, wanted.selection, watch(_offsets(wanted.spans)))


async def put_back(wanted: Replay, watch: Watch) -> Report:
    """Put them back, each once, as they were. Interrupted, it may be called again. Raises Refusal as `replay` does."""
    async with DeadLetterReader.connected(wanted.bootstrap) as reader:
        return await replay(
            wanted.bootstrap,
            reader,
            wanted.spans,
            wanted.selection,
            origin=wanted.origin,
            origin_partitions=wanted.partitions,
            walked=watch(_offsets(wanted.spans)),
        )


def dead_letter_topic(topic: str, there: Mapping[str, int]) -> str:
    """The dead-letter topic that is meant by itself, by the topic whose letters it holds, or by /NAMESPACE/ENDPOINT.

    there: dead-letter topic → its number of partitions. Raises Refusal(invalid_setting) where it is none of them.
    """
    named = names.event_topic(*split_address(topic)) if topic.startswith("/") else topic
    for candidate in (named, names.dead_letter_topic(named)):
        if candidate in there:
            return candidate
    known = ", ".join(sorted(there)) or "none: run `guideway topics apply`"
    raise Refusal(FailureCode.INVALID_SETTING, f"{topic!r} has no dead-letter topic; there are {known}")


def _offsets(spans: Spans) -> int:
    return sum(map(len, spans.values()))


async def _topics(bootstrap: str) -> dict[str, int]:
    """All topics of the cluster, with how many partitions each has."""
    async with administrator(bootstrap) as admin:
        return {topic: len(partitions) for topic, partitions in (await partitions_by_topic(admin)).items()}


def _dead(there: Mapping[str, int]) -> dict[str, int]:
    return {topic: count for topic, count in there.items() if names.topic_of_dead_letters(topic) is not None}
