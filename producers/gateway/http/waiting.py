"""Waiting for a reply while the client may go away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from guideway.producers.gateway.pending import Pending
from guideway.producers.gateway.replies import Answer

T = TypeVar("T")
_CLIENT_LEFT: Final = 499
"""As nginx calls it."""


class ClientLeft(Exception):
    """The client has closed its connection."""


def to_nobody() -> Response:
    """The response to a client that has left: nobody reads it."""
    return Response(status_code=_CLIENT_LEFT)


async def answered(request: Request, pending: Pending, wait_s: float) -> Answer | None:
    """The reply; None: it did not come in time. The request's body must have been read.

    Raises: ClientLeft; what `Pending.answer` raises.
    """
    return await unless_left(request, pending.answer(), wait_s)


async def unless_left(request: Request, work: Awaitable[T], wait_s: float | None = None) -> T | None:
    """What the work gives; None: it took longer than `wait_s` seconds. It is cancelled where nobody waits any more.

    The request's body must have been read. Raises: ClientLeft; what the work raises.
    """
    working = asyncio.ensure_future(work)
    left = asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait({working, left}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if left.done():
            raise ClientLeft
        return None
    finally:
        for task in (working, left):
            task.cancel()
        await asyncio.gather(working, left, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    """Wait until the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
