"""Guards over aiokafka 0.14.0 for ending: a client that is stopped ends, and who is cancelled meanwhile hears of it.

20. A cancellation that comes while a client stops is raised once it has stopped. Unguarded it is lost: `stop` waits for
    tasks that it has just cancelled, and these take the caller's cancellation for their own. A loop that stops its
    client and makes another goes on for ever then, and so does whoever waits for its end.
    A client that is stopped as soon as it has started stops. Unguarded it raises the cancellation of a task of its own
    that had not begun, as if the caller had been cancelled.
21. A fetcher that closes in the moment in which its partitions change ends. Unguarded it takes that for the end of an
    old fetch and waits for other partitions, and `stop` waits for it for ever.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import Fetcher

_AGAIN_S: Final = 0.1


def _heard(stop: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """Guard 20 around what stops a client."""

    @functools.wraps(stop)
    async def stopped(client: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        before, is_cancelled = task.cancelling(), False
        try:
            # Tasks of the client that have not begun begin: only then do they take a cancellation for their end.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            is_cancelled = True
        await stop(client)
        if is_cancelled or task.cancelling() > before:
            raise asyncio.CancelledError

    return stopped


_plain_close = Fetcher.close


async def _close(self: Any) -> None:
    """For `Fetcher.close`: guard 21."""
    self._closed = True
    while not self._fetch_task.done():
        self._fetch_task.cancel()
        await asyncio.wait([self._fetch_task], timeout=_AGAIN_S)
    await _plain_close(self)


_stop_consumer = _heard(AIOKafkaConsumer.stop)
_stop_producer = _heard(AIOKafkaProducer.stop)
_close_client = _heard(AIOKafkaClient.close)


def install() -> None:
    """Put the guards in place; harmless when repeated. `aiokafka_guards.install` checks the version."""
    AIOKafkaConsumer.stop, AIOKafkaProducer.stop, AIOKafkaClient.close = _stop_consumer, _stop_producer, _close_client
    Fetcher.close = _close
