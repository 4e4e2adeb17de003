"""Reads topics of pieces: for whoever waits for the pieces of a request, by correlation id."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import structlog

from guideway.delivery.clients.kafka_client import make_consumer
from guideway.delivery.connection.cluster import Cluster
from guideway.producers.client.partial_text import PartialText
from guideway.producers.client.readers import TopicReader
from guideway.schemas.names import header
from guideway.schemas.partial import Partial
from guideway.schemas.record import Record
from guideway.schemas.reply import Reply
from guideway.schemas.wire import PARTIAL, Undecodable

log = structlog.get_logger(__name__)

MOST_PIECES: Final = 1000
"""Of one request that nobody has taken yet. Further ones are dropped: what they say comes with the reply."""


class PartialReader(TopicReader):
    """Reads one topic of pieces from its present end, and gives each piece to whoever expects it."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        # Pieces stand in no transaction: nothing may hold them back.
        super().__init__(topic, make_consumer(cluster, "client", isolation_level="read_uncommitted"))
        self._expected: dict[bytes, asyncio.Queue[Partial]] = {}

    def expect(self, correlation: bytes) -> asyncio.Queue[Partial]:
        """The pieces with this correlation id, as they come, until `drop`. They may be repeated or missing."""
        return self._expected.setdefault(correlation, asyncio.Queue(MOST_PIECES))

    def drop(self, correlation: bytes) -> None:
        """Nobody expects these any more."""
        self._expected.pop(correlation, None)

    def _failed(self, error: Exception) -> None:
        # Texts come with the replies all the same.
        log.warning("pieces cannot be read any more", topic=self.topic, error=repr(error))

    def _hand_out(self, record: Record) -> None:
        # By the header only: others may share the topic, and their pieces are not decoded.
        expected = self._expected.get(record.header(header.CORRELATION_ID) or b"")
        if expected is None:
            return
        try:
            piece = PARTIAL.decode(record.value)
        except Undecodable as error:
            log.warning("no piece of this version", topic=record.topic, offset=record.offset, reason=str(error))
            return
        with contextlib.suppress(asyncio.QueueFull):
            expected.put_nowait(piece)


async def streamed(
    pieces: asyncio.Queue[Partial], answer: asyncio.Future[Reply], *, timeout_s: float
) -> AsyncIterator[Partial | Reply]:
    """The pieces as they come, each once and in its order, then what is missing of the reply's texts, then the reply.

    Raises: what `answer` raises; TimeoutError where it has nothing after `timeout_s` seconds.
    """
    text, now = PartialText(), asyncio.get_running_loop().time
    ends_at = now() + timeout_s
    while not answer.done() or not pieces.empty():
        if pieces.empty():
            coming = asyncio.create_task(pieces.get())
            try:
                either: list[asyncio.Future[Any]] = [coming, answer]
                await asyncio.wait(either, timeout=ends_at - now(), return_when="FIRST_COMPLETED")
            finally:
                if not coming.done():
                    coming.cancel()
            if not coming.done() and not answer.done():
                raise TimeoutError
            if not coming.done():
                continue
            piece = coming.result()
        else:
            piece = pieces.get_nowait()
        if text.take(piece):
            yield piece
    reply = answer.result()
    for piece in text.rest(reply):
        yield piece
    yield reply
