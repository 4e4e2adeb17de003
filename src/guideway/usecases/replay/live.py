"""Rows of live traffic as they come: a share of the events, chosen by their ids.

It reads what is committed, beside the endpoint service, without a group. How far it has read stands in seen.json, which
is written after the rows that it counts: behind a kill the same events are read again, and chosen again.
"""

from __future__ import annotations

import hashlib
from contextlib import aclosing
from typing import Final

import msgspec
from aiokafka.structs import TopicPartition

from guideway.delivery.clients.span_reader import OffsetRange, SpanReader
from guideway.delivery.clients.topic_directory import TopicDirectory
from guideway.delivery.connection.cluster import Cluster
from guideway.producers.client.client import split_address
from guideway.training.replays.answers import Asked
from guideway.training.runs.folder import write_whole
from guideway.usecases.replay.folder import SEEN, Plan, ReplayFolder
from guideway.usecases.replay.inputs import take, topics_of

MOST_AT_ONCE: Final = 500
"""Rows that are drawn before they are asked."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """How far the topics are read."""

    rows: int = 0
    """So many of the folder's rows count."""
    next: dict[str, dict[int, int]] = {}
    """Topic → partition → the offset from which to read on."""
    left_out: dict[str, int] = {}
    """Why chosen events were not asked → how many."""


def is_chosen(request_id: str, shadow_id: str, share: float) -> bool:
    """Whether this event is in the share: always the same for an id, another share of the ids in each shadow."""
    digest = hashlib.sha256(f"{shadow_id} {request_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def seen_in(folder: ReplayFolder) -> Seen | None:
    """How far this shadow has read; None: it has not begun to."""
    file = folder.path / SEEN
    return msgspec.json.decode(file.read_bytes(), type=Seen) if file.exists() else None


class LiveRows:
    """The rows of one shadow. Owner of seen.json, and of the end of rows.jsonl."""

    def __init__(
        self, folder: ReplayFolder, plan: Plan, cluster: Cluster, reader: SpanReader, directory: TopicDirectory
    ) -> None:
        assert plan.shadow is not None, "a plan of a shadow"
        self._folder, self._plan, self._share = folder, plan, plan.shadow.share
        self._cluster, self._reader, self._directory = cluster, reader, directory
        _, name = split_address(plan.question.address)
        # As callers know it: its input is that of the trial.
        self._endpoint = msgspec.structs.replace(plan.now, name=name)
        self._turn = 0
        self.seen = Seen()

    @property
    def is_full(self) -> bool:
        """Whether there are as many rows as were wanted."""
        return self.seen.rows >= self._plan.rows

    async def begin(self) -> None:
        """Go on where it was; what has not begun reads what comes from now on.

        Raises Refusal(broker_unreachable | unknown_endpoint).
        """
        if (seen := seen_in(self._folder)) is not None:
            self.seen = seen
        else:
            spans = await self._spans()
            self._note(Seen(next=_positions({tp: span.end for tp, span in spans.items()})))
        self._folder.keep_rows(self.seen.rows)

    async def more(self) -> list[Asked]:
        """Those that have come since, in the folder when this returns. Raises as `begin`."""
        spans = await self._spans()
        there = sorted(spans)
        # Each partition is the first in turn: where there are too many rows, none has them all.
        self._turn = (self._turn + 1) % max(1, len(there))
        found = _Found(min(MOST_AT_ONCE, self._plan.rows - self.seen.rows), self.seen.left_out)
        at = {TopicPartition(topic, n): offset for topic, of in self.seen.next.items() for n, offset in of.items()}
        for tp in [*there[self._turn :], *there[: self._turn]]:
            await self._read(tp, spans[tp], at, found)
        rows = [msgspec.structs.replace(row, number=self.seen.rows + n) for n, row in enumerate(found.rows, 1)]
        if rows:
            self._folder.add_rows(rows)
        seen = Seen(rows=self.seen.rows + len(rows), next=_positions(at), left_out=found.left_out)
        if seen != self.seen:
            self._note(seen)
        return rows

    async def _spans(self) -> dict[TopicPartition, OffsetRange]:
        return await self._reader.spans(await topics_of(self._endpoint, self._directory, self._cluster))

    async def _read(self, tp: TopicPartition, span: OffsetRange, at: dict[TopicPartition, int], found: _Found) -> None:
        # A partition that is new since is read from its beginning, and so is one that was made anew.
        first = at.get(tp, span.first)
        if first < span.first:
            found.leave_out("offsets that Kafka had deleted before they were read", span.first - first)
        first = span.first if first > span.end else max(first, span.first)
        if found.is_full:
            at[tp] = first
            return
        async with aclosing(self._reader.read({tp: OffsetRange(first, span.end)})) as records:
            async for record in records:
                take(record, self._endpoint, found, lambda id_: is_chosen(id_, self._plan.id, self._share))
                if found.is_full:
                    at[tp] = record.offset + 1
                    return
        at[tp] = span.end

    def _note(self, seen: Seen) -> None:
        write_whole(self._folder.path / SEEN, msgspec.json.encode(seen))
        self.seen = seen


class _Found:
    """The rows of one look."""

    def __init__(self, most: int, left_out: dict[str, int]) -> None:
        self._most = most
        self.rows: list[Asked] = []
        self.left_out = dict(left_out)

    @property
    def is_full(self) -> bool:
        return len(self.rows) >= self._most

    def add(self, row: Asked) -> None:
        self.rows.append(row)

    def leave_out(self, why: str, count: int = 1) -> None:
        self.left_out[why] = self.left_out.get(why, 0) + count


def _positions(at: dict[TopicPartition, int]) -> dict[str, dict[int, int]]:
    found: dict[str, dict[int, int]] = {}
    for tp, offset in at.items():
        found.setdefault(tp.topic, {})[tp.partition] = offset
    return found
