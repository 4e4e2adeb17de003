"""The catalogue topic: read whole and then followed, and written to. The decisions are in entries.py and changes.py."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, TypeVar

import structlog
from aiokafka.errors import KafkaError, ProducerFenced

from guideway.catalogue.changes import Change, Deletion, catalogue_records
from guideway.catalogue.entries import Catalogue
from guideway.delivery.clients.kafka_client import make_producer, started, unreachable
from guideway.delivery.clients.topic_follower import TopicFollower
from guideway.delivery.guards.transaction_guards import discard
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal

log = structlog.get_logger(__name__)
T = TypeVar("T")
C = TypeVar("C", Change, Deletion)
_TRIES: Final = 5
"""At publishing, where others publish at the same time."""
_MAY_BE_ON_ITS_WAY: Final = {
    FailureCode.UNKNOWN_ENDPOINT,
    FailureCode.UNKNOWN_MODEL_SIZE,
    FailureCode.GUIDANCE_UNKNOWN,
}


class CatalogueFollower:
    """`async with CatalogueFollower(bootstrap) as reader:` – `reader.catalogue` is complete on entry, then current."""

    def __init__(self, bootstrap: str, timeout_s: float = 20, look_s: float = 10) -> None:
        """timeout_s: seconds to read the topic. look_s: seconds between two looks whether it was made anew."""
        self.catalogue = Catalogue()
        self._bootstrap = bootstrap
        self._timeout_s = timeout_s
        self._topic = TopicFollower(
            bootstrap,
            "catalogue",
            names.CATALOGUE_TOPIC,
            self._take,
            partitions=[0],
            made_anew=self._begin_anew,
            look_s=look_s,
        )

    async def __aenter__(self) -> CatalogueFollower:
        """Raises: Refusal `broker_unreachable`, or `invalid_setting` if there is no such topic."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._topic)
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._require_topic()
                    await self._topic.catch_up()
            except (KafkaError, TimeoutError) as error:
                raise unreachable(self._bootstrap, error) from None
            self._topic.follow()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def seen(self, offset: int, timeout_s: float = 10) -> None:
        """Wait until the record at `offset` of the catalogue topic is part of the catalogue. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            await self._topic.seen(offset)

    async def eventually(self, ask: Callable[[Catalogue], T], timeout_s: float = 2) -> T:
        """`ask(catalogue)`; where that finds something unknown, again with all that the topic holds at this moment.

        What a record refers to may have been applied a moment before the record was sent. The brokers are asked whether
        we are behind, so a name that is gone costs one question and no waiting. timeout_s: for brokers that do not
        answer. Raises what `ask` raises.
        """
        try:
            return ask(self.catalogue)
        except Refusal as refusal:
            if refusal.code not in _MAY_BE_ON_ITS_WAY:
                raise
        with contextlib.suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(timeout_s):
                await self.current()
        return ask(self.catalogue)

    async def current(self) -> None:
        """Wait until all is read that the topic holds now, as long as that takes. Raises KafkaError."""
        await self._topic.current()

    async def _require_topic(self) -> None:
        # Brokers learn one after the other of a topic that was just made.
        for wait_s in (0.1, 0.4, 1.5, None):
            if await self._topic.find():
                return
            if wait_s is not None:
                await asyncio.sleep(wait_s)
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"the cluster at {self._bootstrap} has no topic {names.CATALOGUE_TOPIC}: run `guideway topics apply`",
        )

    def _begin_anew(self) -> None:
        self.catalogue = Catalogue()

    def _take(self, records: Sequence[Any]) -> None:
        for record in records:
            unreadable = self.catalogue.unreadable
            try:
                self.catalogue.absorb(record.key, record.value)
            except Exception as error:
                # One record must not keep every process of the cluster from starting.
                self.catalogue.strangers += 1
                log.error("a record of the catalogue is passed over", offset=record.offset, error=repr(error))
            else:
                if self.catalogue.unreadable > unreadable:
                    log.warning(
                        "an entry of the catalogue cannot be read; `guideway get` says why",
                        offset=record.offset,
                        key=(record.key or b"").decode("utf-8", "replace")[:200],
                    )


class Overtaken(Exception):
    """Somebody else has begun to write since; nothing was written."""


@contextlib.asynccontextmanager
async def sole_writer(bootstrap: str) -> AsyncIterator[Callable[[Iterable[Change | Deletion]], Awaitable[int]]]:
    """`async with sole_writer(bootstrap) as write:` – read the catalogue, plan, then `await write(changes)`, once.

    All changes become visible together, and only if nobody has entered here since: whoever enters takes the right to
    write from whoever is inside (a transactional id, which fences), so that no version is planned twice.

    `write` returns what `publish` does. Raises: Overtaken; Refusal `broker_unreachable`.
    """
    producer = make_producer(bootstrap, "catalogue", transactional_id=names.CATALOGUE_WRITER)

    async def write(changes: Iterable[Change | Deletion]) -> int:
        last = -1
        try:
            async with producer.transaction():
                for key, value in catalogue_records(changes):
                    written = await producer.send_and_wait(names.CATALOGUE_TOPIC, key=key, value=value, partition=0)
                    last = written.offset
        except ProducerFenced:
            raise Overtaken from None
        except KafkaError as error:
            raise unreachable(bootstrap, error) from None
        return last

    try:
        async with started(producer, bootstrap):
            yield write
    finally:
        await discard(producer)


async def publish_planned(
    bootstrap: str,
    planned: Callable[[Catalogue], Awaitable[Sequence[C]]],
    *,
    reader: CatalogueFollower | None = None,
) -> tuple[Sequence[C], int]:
    """Plan on the catalogue as it is, write, and wait until that is seen; returns the changes and what `publish` does.

    planned: called again where others published meanwhile, for they may have taken the versions that it named.
    reader: one that follows the catalogue already; else one is made.

    Raises: what `planned` raises; Refusal `invalid_setting` if others go on; `broker_unreachable`.
    """
    for _ in range(_TRIES):
        reading = CatalogueFollower(bootstrap) if reader is None else contextlib.nullcontext(reader)
        async with sole_writer(bootstrap) as write, reading as current:
            if reader is not None:
                await reader.current()
            changes = await planned(current.catalogue)
            with contextlib.suppress(Overtaken):
                if (last := await write(changes)) >= 0:
                    await current.seen(last)
                return changes, last
        await asyncio.sleep(random.uniform(0.2, 2))
    raise Refusal(
        FailureCode.INVALID_SETTING,
        "others publish at the same time, again and again, and nothing was published: run the command again",
    )


async def publish(bootstrap: str, changes: Iterable[Change | Deletion]) -> int:
    """Write changes; returns the offset of the last record, -1 if there was nothing to write.

    Only for where nobody else writes: records are written one by one, and no other writer is fenced. Else use
    `publish_planned`. Raises Refusal(broker_unreachable).
    """
    last = -1
    async with started(make_producer(bootstrap, "catalogue"), bootstrap) as producer:
        for key, value in catalogue_records(changes):
            try:
                written = await producer.send_and_wait(names.CATALOGUE_TOPIC, key=key, value=value, partition=0)
            except KafkaError as error:
                raise unreachable(bootstrap, error) from None
            last = written.offset
    return last
