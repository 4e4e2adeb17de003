"""One request of a door that is under way, or has its reply already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import closing

from guideway.producers.client.partial_reader import streamed
from guideway.producers.gateway.known import Place
from guideway.producers.gateway.reading import KEPT_MARK, Pieces, Reading
from guideway.producers.gateway.replies import Answer
from guideway.producers.gateway.room import Held
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.partial import Partial
from guideway.schemas.reply import Reply
from guideway.schemas.services.accepted import KEPT_S, Claim

Cancel = Callable[["Pending"], Awaitable[None]]


class Pending:
    """A request that is under way, or has its reply already."""

    def __init__(self, reading: Reading, namespace: str, claim: Claim, cancel: Cancel) -> None:
        """cancel: publishes the wish for its end."""
        self.id = claim.id
        self.namespace = namespace
        self.address = claim.address
        self.accepted_ms = claim.at_ms
        self._reading, self._cancel = reading, cancel
        self.kept = claim.correlation.endswith(KEPT_MARK)
        self._correlation = claim.correlation
        self._answer: asyncio.Future[Answer] | None = None
        self._pieces: Pieces | None = None
        self._ended = False
        """The reply was there, and found no room."""

    @property
    def done(self) -> bool:
        """Whether the reply is there."""
        return self._ended or (self._answer is not None and self._answer.done()) or self._place is not None

    async def answer(self) -> Answer:
        """The reply as it came. Cancel the task to stop waiting.

        Raises: Refusal(broker_unreachable); DoorRefusal(request_gone) where it is not kept any more.
        """
        if self._answer is None and (place := self._place) is not None:
            found = await self._reading.read(self.namespace, self._correlation, place)
            if found is None:
                raise gone()
            return found
        try:
            return await asyncio.shield(self.expect())
        finally:
            self.leave()

    async def reply(self) -> Reply:
        """The reply, Completed or Failed. Raises as `answer`, and as `Answer.reply`."""
        return (await self.answer()).reply()

    async def streamed(self, timeout_s: float) -> AsyncGenerator[Partial | Reply, None]:
        """The pieces of its texts as they come, each once and in its order, and at last the reply.

        What was not told by then comes as pieces of ours before the reply; so all of it, where nothing is told. What
        waits here is counted, also while nobody asks for the next one: close this.
        Raises as `reply`; TimeoutError where there is no reply after `timeout_s` seconds; DoorRefusal:
        too_many_requests, busy where there is no room for the reply.
        """
        pieces, self._pieces = self._pieces or self._reading.no_pieces(self.namespace), None
        with closing(pieces):
            answer = asyncio.ensure_future(self._held_reply(pieces.held))
            try:
                async for one in streamed(pieces, answer, timeout_s=timeout_s):
                    yield one
            finally:
                answer.cancel()
                self._reading.drop_pieces(self.namespace, self._correlation)
                self.leave()

    async def _held_reply(self, held: Held) -> Reply:
        found = await self.answer()
        # As it is read, and as it is sent.
        count = 2 * len(found.content)
        try:
            held(count)
        except DoorRefusal:
            held.less(count)
            self._answer, self._ended = None, True
            raise
        return found.reply()

    async def cancel(self) -> None:
        """Ask for its end; its reply comes all the same. Returns when that is published. Raises Refusal."""
        await self._cancel(self)

    def expect(self) -> asyncio.Future[Answer]:
        """From now on the reply is awaited here: until `answer` returns, or `leave`."""
        if self._answer is None:
            self._answer = self._reading.expect(self.namespace, self._correlation)
        return self._answer

    def expect_pieces(self) -> None:
        """From now on pieces of its texts are kept here, for `streamed`, until `leave`."""
        self._pieces = self._reading.expect_pieces(self.namespace, self._correlation)

    def leave(self) -> None:
        """Nobody waits for the reply here any more."""
        if self._pieces is not None:
            self._reading.drop_pieces(self.namespace, self._correlation)
            self._pieces.close()
            self._pieces = None
        if self._answer is not None and not self._answer.done():
            self._reading.leave(self.namespace, self._correlation, self._answer)
            self._answer = None

    @property
    def _place(self) -> Place | None:
        return self._reading.known.place(self.namespace, self._correlation)


def gone() -> DoorRefusal:
    """The refusal for what is not kept any more."""
    return DoorRefusal(
        DoorCode.REQUEST_GONE, f"replies are kept for {KEPT_S // 3600} hours: ask for it earlier, or send it again"
    )
