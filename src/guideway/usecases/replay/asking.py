"""Asks both trials of a replay, so many rows at a time, and keeps what they answer."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import IO, Final

from guideway.producers.client.client import Client
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.reply import Completed, Failed, Reply
from guideway.training.replays.answers import SIDES, Asked, Side, given_of
from guideway.usecases.replay.folder import Plan, add

IN_FLIGHT: Final = 64
_ATTEMPTS: Final = 5
"""More, up to sixteen seconds apart: a failure may pass, and services may not have seen the trial yet."""
SILENCE_S: Final = 30.0
"""After so long without a result of a trial that is asked, it is said what may be missing."""
_TIMEOUT_S: Final = 900.0
_REFUSED_ROWS: Final = 20
"""So many failures, and nothing else, are the endpoint's and not the rows'."""


class Watch:
    """Who is told how far a replay is. All of it does nothing by default."""

    def begun(self, done: int, of: int) -> None:
        """So many answers are there already, of so many."""

    def answered(self) -> None:
        """One more."""

    def say(self, line: str) -> None:
        """Something that a person should know."""


class AllRefused(Refusal):
    """A trial has no result for any row: compared, that would look like a bad endpoint."""


class Silence:
    """Since when each trial owes a result. Pure: `now` is in seconds."""

    def __init__(self) -> None:
        self._owed: dict[Side, int] = dict.fromkeys(SIDES, 0)
        self._since: dict[Side, float] = {}
        self._why: dict[Side, str] = {}

    def asked(self, side: Side, now: float) -> None:
        """It owes one more."""
        if not self._owed[side]:
            self._since[side], self._why[side] = now, ""
        self._owed[side] += 1

    def put_off(self, side: Side, why: str) -> None:
        """It has answered that it has no result yet."""
        self._why[side] = why

    def answered(self, side: Side, now: float) -> None:
        """One result has come, or is waited for no more."""
        self._owed[side] -= 1
        self._since[side], self._why[side] = now, ""

    def of(self, now: float) -> dict[Side, str]:
        """The trials that have given nothing for long → what they said last, if anything."""
        return {side: self._why[side] for side in SIDES if self._owed[side] and now - self._since[side] >= SILENCE_S}


class Trials:
    """Two trials that are in the catalogue. `answer` asks one of them, again where a failure may pass.

    Raises Refusal(invalid_setting) where nobody answers, or somebody else does.
    """

    def __init__(self, client: Client, plan: Plan, versions: Mapping[Side, int]) -> None:
        """versions: of the trials."""
        self._client, self._plan, self._versions = client, plan, versions
        self._silence = Silence()

    @property
    def trouble(self) -> str:
        """What seems to keep a trial from answering, for a person; empty: nothing does."""
        silent = self._silence.of(time.monotonic())
        told = dict.fromkeys(why or _needs(self._plan.trial(side)) for side, why in silent.items())
        return f"no result for {SILENCE_S:g} s: {' '.join(told)}" if told else ""

    async def answer(self, side: Side, row: Asked) -> tuple[Reply, float]:
        """(what the trial replies, after how many milliseconds). Raises Refusal(invalid_setting): see the class."""
        self._silence.asked(side, time.monotonic())
        try:
            return await self._answer(side, row)
        finally:
            self._silence.answered(side, time.monotonic())

    async def _answer(self, side: Side, row: Asked) -> tuple[Reply, float]:
        trial, attempt = self._plan.trial(side), 0
        while True:
            began = time.perf_counter()
            try:
                reply = await self._client.submit(
                    trial.address,
                    row.content,
                    guidance=row.guidance,
                    generation=row.generation or None,
                    request_id=f"{self._plan.id}-{side}-{row.number}-{uuid.uuid4().hex[:8]}",
                    timeout_s=_TIMEOUT_S,
                )
            except TimeoutError:
                raise Refusal(
                    FailureCode.INVALID_SETTING,
                    f"{trial.address} has not answered for {_TIMEOUT_S / 60:g} minutes: {_needs(trial)}",
                ) from None
            took_ms = (time.perf_counter() - began) * 1000
            is_ours, passes = self._is_of_trial(reply, side), isinstance(reply, Failed) and reply.retryable
            # What the namespace may have comes back with time, and is no result of a row.
            is_beyond = isinstance(reply, Failed) and reply.code is FailureCode.QUOTA_EXCEEDED
            if is_ours and (not passes or (attempt == _ATTEMPTS and not is_beyond)):
                return reply, took_ms
            if attempt == _ATTEMPTS and not is_ours:
                break
            self._silence.put_off(side, reply.message if isinstance(reply, Failed) else "")
            await asyncio.sleep(0.5 * 2**attempt)
            attempt = min(attempt + 1, _ATTEMPTS)
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"{trial.address} is not the trial of this replay any more: another has replaced or removed it. It can go "
            "on when that has ended: give its command again",
        )

    def _is_of_trial(self, reply: Reply, side: Side) -> bool:
        """Whether the trial itself has answered: a service may not have seen it yet, or another may stand there."""
        if isinstance(reply, Failed):
            return reply.code is not FailureCode.UNKNOWN_ENDPOINT
        return reply.endpoint_version == self._versions[side]


class Asking:
    """Owned by one replay."""

    def __init__(
        self, client: Client, plan: Plan, versions: Mapping[Side, int], stream: IO[bytes], watch: Watch
    ) -> None:
        """versions: of the trials. stream: gets each answer as it comes."""
        self._trials, self._plan = Trials(client, plan, versions), plan
        self._stream, self._watch = stream, watch
        self._failed: dict[Side, int] = dict.fromkeys(SIDES, 0)

    async def all_of(self, left: Iterator[tuple[Side, Asked]], in_flight: int) -> None:
        """Ask all of these. Raises Refusal: AllRefused; invalid_setting where nobody answers, or somebody else does."""

        async def asking() -> None:
            for side, row in left:
                await self._ask(side, row)

        tasks = [asyncio.create_task(asking()) for _ in range(in_flight)]
        silence = asyncio.create_task(self._say_silence())
        try:
            await asyncio.gather(*tasks)
        finally:
            for one in (silence, *tasks):
                one.cancel()
            await asyncio.gather(silence, *tasks, return_exceptions=True)

    async def _ask(self, side: Side, row: Asked) -> None:
        reply, took_ms = await self._trials.answer(side, row)
        self._count(side, reply)
        add(self._stream, given_of(reply, row.number, side, took_ms))
        self._watch.answered()

    def _count(self, side: Side, reply: Reply) -> None:
        if isinstance(reply, Completed):
            self._failed[side] = -1  # never again
        elif self._failed[side] >= 0:
            self._failed[side] += 1
            if self._failed[side] >= min(_REFUSED_ROWS, self._plan.rows):
                which = "the new endpoint" if side == "new" else f"{self._plan.question.address} as it is"
                raise AllRefused(reply.code, f"{which} has no result for any row: {reply.message}")

    async def _say_silence(self) -> None:
        while True:
            await asyncio.sleep(1)
            if trouble := self._trials.trouble:
                self._watch.say(trouble)
                await asyncio.sleep(SILENCE_S)


def _needs(trial: Endpoint) -> str:
    return f"does `guideway endpoints` run, and `guideway worker --size {trial.model_size}` with the batch lane?"
