"""The native paths: an endpoint by its address, and requests by their ids."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from guideway.producers.gateway.call import Call
from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.http import asked
from guideway.producers.gateway.http.guard import REQUEST_ID, body_of, caller_of
from guideway.producers.gateway.http.paths import Path, of_openai
from guideway.producers.gateway.http.problems import problem, with_headers
from guideway.producers.gateway.http.stream import EventStream
from guideway.producers.gateway.http.waiting import ClientLeft, answered, to_nobody
from guideway.producers.gateway.pending import Pending
from guideway.producers.gateway.replies import Answer
from guideway.producers.gateway.running import GRACE_S, no_later
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.addresses import ADDRESS, CALL, endpoint_address
from guideway.schemas.protobuf.replies import reply_message
from guideway.schemas.reply import Failed

REQUESTS: Final = "/v1/requests"
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")
_READ_S: Final = 60.0
"""For a reply that is there: whoever reads it gives up sooner, and says why."""


def routes(gateway: Gateway) -> list[BaseRoute]:
    """The native paths. They stand last: those of the other doors go before them."""
    made = _Rest(gateway)
    return [
        Path(REQUESTS + "/{id:path}", {"GET": made.get, "DELETE": made.delete}),
        Path("/", {"POST": made.post_routed}),
        Path("/{namespace}/{name}", {"POST": made.post}),
    ]


class _Rest:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def post(self, request: Request) -> Response:
        """`POST /NAMESPACE/NAME`"""
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        # As it was written: what is written in two ways for one endpoint may pass a filter before us in one of them.
        written = endpoint_address(namespace, name)
        if not ADDRESS.fullmatch(written) or request.scope.get("raw_path") != written.encode():
            raise DoorRefusal(DoorCode.UNKNOWN_PATH, "an endpoint is called at /NAMESPACE/NAME: correct the path")
        return await self._call(request, namespace, name)

    async def post_routed(self, request: Request) -> Response:
        """`POST /`: the router of the caller's namespace."""
        return await self._call(request, None, CALL)

    async def get(self, request: Request) -> Response:
        """`GET /v1/requests/ID`: the reply as it is, or that there is none yet."""
        caller = await caller_of(request, self._gateway)
        with self._gateway.room.taken(caller.namespace):
            pending = await self._gateway.calls.find(caller.namespace, request.path_params["id"])
            wait_s: float = asked.prefer(request.headers).wait_s or 0
            if pending.done or wait_s:
                try:
                    wait_s = min(wait_s, self._gateway.settings.max_wait_s)
                    answer = await answered(request, pending, max(wait_s, _READ_S) if pending.done else wait_s)
                except ClientLeft:
                    return to_nobody()
                if answer is not None:
                    kind = asked.wanted(request.headers, (asked.JSON, *asked.PROTOBUF))
                    return _ids(_content(answer, kind), pending)
            return _accepted(pending)

    async def delete(self, request: Request) -> Response:
        """`DELETE /v1/requests/ID`: asks for its end; its reply comes all the same."""
        caller = await caller_of(request, self._gateway)
        with self._gateway.room.taken(caller.namespace):
            pending = await self._gateway.calls.find(caller.namespace, request.path_params["id"])
            if pending.done:
                return _state(pending, "done", 200)
            await pending.cancel()
            return _state(pending, "cancelling", 202)

    async def _call(self, request: Request, namespace: str | None, name: str) -> Response:
        caller = await caller_of(request, self._gateway)
        if name == CALL and namespace not in (None, caller.namespace):
            raise DoorRefusal(
                DoorCode.UNKNOWN_PATH,
                f"the router of another namespace is not yours to ask: post to /{caller.namespace}/{CALL}",
            )
        with self._gateway.room.taken(caller.namespace):
            address = None if namespace is None or name == CALL else endpoint_address(namespace, name)
            kind = asked.wanted(request.headers, (asked.JSON, asked.EVENTS, *asked.PROTOBUF))
            wants = asked.prefer(request.headers)
            wait_s = self._wait_s(request, wants)
            if not wait_s and not wants.respond_async and asked.idempotency_key(request.headers) is None:
                return problem(
                    FailureCode.DEADLINE_EXCEEDED,
                    "no time is left in which a reply could come, by Prefer: wait, Request-Timeout or Deadline: give "
                    "more, or send it with `Prefer: respond-async`",
                    passes=False,
                )
            pending = await self._begin(request, caller.namespace, address, wants, wait_s, kind)
            if kind == asked.EVENTS:
                return _ids(EventStream(self._gateway, pending, wait_s + GRACE_S), pending)
            if wants.respond_async and not wants.wait_s:
                return _accepted(pending)
            return _ids(await self._answered(request, pending, wants, wait_s, kind), pending)

    def _wait_s(self, request: Request, wants: asked.Prefer) -> float:
        """As long as is wanted, and may be, and no longer than until the deadline."""
        now_ms = time.time_ns() // 1_000_000
        until_ms = asked.deadline_ms(request.headers, now_ms)
        most = self._gateway.settings.max_wait_s
        if until_ms is not None:
            most = min(most, max(0.0, (until_ms - now_ms) / 1000))
        return most if wants.wait_s is None else min(wants.wait_s, most)

    async def _begin(
        self,
        request: Request,
        namespace: str,
        address: str | None,
        wants: asked.Prefer,
        wait_s: float,
        kind: str,
    ) -> Pending:
        content_type = request.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() in _FORMS:
            raise DoorRefusal(
                DoorCode.UNSUPPORTED_MEDIA_TYPE,
                "forms are not read: send JSON, text or Protobuf, and say so (`content-type: application/json`)",
            )
        if len(set(request.headers.getlist("content-type"))) > 1:
            raise DoorRefusal(DoorCode.BAD_REQUEST, "there are several headers content-type: send one")
        if not content_type.isascii() or not content_type.isprintable():
            raise DoorRefusal(DoorCode.BAD_REQUEST, "the header content-type is no text: correct it")
        now_ms = time.time_ns() // 1_000_000
        key = asked.idempotency_key(request.headers)
        deadline_ms = asked.deadline_ms(request.headers, now_ms)
        if not wants.respond_async and key is None:
            deadline_ms = no_later(deadline_ms, wait_s, now_ms)
        with self._gateway.room.reading(namespace) as hold:
            call = Call(
                namespace=namespace,
                address=address,
                content=await body_of(request, self._gateway, hold),
                content_type=content_type,
                idempotency_key=key,
                keep=wants.respond_async,
                deadline_ms=deadline_ms,
                guidance=asked.guidance(request.headers),
                reply_as=asked.protobuf_form(request.headers) if kind in asked.PROTOBUF else None,
                partial=kind == asked.EVENTS,
                headers=(*asked.trace(request.headers), *asked.generation(request.headers)),
            )
            return await self._gateway.calls.begin(call)

    async def _answered(
        self, request: Request, pending: Pending, wants: asked.Prefer, wait_s: float, kind: str
    ) -> Response:
        try:
            answer = await answered(request, pending, wait_s + (0 if pending.kept else GRACE_S))
        except (ClientLeft, asyncio.CancelledError) as error:
            if not pending.kept:
                self._gateway.abandon(pending)
            if isinstance(error, asyncio.CancelledError):
                raise
            return to_nobody()
        passes = not asked.is_over(request.headers, time.time_ns() // 1_000_000)
        if answer is not None:
            return _content(answer, kind) if answer.failure is None else failed(answer, passes=passes)
        if wants.respond_async:
            return _accepted(pending)
        if pending.kept:
            message = "there is no reply yet, and the work goes on: ask for it at the Location, or send it again"
            return with_headers(problem(FailureCode.DEADLINE_EXCEEDED, message, id=pending.id), location_of(pending.id))
        self._gateway.abandon(pending)
        message = "there was no reply in time: send it again, or wait longer"
        return problem(FailureCode.DEADLINE_EXCEEDED, message, passes=passes)


def failed(answer: Answer, *, passes: bool = True) -> Response:
    """A failed reply as a problem document. passes: whether a deadline that passed is a later one next time."""
    reply = answer.reply()
    assert isinstance(reply, Failed), "its header says so"
    if reply.code in (FailureCode.NOT_ALLOWED, FailureCode.UNKNOWN_ENDPOINT):
        told = of_openai(f"/{reply.namespace}/{reply.endpoint}", Refusal(reply.code, reply.message))
        if told is not None:
            return told
    of = {"id": reply.id, "namespace": reply.namespace, "endpoint": reply.endpoint}
    return problem(reply.code, reply.message, passes=passes or reply.code is not FailureCode.DEADLINE_EXCEEDED, **of)


def _content(answer: Answer, kind: str) -> Response:
    if kind in asked.PROTOBUF and not answer.is_protobuf:
        return Response(reply_message(answer.reply()).SerializeToString(), media_type=kind)
    # As it was wanted when the request was sent.
    return Response(answer.content, headers={"content-type": answer.content_type})


def _accepted(pending: Pending) -> Response:
    return with_headers(_state(pending, "in progress", 202), {"retry-after": "1"})


def _state(pending: Pending, state: str, status: int) -> Response:
    content: dict[str, Any] = {
        "id": pending.id,
        "status": state,
        "endpoint": pending.address,
        "accepted_ms": pending.accepted_ms,
    }
    return _ids(Response(msgspec.json.encode(content), status, media_type=asked.JSON), pending)


def location_of(id_: str) -> dict[str, str]:
    """The header that says where the request of this id is: callers by gRPC name theirs as they like."""
    return {"location": f"{REQUESTS}/{quote(id_, safe='')}"}


def ids_of(id_: str, *, kept: bool) -> dict[str, str]:
    """The headers that tell a request's id. One that no header can hold is told in the body only."""
    return ({REQUEST_ID: id_} if id_.isascii() else {}) | (location_of(id_) if kept else {})


def _ids(response: Response, pending: Pending) -> Response:
    return with_headers(response, ids_of(pending.id, kept=pending.kept))
