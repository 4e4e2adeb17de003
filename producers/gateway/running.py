"""One call of a door whose caller stays connected: published, awaited, and cancelled where nobody waits any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from guideway.producers.gateway.call import Call
from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.pending import Pending
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.reply import Reply

GRACE_S: Final = 3.0
"""Beyond a deadline: the reply that says that it has passed is better than our own word for it."""


@asynccontextmanager
async def under_way(gateway: Gateway, call: Call) -> AsyncIterator[Pending]:
    """`async with under_way(gateway, call) as pending:` – published on entry, and waited for as long as this is open.

    Whoever leaves before the reply is there, also by being cancelled, cancels the request; not one that is kept, for
    its caller may come back for it. Raises: Refusal, DoorRefusal; deadline_exceeded for a TimeoutError inside.
    """
    if not call.kept:
        until_ms = no_later(call.deadline_ms, gateway.settings.max_wait_s, time.time_ns() // 1_000_000)
        call = msgspec.structs.replace(call, deadline_ms=until_ms)
    with gateway.room.taken(call.namespace):
        pending = await gateway.calls.begin(call)
        try:
            yield pending
        except TimeoutError:
            on = "the work goes on: ask for it by its id" if call.kept else "send it again"
            raise Refusal(FailureCode.DEADLINE_EXCEEDED, f"there was no reply in time; {on}") from None
        finally:
            answered = pending.done
            pending.leave()
            if not answered and not call.kept:
                gateway.abandon(pending)


def no_later(deadline_ms: int | None, wait_s: float, now_ms: int) -> int:
    """The deadline of a request whose reply nobody could ask for after `wait_s` seconds; Unix milliseconds."""
    until_ms = now_ms + int(wait_s * 1000)
    return until_ms if deadline_ms is None else min(deadline_ms, until_ms)


def wait_s(gateway: Gateway, deadline_ms: int | None) -> float:
    """How long the reply of a request is awaited that is under way: a little beyond its deadline, Unix milliseconds."""
    most = gateway.settings.max_wait_s
    if deadline_ms is not None:
        most = min(most, max(0.0, deadline_ms / 1000 - time.time()))
    return most + GRACE_S


async def run(gateway: Gateway, call: Call) -> Reply:
    """Publish the call and wait for its reply. Raises as `under_way`."""
    async with under_way(gateway, call) as pending, asyncio.timeout(wait_s(gateway, call.deadline_ms)):
        return await pending.reply()
