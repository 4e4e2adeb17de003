"""Around every path of the HTTP door: limits, ids, and a problem document for whatever goes wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guideway.producers.gateway.call import new_id
from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.http.problems import problem, problem_of
from guideway.producers.gateway.identity.caller import Caller
from guideway.producers.gateway.room import Held
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.failures import FailureCode, Refusal

log = structlog.get_logger(__name__)

REQUEST_ID: Final = "x-request-id"
_NAMESPACE: Final = "namespace"
"""In a request's state: its caller's."""
_LEAST_HELD, _MOST_HELD = 2**14, 8 * 2**20
"""Bytes of a response: smaller ones are not counted, and of larger ones no more."""
_AT_A_TIME: Final = 2**16
"""Bytes that are given to the connection before it has sent what it was given before."""
_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


class Guard:
    """The outermost ASGI application. Paths below it raise Refusal or DoorRefusal, and no path sees a wrong head."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            assert scope["type"] == "lifespan", "there are no websockets"
            await self._app(scope, receive, send)
            return
        request_id = new_id(time.time_ns() // 1_000_000)
        scope.setdefault("state", {})["request_id"] = request_id
        received = _Received(receive, scope)
        sent = _Sent(send, received, scope["state"], self._gateway)
        try:
            await self._serve(scope, received, sent)
        finally:
            sent.done()

    async def _serve(self, scope: Scope, received: _Received, sent: _Sent) -> None:
        began = time.monotonic()
        response: Response | None = None
        try:
            settings = self._gateway.settings
            _require_small_head(scope, settings.max_header_bytes)
            _require_plain_head(scope, open_to_anybody=settings.open_to is not None)
            await self._app(scope, received, sent)
        except (Refusal, DoorRefusal) as refusal:
            response = problem_of(refusal)
        except asyncio.CancelledError:
            if sent.began or not self._gateway.room.closed:
                raise
            # The server ends, and has waited long enough.
            response = problem(DoorCode.BUSY, "this gateway has ended before there was a reply: send it again")
        except Exception as error:
            if isinstance(error, _ClientGone | ClientDisconnect):
                return
            # Its own words may hold what was sent.
            log.error("a request failed", path=_shown(scope), error=type(error).__name__, where=_where(error))
            response = problem(FailureCode.INTERNAL_ERROR, "a fault of guideway's: report it with its x-request-id")
        if response is not None:
            if sent.began:
                # Half a response must not look like a whole one.
                raise ConnectionAbortedError
            await response(scope, received, sent)
        log.debug(
            "request",
            method=scope["method"],
            path=_shown(scope),
            status=sent.status,
            ms=round((time.monotonic() - began) * 1000),
            request_id=sent.request_id,
        )


class _ClientGone(Exception):
    """Nobody reads what is sent."""


class _Received:
    """`receive`, which notes whether the whole body came."""

    def __init__(self, receive: Receive, scope: Scope) -> None:
        self._receive = receive
        headers = Headers(scope=scope)
        self.whole = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers

    async def __call__(self) -> Message:
        message = await self._receive()
        self.whole = self.whole or not message.get("more_body", False)
        return message


class _Sent:
    """`send`, with the request's id on each response, and an end for clients that do not read."""

    def __init__(self, send: Send, received: _Received, state: Mapping[str, Any], gateway: Gateway) -> None:
        self._send, self._received, self._state = send, received, state
        self._room, self._timeout_s = gateway.room, gateway.settings.send_timeout_s
        self._held: Held | None = None
        self._held_bytes = 0
        self.request_id: str = state["request_id"]
        self.began = False
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._hold(Headers(raw=message.get("headers", [])))
            self.began, self.status = True, message["status"]
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            headers.setdefault(REQUEST_ID, self.request_id)
            headers.setdefault("cache-control", "no-store")
            headers.setdefault("x-content-type-options", "nosniff")
            self.request_id = headers[REQUEST_ID]
            if not self._received.whole:
                # Nobody reads the rest of the body.
                headers["connection"] = "close"
        elif message.get("more_body", False):
            self._is_in_pieces(len(message.get("body", b"")))
        for part in _parts(message):
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._send(part)
            except (TimeoutError, OSError):
                raise _ClientGone from None

    def _hold(self, headers: Headers) -> None:
        """Count what is sent, as what is read, until it is sent. Raises DoorRefusal: too_many_requests, busy."""
        length = headers.get("content-length", "")
        namespace = self._state.get(_NAMESPACE)
        if namespace is not None and length.isdigit() and int(length) > _LEAST_HELD:
            self._held, self._held_bytes = self._room.held(namespace), min(int(length), _MOST_HELD)
            self._held(self._held_bytes)

    def _is_in_pieces(self, size: int) -> None:
        """A file is sent piece by piece, and no more of it is here than one of them."""
        if self._held is not None and size < self._held_bytes:
            self._held.less(self._held_bytes - size)
            self._held_bytes = size

    def done(self) -> None:
        """The response is sent, or nobody reads it."""
        if self._held is not None:
            self._held.close()


def _parts(message: Message) -> Iterator[Message]:
    """The message, a large body in parts. The server waits before each one until what it had before is sent, but not
    after the last: so that one is empty, and a body is held here for as long as it is there."""
    body = message.get("body", b"")
    if len(body) <= _LEAST_HELD:
        yield message
        return
    for start in range(0, len(body), _AT_A_TIME):
        yield {**message, "body": body[start : start + _AT_A_TIME], "more_body": True}
    if not message.get("more_body", False):
        yield {**message, "body": b"", "more_body": False}


def _require_small_head(scope: Scope, most: int) -> None:
    """A head that comes at once is read by h11 however long it is."""
    line = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    sizes = {name: len(name) + len(value) for name, value in scope["headers"]}
    if (size := line + sum(len(name) + len(value) for name, value in scope["headers"])) > most:
        longest = max(sizes, key=sizes.__getitem__) if max(sizes.values(), default=0) > line else b""
        what = f"the header {longest[:80].decode('latin-1')}" if longest else "the path"
        raise DoorRefusal(
            DoorCode.HEADERS_TOO_LARGE,
            f"the request's line and headers have {size:,} bytes, and may have {most:,}: shorten {what}, the longest",
        )


def _require_plain_head(scope: Scope, *, open_to_anybody: bool) -> None:
    """What two readers of one request may understand in two ways is refused (RFC 9112, 6.3 and 11.2)."""
    headers = Headers(scope=scope)
    if "transfer-encoding" in headers and "content-length" in headers:
        raise DoorRefusal(DoorCode.BAD_REQUEST, "there are Content-Length and Transfer-Encoding: send one of them")
    if len(headers.getlist("content-length")) > 1 or len(headers.getlist("host")) > 1:
        raise DoorRefusal(DoorCode.BAD_REQUEST, "a header is there twice: send Content-Length and Host once")
    if open_to_anybody:
        _require_own_page(headers)


def _require_own_page(headers: Headers) -> None:
    """A gateway that asks nobody who calls must not be called by what a browser shows of others."""
    host = headers.get("host", "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    origin = headers.get("origin")
    if name not in _HOSTS or (origin is not None and origin.partition("://")[2] != host):
        raise DoorRefusal(
            DoorCode.UNAUTHENTICATED, "this gateway is open to programs of its own machine only, not to pages of others"
        )


async def caller_of(request: Request, gateway: Gateway) -> Caller:
    """Who calls. Raises DoorRefusal(unauthenticated | busy)."""
    caller = await gateway.identities.caller(
        request.headers.getlist("authorization"), request.headers.getlist("x-api-key")
    )
    request.scope["state"][_NAMESPACE] = caller.namespace
    return caller


async def body_of(request: Request, gateway: Gateway, hold: Callable[[int], None]) -> bytes:
    """The whole body. hold: of `Room.reading`.

    Raises DoorRefusal: body_too_large, unsupported_media_type, busy, bad_request where it does not come in time.
    """
    limit = gateway.settings.max_body_bytes
    too_large = DoorRefusal(DoorCode.BODY_TOO_LARGE, f"the body has more than {limit} bytes: shorten it")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise DoorRefusal(DoorCode.UNSUPPORTED_MEDIA_TYPE, "the body is compressed: send it as it is")
    body = bytearray()
    try:
        async with asyncio.timeout(gateway.settings.body_timeout_s):
            async for piece in request.stream():
                hold(len(piece))
                body += piece
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise DoorRefusal(DoorCode.BAD_REQUEST, "the body did not come in time: send it faster") from None
    return bytes(body)


def _shown(scope: Scope) -> str:
    return str(scope["path"])[:200]


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"


def state_id(request: Request) -> str:
    """The id that was made for this HTTP request."""
    found: Any = request.state.request_id
    return str(found)
