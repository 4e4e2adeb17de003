"""The client library for programs without an event loop.

with BlockingClient("localhost:9092") as client:
    reply = client.submit("/public/round", {"text": "Is the Earth round?"})
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from guideway.delivery.connection.cluster import Cluster
from guideway.producers.client.client import Client, not_open
from guideway.producers.client.event_headers import Content
from guideway.schemas.partial import Partial
from guideway.schemas.reply import Reply

T = TypeVar("T")


class BlockingClient:
    """A `Client` on an event loop in its own thread. Any number of threads may use it."""

    def __init__(self, cluster: Cluster | str, *, reply_to: str | None = None) -> None:
        """Takes the same arguments as `Client`."""
        self._client = Client(cluster, reply_to=reply_to)
        self._thread: threading.Thread | None = None

    def __enter__(self) -> BlockingClient:
        """Connect. Raises Refusal(broker_unreachable)."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="guideway client", daemon=True)
        self._thread.start()
        try:
            self._run(self._client.__aenter__())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run(self._client.__aexit__(kind, error, trace))
        finally:
            self._end()

    def submit(self, address: str, content: Content, **options: Any) -> Reply:
        """As `Client.submit`, with the same options."""
        return self._run(self._client.submit(address, content, **options))

    def submit_all(
        self, address: str, contents: Iterable[Content], *, at_a_time: int = 256, **options: Any
    ) -> Iterator[Reply]:
        """The replies in the order of `contents`. A bounded number of events is under way at a time.

        Raises what `submit` raises, in place of that reply.
        """
        under_way: deque[Future[Reply]] = deque()
        try:
            for content in contents:
                if len(under_way) >= at_a_time:
                    yield under_way.popleft().result()
                under_way.append(self._begin(self._client.submit(address, content, **options)))
            while under_way:
                yield under_way.popleft().result()
        finally:
            for one in under_way:
                one.cancel()

    def stream(self, address: str, content: Content, **options: Any) -> Iterator[Partial | Reply]:
        """As `Client.stream`, with the same options."""
        stream = self._client.stream(address, content, **options)
        try:
            while (one := self._run(_next(stream))) is not None:
                yield one
        finally:
            self._run(stream.aclose())

    def cancel(self, address: str, request_id: str, *, via: str | None = None) -> None:
        """As `Client.cancel`."""
        self._run(self._client.cancel(address, request_id, via=via))

    def _begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if self._thread is None:
            # No loop would ever run it.
            work.close()
            raise not_open("with BlockingClient(...) as client:")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._begin(work)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C reaches this thread, not the loop.
            future.cancel()
            raise

    def _end(self) -> None:
        thread, self._thread = self._thread, None
        self._loop.call_soon_threadsafe(self._loop.stop)
        if thread is not None:
            thread.join()
        self._loop.close()


async def _next(stream: AsyncIterator[T]) -> T | None:
    return await anext(stream, None)
