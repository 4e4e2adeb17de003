"""One request of the protocol → a call for each of its rows → one answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from guideway.producers.events.envelope import MAX_ID_CHARS
from guideway.producers.gateway.call import Call
from guideway.producers.gateway.inference.models import Model, require_version
from guideway.producers.gateway.inference.rows import RowFailed, options_of, outputs_of, rows_of, wanted
from guideway.producers.gateway.inference.tensors import Answered, Requested
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.failures import Refusal
from guideway.schemas.reply import Completed, Failed, Reply

Run = Callable[[Call], Awaitable[Reply]]
"""Publishes a call and waits for its reply; when it is cancelled, so is the call."""


async def infer(requested: Requested, model: Model, like: Call, run: Run, *, now_ms: int) -> Answered:
    """Run all rows at a time. The first that fails ends the others.

    like: a call with what all rows have in common; with several rows, its ids get their numbers.
    Raises: Refusal; RowFailed, which names the row; DoorRefusal(busy) where the endpoint changed meanwhile.
    """
    outputs, options = wanted(requested), options_of(requested.parameters)
    rows = rows_of(requested, model.endpoint.input.fields)
    deadline_ms = like.deadline_ms
    if options.timeout_s is not None:
        given = now_ms + int(options.timeout_s * 1000)
        deadline_ms = given if deadline_ms is None else min(given, deadline_ms)
    like = msgspec.structs.replace(
        like,
        address=model.address,
        content_type="application/json",
        deadline_ms=deadline_ms,
        guidance=options.guidance,
        headers=(*like.headers, *options.headers),
    )
    calls = [_call(like, fields, row, len(rows)) for row, fields in enumerate(rows)]
    replies = await _all(calls, run)
    _require_one_version(requested, replies)
    return Answered(
        model=requested.model,
        version=str(replies[0].endpoint_version),
        id=requested.id,
        outputs=outputs_of(replies, outputs, options.samples or model.endpoint.generation.samples),
    )


def _call(like: Call, fields: dict[str, Any], row: int, rows: int) -> Call:
    key, id_, number = like.idempotency_key, like.request_id, f".{row}"
    if rows > 1 and id_ is not None:
        id_ = f"{id_[: MAX_ID_CHARS - len(number)]}{number}"
    if rows > 1 and key is not None:
        # As long as it may be, it has no room for a number; and two long ones may begin alike.
        is_long = len(key) + len(number) > MAX_ID_CHARS
        key = f"{hashlib.sha256(key.encode()).hexdigest() if is_long else key}{number}"
    return msgspec.structs.replace(like, content=msgspec.json.encode(fields), request_id=id_, idempotency_key=key)


async def _all(calls: list[Call], run: Run) -> list[Completed]:
    async def one(row: int, call: Call) -> Completed:
        try:
            reply = await run(call)
        except Refusal as refusal:
            raise RowFailed(row, len(calls), refusal.code, refusal.message) from None
        if isinstance(reply, Failed):
            raise RowFailed(row, len(calls), reply.code, reply.message)
        return reply

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(row, call)) for row, call in enumerate(calls)]
    except ExceptionGroup as failed:
        # One row that fails is enough, so one is told.
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def _require_one_version(requested: Requested, replies: list[Completed]) -> None:
    versions = {reply.endpoint_version for reply in replies}
    if len(versions) > 1:
        raise DoorRefusal(DoorCode.BUSY, "the endpoint got another version while the rows ran: send them again")
    require_version(requested.version, versions.pop(), requested.model)
