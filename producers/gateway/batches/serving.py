"""What the paths of files and batches have in common."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from guideway.producers.gateway.batches.objects import page
from guideway.producers.gateway.http import asked as headers
from guideway.producers.gateway.openai.refused import Wrong
from guideway.producers.gateway.status import DoorCode, DoorRefusal

T = TypeVar("T")
_MOST_OF_ALL: Final = 32
"""Files on this machine's disk at a time."""


@contextmanager
def few_at_a_time(busy: Counter[str], namespace: str, most: int, what: str) -> Iterator[None]:
    """So many such requests of a namespace at a time. Raises DoorRefusal(too_many_requests | busy)."""
    if busy.total() >= _MOST_OF_ALL:
        raise DoorRefusal(DoorCode.BUSY, "this gateway has no room for more of these: send it again, or to another")
    if busy[namespace] >= most:
        raise DoorRefusal(
            DoorCode.TOO_MANY_REQUESTS,
            f"namespace {namespace} {what} at this gateway already, {most} at a time: send it again after that",
        )
    busy[namespace] += 1
    try:
        yield
    finally:
        busy[namespace] -= 1
        if not busy[namespace]:
            del busy[namespace]


async def in_store(do: Callable[[], T], id_: str = "") -> T:
    """Raises: DoorRefusal(busy) where the store cannot be used; what `do` raises."""
    try:
        return await asyncio.to_thread(do)
    except FileNotFoundError:
        raise DoorRefusal(DoorCode.UNKNOWN_REQUEST, f"file {id_[:80]!r} was deleted meanwhile") from None
    except OSError as error:
        raise store_fails(error) from None


def store_fails(error: OSError) -> DoorRefusal:
    """The refusal where the store is full, or does not answer."""
    why = error.strerror or type(error).__name__
    return DoorRefusal(DoorCode.BUSY, f"the gateway's store cannot be used now ({why}): send it again later")


def page_of(request: Request, objects: list[dict[str, Any]], *, default: int, most: int) -> dict[str, Any]:
    """The page of a list that is asked for. Raises Wrong."""
    given = request.query_params.get("limit", str(default))
    limit = int(given) if given.isascii() and given.isdigit() and len(given) < 7 else 0
    if not 1 <= limit <= most:
        raise Wrong(f"limit is 1 to {most}: write that", "limit")
    return page(objects, limit=limit, after=request.query_params.get("after", ""))


def no_file(namespace: str, id_: str) -> DoorRefusal:
    """The same words whether nobody has such a file, or somebody else."""
    return DoorRefusal(
        DoorCode.UNKNOWN_REQUEST,
        f"namespace {namespace} has no file {id_[:80]!r}: GET /v1/files lists those that there are",
    )


def json_of(content: dict[str, Any]) -> Response:
    """The response that holds it."""
    return Response(msgspec.json.encode(content), media_type=headers.JSON)
