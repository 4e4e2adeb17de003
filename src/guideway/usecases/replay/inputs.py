"""Where the rows of a replay come from: an archive, an endpoint's topics, or a file. Each is drawn from by chance."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import msgspec
from aiokafka.errors import KafkaError

from guideway.catalogue.archive.examples import between
from guideway.delivery.clients.kafka_client import started, unreachable
from guideway.delivery.clients.span_reader import SpanReader
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.settings import MAX_RECORD_BYTES
from guideway.producers.checks.calibration import around_only_field
from guideway.producers.events.addressee import Addressee, addressee
from guideway.producers.events.envelope import read_envelope
from guideway.producers.events.read_event import read_event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.clients import client_id
from guideway.schemas.names.topics import batch_call_topic, call_topic, event_topic
from guideway.schemas.record import Record
from guideway.settings import Settings
from guideway.training.data.answers import spelled
from guideway.training.data.records import Findings, invalid, read_records
from guideway.training.replays.answers import Asked
from guideway.usecases.targets import archives

_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Taking(Protocol):
    """Where rows go as they are read."""

    def add(self, row: Asked) -> None:
        """A row passes."""

    def leave_out(self, why: str) -> None:
        """A row cannot be asked."""


class Drawn:
    """So many of the rows that pass, each with the same chance; and why others were left out.

    Its memory is bounded by `count`.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._chance = count, random.Random(seed)
        self._rows: list[tuple[int, Asked]] = []
        self._passed = 0
        self.left_out: dict[str, int] = {}

    def leave_out(self, why: str) -> None:
        """A row cannot be asked."""
        self.left_out[why] = self.left_out.get(why, 0) + 1

    def add(self, row: Asked) -> None:
        """A row passes."""
        if self._passed < self._count:
            self._rows.append((self._passed, row))
        elif (place := self._chance.randint(0, self._passed)) < self._count:
            self._rows[place] = (self._passed, row)
        self._passed += 1

    def rows(self) -> list[Asked]:
        """Those drawn, numbered in the order in which they stood."""
        if over := self._passed - len(self._rows):
            self.left_out["not drawn"] = over
        return [
            msgspec.structs.replace(row, number=number)
            for number, (_, row) in enumerate(sorted(self._rows, key=_place), 1)
        ]


def _place(one: tuple[int, Asked]) -> int:
    return one[0]


def since_ms(text: str | None, now_s: float | None = None) -> int:
    """Unix milliseconds of a day, a time (ISO 8601) or an age (`90m`, `24h`, `7d`); 0 for None.

    Raises Refusal(invalid_setting).
    """
    if text is None:
        return 0
    number, unit = text[:-1], text[-1:]
    if number.isascii() and number.isdigit() and len(number) < 7 and unit in _UNITS:
        return int(((time.time() if now_s is None else now_s) - int(number) * _UNITS[unit]) * 1000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"--since {text[:40]!r} is no time: write a day (2026-11-29), a time (2026-11-29T08:00Z), or an age (24h)",
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


# From the archive ----------------------------------------------------------------------------------------------------


def from_archive(settings: Settings, endpoint: Endpoint, since: int, drawn: Drawn) -> None:
    """Draw from the endpoint's archive. Raises Refusal(invalid_setting) where its texts cannot become events again."""
    around = around_only_field(endpoint)
    fields = [*endpoint.input.fields]
    if around is None:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"an archive holds texts, and the fields of {endpoint.address} ({', '.join(fields)}) cannot be read off a "
            "text: replay --from topic",
        )
    day = datetime.fromtimestamp(since / 1000, UTC).strftime("%Y-%m-%d") if since else ""
    for row in archives.rows(settings, endpoint.address, day):
        if row.at_ms < since:
            drawn.leave_out("earlier than --since")
        elif row.text is None:
            drawn.leave_out("without its text")
        elif (text := between(row.text, *around)) is None:
            drawn.leave_out("of another template")
        else:
            drawn.add(Asked(number=0, id=row.id, content={fields[0]: text}))


# From topics ---------------------------------------------------------------------------------------------------------


async def from_topics(settings: Settings, endpoint: Endpoint, since: int, drawn: Drawn) -> None:
    """Draw from the events that callers of its own namespace sent, directly or to the general address.

    What the namespace's router sent to it is not among them. Raises Refusal(broker_unreachable | unknown_endpoint).
    """
    cluster = settings.answering_cluster()
    directory = TopicDirectory(cluster, client_id("replay"))
    async with started(directory, cluster):
        there = await topics_of(endpoint, directory, cluster)
    async with SpanReader.connected(cluster, "inputs") as reader:
        async for record in reader.read(await reader.spans(there, since_ms=since)):
            if record.timestamp_ms >= since:
                take(record, endpoint, drawn)


async def topics_of(endpoint: Endpoint, directory: TopicDirectory, cluster: Cluster) -> dict[str, int]:
    """Where callers of its own namespace publish its events → partitions.

    Raises Refusal(broker_unreachable | unknown_endpoint).
    """
    owner = endpoint.namespace
    own = event_topic(owner, endpoint.name)
    wanted = (own, call_topic(owner), batch_call_topic(owner))
    try:
        counts = {one: await directory.partitions(one) for one in wanted}
    except KafkaError as error:
        raise unreachable(cluster, error, connected=True) from None
    if not counts[own]:
        raise Refusal(FailureCode.UNKNOWN_ENDPOINT, f"there is no topic {own}, or you may not see it")
    return {topic: count for topic, count in counts.items() if count}


def take(record: Record, endpoint: Endpoint, into: Taking, is_chosen: Callable[[str], bool] = lambda _id: True) -> None:
    """Take a record in, if it is an event for this endpoint. is_chosen: of its id, before the rest is read."""
    envelope = read_envelope(record)
    to: Addressee | None = None
    with contextlib.suppress(Refusal):
        to = addressee(envelope)
    if to is None or (to.namespace, to.name) != (endpoint.namespace, endpoint.name) or envelope.cancels is not None:
        return
    if not is_chosen(envelope.id):
        return
    try:
        event = read_event(envelope, endpoint.input)
        generation = msgspec.to_builtins(event.generation)
        if len(msgspec.json.encode([event.content, event.guidance, generation])) > MAX_RECORD_BYTES:
            into.leave_out("larger than a record, as JSON")
            return
        into.add(Asked(number=0, id=event.id, content=event.content, guidance=event.guidance, generation=generation))
    except Refusal as refusal:
        into.leave_out(f"refused then too: {refusal.code.value}")
    except (TypeError, ValueError):
        into.leave_out("with values that JSON has not")


# From a file ---------------------------------------------------------------------------------------------------------


def from_file(file: Path, endpoint: Endpoint, drawn: Drawn, *, text: str, label: str) -> None:
    """Draw from rows of JSONL, JSON, CSV or TSV. text, label: the columns of the text and of the right answer.

    A row without the second has no known answer; other columns are not looked at. Raises Refusal(invalid_data) with all
    faults.
    """
    if endpoint.input.text_field is None:
        raise invalid(f"{endpoint.address} takes no plain text, and rows of a file are: replay --from topic")
    findings = Findings(file)
    for number, cells in read_records(file, None, "utf-8", [{text}, {text, label}], findings):
        if text not in cells:
            findings.add(number, f"it has no column {text!r}: name the column of the text with --text, or add it")
            continue
        content = cells[text]
        if not isinstance(content, str) or not content.strip():
            findings.add(number, f"its column {text!r} is empty or no text: fill it in, or remove the row")
            continue
        try:
            answer = None if cells.get(label) in (None, "") else spelled(cells[label], endpoint.output)
        except ValueError as error:
            findings.add(number, str(error))
            continue
        drawn.add(Asked(number=0, id=str(number), content=content, answer=answer))
    findings.refuse()
