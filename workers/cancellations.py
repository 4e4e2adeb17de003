"""What callers have cancelled. A request that has not begun is refused, and one that runs is ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any

import structlog

from guideway.delivery.clients.topic_follower import TopicFollower
from guideway.delivery.clients.topic_reader import TopicReader
from guideway.delivery.connection.cluster import Cluster
from guideway.delivery.recent_keys import SharedRecentKeys
from guideway.schemas.names.topics import cancellation_topic
from guideway.schemas.request import Request
from guideway.schemas.services.cancellation import HELD_S, Cancellation, cancelled_by_caller
from guideway.schemas.wire import CANCELLATION

log = structlog.get_logger(__name__)

Work = tuple[str, str, str, str]
"""Calling namespace, the endpoint's namespace and name, request id.

Several records may carry one id: a cancellation concerns them all.
"""


class Cancellations:
    """Which requests are cancelled, and which run here. Owned by one worker; does no I/O."""

    def __init__(self, *, limit: int = 100_000) -> None:
        self.held: SharedRecentKeys[Work] = SharedRecentKeys(limit=limit, ttl_s=HELD_S)
        """By namespace: a namespace that cancels too many pushes out its own only."""
        self._running: dict[Work, set[asyncio.Timeout]] = {}

    def cancel(self, cancellation: Cancellation, *, at_s: float, now: float) -> None:
        """Take note, and end what runs. `at_s`: when it was published; both Unix time in seconds.

        It holds for `HELD_S` from `at_s`; one that is older has no effect.
        """
        # A clock that is ahead of ours does not prolong it.
        at_s = min(at_s, now)
        if now - at_s >= HELD_S:
            return
        caller = cancellation.caller or cancellation.namespace
        work = (caller, cancellation.namespace, cancellation.endpoint, cancellation.id)
        self.held.renew(caller, work, at_s)
        for scope in self._running.pop(work, ()):
            scope.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def heeded(self, request: Request, *, now: float) -> AsyncIterator[None]:
        """Raises Refusal(cancelled) if the request is cancelled before this is entered or while it lasts.

        A cancellation of the task itself, by whoever owns it, stays CancelledError: that is what the scope is for.
        """
        caller = request.calling_namespace
        work = (caller, request.namespace, request.endpoint, request.id)
        if self.held.holds(caller, work, now):
            raise cancelled_by_caller()
        try:
            async with asyncio.timeout(None) as scope:
                self._running.setdefault(work, set()).add(scope)
                try:
                    yield
                finally:
                    self._forget(work, scope)
        except TimeoutError:
            # Not every TimeoutError that passes here is of our making.
            if scope.expired():
                raise cancelled_by_caller() from None
            raise

    def _forget(self, work: Work, scope: asyncio.Timeout) -> None:
        if scopes := self._running.get(work):
            scopes.discard(scope)
            if not scopes:
                del self._running[work]


class CancellationFollower:
    """`async with CancellationFollower(...):` – on entry all is known that was cancelled before, then it is followed.

    Every worker reads the whole topic, outside any group, for nobody knows which of them has the request. Where the
    topic is missing (an older deployment has none), that is said once, and it is looked for every `look_again_s`.
    """

    def __init__(
        self,
        cluster: Cluster,
        size: str,
        cancellations: Cancellations,
        *,
        look_again_s: float = 60.0,
        timeout_s: float = 20.0,
    ) -> None:
        """look_again_s, timeout_s: seconds; the latter for all that was cancelled before."""
        self._topic_name = cancellation_topic(size)
        reader = TopicReader(
            cluster, "cancellations", self._topic_name, self._take, partitions=[0], look_again_s=look_again_s
        )
        self._topic = TopicFollower(reader)
        self._cancellations = cancellations
        self._timeout_s = timeout_s
        self._pushed_out = 0
        self.passed_over = 0
        """Records that are no cancellations."""

    async def __aenter__(self) -> CancellationFollower:
        """Raises Refusal(broker_unreachable)."""
        self._stack = AsyncExitStack()
        # Requests can be served all the same; what is cancelled is heard of later.
        following = self._topic.followed(timeout_s=self._timeout_s, is_needed=False)
        if not await self._stack.enter_async_context(following):
            log.warning(
                "there is no topic for cancellations, so none is heeded: run `guideway topics apply`",
                topic=self._topic_name,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _take(self, records: Sequence[Any]) -> None:
        for record in records:
            try:
                cancellation = CANCELLATION.decode(record.value)
                self._cancellations.cancel(cancellation, at_s=record.timestamp / 1000, now=time.time())
            except Exception as error:
                # Only the endpoint service writes here; where it is a newer one, nobody can be told. The records after
                # this one must be read.
                self.passed_over += 1
                log.warning(
                    "no cancellation of this version",
                    topic=record.topic,
                    offset=record.offset,
                    error=type(error).__name__,
                    so_far=self.passed_over,
                )
        pushed_out = self._cancellations.held.pushed_out
        if pushed_out > self._pushed_out:
            log.warning("too many cancellations at once; the oldest no longer hold", number=pushed_out)
            self._pushed_out = pushed_out
