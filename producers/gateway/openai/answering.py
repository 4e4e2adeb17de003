"""Answers in OpenAI's form: as one body, or as a stream that begins once there is something to tell."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.http.guard import REQUEST_ID
from guideway.producers.gateway.http.problems import failure_headers
from guideway.producers.gateway.http.stream import EventStream
from guideway.producers.gateway.openai.event import to_blame
from guideway.producers.gateway.openai.parameters import Chat, Completion
from guideway.producers.gateway.openai.refused import envelope
from guideway.producers.gateway.openai.reply import completion
from guideway.producers.gateway.openai.stream import KEEP_ALIVE, Stream, sent
from guideway.producers.gateway.pending import Pending
from guideway.producers.gateway.replies import Answer
from guideway.producers.gateway.running import wait_s
from guideway.producers.gateway.status import DoorRefusal
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text
from guideway.schemas.partial import Partial
from guideway.schemas.reply import Completed, Failed, Reply


class OpenAiRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request in OpenAI's form."""

    asked: Chat | Completion
    endpoint: Endpoint | None
    """None: the router chooses it."""
    created_s: int
    """Unix time in seconds."""
    deadline_ms: int | None
    """Of the event, Unix milliseconds."""

    @property
    def in_pieces(self) -> bool:
        """Whether text is told as it comes. With log-probabilities it is not: each token stands beside its own."""
        is_text = self.endpoint is not None and isinstance(self.endpoint.output, Text)
        return bool(self.asked.stream) and self.asked.told is None and is_text

    def to_blame(self, refusal: Refusal | DoorRefusal) -> str | None:
        """The parameter for which it was refused."""
        return to_blame(refusal, self.asked, self.endpoint) if isinstance(refusal, Refusal) else None


def refused(refusal: Refusal | DoorRefusal, param: str | None = None) -> Response:
    """The response that tells a refusal."""
    status, body = envelope(refusal, param)
    return Response(msgspec.json.encode(body), status.http, failure_headers(refusal.code), "application/json")


def answer_of(answer: Answer, asking: OpenAiRequest, request_id: str) -> Response:
    """The whole answer, or why there is none. Raises Refusal(internal_error) for a reply of another version."""
    reply = answer.reply()
    if isinstance(reply, Failed):
        refusal = Refusal(reply.code, reply.message)
        response = refused(refusal, asking.to_blame(refusal))
    else:
        body = completion(reply, asking.asked, created_s=asking.created_s)
        response = Response(msgspec.json.encode(body), media_type="application/json")
    response.headers[REQUEST_ID] = request_id
    return response


def too_late() -> Refusal:
    """The refusal where no reply came in time."""
    return Refusal(FailureCode.DEADLINE_EXCEEDED, "there was no reply in time: send it again")


class AnswerStream(EventStream):
    """Server-sent events. What is refused before anything was told is a plain response with its own status."""

    def __init__(self, gateway: Gateway, pending: Pending, asking: OpenAiRequest) -> None:
        super().__init__(gateway, pending, wait_s(gateway, asking.deadline_ms))
        self.headers[REQUEST_ID] = pending.id
        self._asking = asking
        self._began = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except DoorRefusal as refusal:
            # There is no room for one more stream.
            await self._refuse(send, refusal)

    async def _write(self, send: Send) -> None:
        stream = Stream(self._pending.id, self._asking.asked, created_s=self._asking.created_s)
        try:
            async with self._came() as coming:
                async for came in coming:
                    for chunk in _chunks(stream, came, pieces=self._asking.in_pieces):
                        await self._send(send, chunk)
        except TimeoutError:
            await self._refuse(send, too_late())
        except (Refusal, DoorRefusal) as refusal:
            await self._refuse(send, refusal)
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _refuse(self, send: Send, refusal: Refusal | DoorRefusal) -> None:
        param = self._asking.to_blame(refusal)
        if self._began:
            last = sent(envelope(refusal, param)[1])
        else:
            response = refused(refusal, param)
            response.headers[REQUEST_ID] = self._pending.id
            await _begin(send, response)
            last = bytes(response.body)
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _send(self, send: Send, chunk: bytes) -> None:
        if not self._began:
            self._began = True
            await _begin(send, self)
        await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _begin(send: Send, response: Response) -> None:
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})


def _chunks(stream: Stream, came: Partial | Reply | None, *, pieces: bool) -> Iterator[bytes]:
    """pieces: whether pieces are told as they come. Raises Refusal where the reply says why there is none."""
    match came:
        case None:
            yield KEEP_ALIVE
        case Partial():
            if pieces:
                yield from stream.piece(came)
        case Failed():
            raise Refusal(came.code, came.message)
        case Completed():
            yield from stream.end(came)
