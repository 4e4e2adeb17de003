"""The catalogue topic: read whole and then followed, and written to. The decisions are in entries.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from guideway.catalogue.entries import Catalogue, Change, Identity
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.wire import MANIFEST

log = structlog.get_logger(__name__)
T = TypeVar("T")
_PARTITION: Final = TopicPartition(names.CATALOGUE_TOPIC, 0)
_MAY_BE_ON_ITS_WAY: Final = {FailureCode.UNKNOWN_ENDPOINT, FailureCode.GUIDANCE_UNKNOWN}


class CatalogueReader:
    """`async with CatalogueReader(bootstrap) as reader:` – `reader.catalogue` is complete on entry, then current."""

    def __init__(self, bootstrap: str, timeout_s: float = 20) -> None:
        self.catalogue = Catalogue()
        self._bootstrap = bootstrap
        self._timeout_s = timeout_s
        self._position = 0
        self._moved = asyncio.Condition()

    async def __aenter__(self) -> CatalogueReader:
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            client_id=names.client_id("catalogue"),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        try:
            await asyncio.wait_for(self._consumer.start(), self._timeout_s)
            await self._require_topic()
            self._consumer.assign([_PARTITION])
            await self._consumer.seek_to_beginning(_PARTITION)
            await asyncio.wait_for(self._catch_up(), self._timeout_s)
        except (KafkaError, TimeoutError) as error:
            await self._consumer.stop()
            raise unreachable(self._bootstrap, error) from None
        except BaseException:
            await self._consumer.stop()
            raise
        self._following = asyncio.create_task(self._follow(), name="follow the catalogue")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._following
        await self._consumer.stop()

    async def seen(self, offset: int, timeout_s: float = 10) -> None:
        """Wait until the record at `offset` of the catalogue topic is part of the catalogue."""
        async with asyncio.timeout(timeout_s), self._moved:
            await self._moved.wait_for(lambda: self._position > offset)

    async def eventually(self, ask: Callable[[Catalogue], T], timeout_s: float = 2) -> T:
        """`ask(catalogue)`; where that finds something unknown, again as the catalogue moves, until the timeout.

        What a record refers to may have been applied a moment before the record was sent.
        """
        try:
            async with asyncio.timeout(timeout_s), self._moved:
                while True:
                    try:
                        return ask(self.catalogue)
                    except Refusal as refusal:
                        if refusal.code not in _MAY_BE_ON_ITS_WAY:
                            raise
                    await self._moved.wait()
        except TimeoutError:
            return ask(self.catalogue)

    async def _require_topic(self) -> None:
        if names.CATALOGUE_TOPIC not in await self._consumer.topics():
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"the cluster at {self._bootstrap} has no topic {names.CATALOGUE_TOPIC}: run `guideway topics apply`",
            )

    async def _catch_up(self) -> None:
        end = (await self._consumer.end_offsets([_PARTITION]))[_PARTITION]
        # The position moves past what compaction and markers left out, too.
        while await self._consumer.position(_PARTITION) < end:
            await self._read(timeout_ms=200)

    async def _follow(self) -> None:
        while True:
            try:
                await self._read(timeout_ms=1000)
            except KafkaError as error:
                log.warning("the catalogue cannot be read", error=repr(error))
                await asyncio.sleep(1)

    async def _read(self, timeout_ms: int) -> None:
        for record in (await self._consumer.getmany(_PARTITION, timeout_ms=timeout_ms)).get(_PARTITION, []):
            self.catalogue.absorb(record.key, record.value)
            self._position = record.offset + 1
        async with self._moved:
            self._moved.notify_all()


async def publish(bootstrap: str, changes: Iterable[Change], removals: Iterable[tuple[Identity, int]] = ()) -> int:
    """Write changes and removals; returns the offset of the last record, -1 if there was nothing to write."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, client_id=names.client_id("catalogue"), enable_idempotence=True, acks="all"
    )
    records = [
        (change.identity.key(change.version), MANIFEST.encode(change.manifest))
        for change in changes
        if change.action != "unchanged"
    ]
    tombstones = [(identity.key(version), None) for identity, version in removals]
    last = -1
    try:
        await asyncio.wait_for(producer.start(), 20)
        for key, value in [*records, *tombstones]:
            written = await producer.send_and_wait(names.CATALOGUE_TOPIC, key=key, value=value, partition=0)
            last = written.offset
    except (KafkaError, TimeoutError) as error:
        raise unreachable(bootstrap, error) from None
    finally:
        await producer.stop()
    return last


def unreachable(bootstrap: str, error: BaseException) -> Refusal:
    """What to say when the brokers do not answer."""
    return Refusal(
        FailureCode.BROKER_UNREACHABLE,
        f"no answer from the brokers at {bootstrap} ({type(error).__name__}): "
        "start them, or correct KAFKA_BOOTSTRAP_SERVERS",
    )
