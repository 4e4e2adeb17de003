"""A road without brokers, which keeps what was published, committed and answered, through any number of batchers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
from aiokafka.errors import ProducerFenced
from tests.producers.gateway.openai.made import reply

from guideway.producers.batch.ordering import sending_order
from guideway.producers.batch.stored import RequestIds, SentRow
from guideway.schemas.services.batch import BatchJob
from guideway.schemas.wire import REPLY


class Ground:
    """What stands in Kafka of one job, and whoever answers its rows. `open` stands in for `Road.open`."""

    def __init__(self, job: BatchJob, answers: Callable[[SentRow], str | None], *, seed: int = 1) -> None:
        """answers: what a row is answered; None: nothing yet."""
        self._ids, self._answers, self._random = RequestIds(job.id, job.secret), answers, random.Random(seed)
        self.published: Counter[int] = Counter()
        """By number of the row."""
        self.waiting: list[tuple[int, SentRow]] = []
        self.cancelled: set[int] = set()
        self.replies: list[bytes] = []
        self.committed: tuple[int, str] = (0, "")
        self.owner: FakeRoad | None = None
        self.most_noted = self.transactions = 0

    @asynccontextmanager
    async def open(self, *_: object) -> AsyncIterator[FakeRoad]:
        self.owner = FakeRoad(self)
        yield self.owner

    def answer(self) -> None:
        """Whoever can answer does, in any order."""
        left = []
        for number, row in self.waiting:
            text = self._answers(row)
            if text is None:
                left.append((number, row))
            else:
                self.replies.append(REPLY.encode(msgspec.structs.replace(reply(text), id=self._ids.of(number))))
        self._random.shuffle(self.replies[len(self.replies) - (len(self.waiting) - len(left)) :])
        self.waiting = left


class FakeRoad:
    """As `producers.batch.road.Road`."""

    def __init__(self, ground: Ground) -> None:
        self._ground, self._at = ground, 0

    async def committed(self) -> tuple[int, str]:
        return self._ground.committed

    async def first_reply(self) -> int:
        return 0

    async def end_of_replies(self) -> int:
        return len(self._ground.replies)

    def read_from(self, offset: int) -> None:
        self._at = offset

    async def position(self) -> int:
        return self._at

    async def replies(self, timeout_s: float) -> Sequence[bytes]:
        await asyncio.sleep(0)
        self._ground.answer()
        if self._at == len(self._ground.replies):
            await asyncio.sleep(min(timeout_s, 0.002))
        found = self._ground.replies[self._at : self._at + 700]
        self._at += len(found)
        return found

    async def publish(self, rows: Sequence[tuple[int, SentRow]], pieces: int | None = None, noted: str = "") -> None:
        ground = self._ground
        if ground.owner is not self:
            raise ProducerFenced
        assert list(rows) == sending_order(rows) or pieces is None
        ground.transactions += 1
        ground.published.update(number for number, _ in rows)
        ground.waiting += rows
        if pieces is not None:
            ground.committed = pieces, noted
            ground.most_noted = max(ground.most_noted, len(noted))

    async def cancel(self, rows: Sequence[tuple[int, SentRow]]) -> None:
        self._ground.cancelled.update(number for number, _ in rows)
