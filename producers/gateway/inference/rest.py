"""The Open Inference Protocol over HTTP: `/v2` and what is below it."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from guideway.producers.gateway.call import Call
from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.http import asked
from guideway.producers.gateway.http.guard import REQUEST_ID, body_of, caller_of, state_id
from guideway.producers.gateway.http.paths import Path
from guideway.producers.gateway.http.problems import failure_headers
from guideway.producers.gateway.http.waiting import ClientLeft, to_nobody, unless_left
from guideway.producers.gateway.identity.caller import Caller
from guideway.producers.gateway.inference.infer import infer
from guideway.producers.gateway.inference.models import PLATFORM, Model, model, split_name
from guideway.producers.gateway.inference.rest_form import BINARY_TENSORS, JSON_LENGTH, read_request, write_response
from guideway.producers.gateway.inference.rows import RowFailed
from guideway.producers.gateway.running import run
from guideway.producers.gateway.status import DoorCode, DoorRefusal, status_of
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.reply import Reply

_JSON: Final = "application/json"
_BYTES: Final = "application/octet-stream"


def routes(gateway: Gateway) -> list[BaseRoute]:
    """What Triton and KServe have at the same paths."""
    made = _Inference(gateway)
    return [
        Path("/v2", {"GET": made.server}, _error),
        Path("/v2/health/live", {"GET": made.live}, _error),
        Path("/v2/health/ready", {"GET": made.ready}, _error),
        Path("/v2/models/{rest:path}", {"GET": made.get, "POST": made.post}, _error),
    ]


class Named(NamedTuple):
    """What a path below `/v2/models/` names."""

    model: str
    version: str
    what: str
    """`ready`, `infer`, or empty: the model's metadata."""


def read_path(path: str) -> Named:
    """`NAMESPACE/NAME` or `NAMESPACE.NAME`, then perhaps `versions/N`, then perhaps `ready` or `infer`.

    Raises: Refusal(unknown_endpoint); DoorRefusal(unknown_path).
    """
    first, *parts = path.split("/")
    if "." not in first and parts:
        first = f"{first}/{parts.pop(0)}"
    split_name(first)
    asked_version = ""
    if len(parts) > 1 and parts[0] == "versions":
        asked_version = parts[1]
        parts = parts[2:]
    match parts:
        case []:
            return Named(first, asked_version, "")
        case ["ready" | "infer" as what]:
            return Named(first, asked_version, what)
    raise DoorRefusal(
        DoorCode.UNKNOWN_PATH,
        "a model is at /v2/models/NAMESPACE/NAME, then perhaps /versions/N, then perhaps /ready or /infer",
    )


class _Inference:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def live(self, _request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, _request: Request) -> Response:
        try:
            await self._gateway.require_ready()
        except (Refusal, DoorRefusal) as refusal:
            return _error(refusal)
        return _json({"ready": True})

    async def server(self, _request: Request) -> Response:
        return _json({"name": PLATFORM, "version": version("guideway"), "extensions": [BINARY_TENSORS]})

    async def get(self, request: Request) -> Response:
        try:
            named = read_path(request.path_params["rest"])
            found = self._model(await caller_of(request, self._gateway), named)
            if named.what == "infer":
                return _wrong_method("POST")
            if named.what == "ready":
                await self._gateway.require_ready()
                return _json({"name": named.model, "ready": True})
            return _json(found.info())
        except (Refusal, DoorRefusal) as refusal:
            return _error(refusal)

    async def post(self, request: Request) -> Response:
        try:
            named = read_path(request.path_params["rest"])
            if named.what != "infer":
                return _wrong_method("GET, HEAD")
            return await self._infer(request, named)
        except (Refusal, DoorRefusal, RowFailed) as refusal:
            return _error(refusal)

    async def _infer(self, request: Request, named: Named) -> Response:
        gateway, now_ms = self._gateway, time.time_ns() // 1_000_000
        caller = await caller_of(request, gateway)
        found = self._model(caller, named)
        with gateway.room.reading(caller.namespace) as hold:
            body = await body_of(request, gateway, hold)
            read = read_request(body, request.headers.get(JSON_LENGTH), model=named.model, version=named.version)
            like = Call(
                namespace=caller.namespace,
                address=found.address,
                content=b"",
                content_type="",
                request_id=state_id(request),
                idempotency_key=asked.idempotency_key(request.headers),
                deadline_ms=asked.deadline_ms(request.headers, now_ms),
                headers=asked.trace(request.headers),
            )

            async def one(call: Call) -> Reply:
                return await run(gateway, call)

            try:
                made = await unless_left(request, infer(read.requested, found, like, one, now_ms=now_ms))
            except ClientLeft:
                return to_nobody()
            assert made is not None, "it was waited for without end"
            written, length = write_response(made, read)
        headers = {REQUEST_ID: state_id(request)} | ({} if length is None else {JSON_LENGTH: str(length)})
        return Response(written, headers=headers, media_type=_JSON if length is None else _BYTES)

    def _model(self, caller: Caller, named: Named) -> Model:
        catalogue = self._gateway.catalogue_reader.catalogue
        return model(catalogue, named.model, named.version, caller=caller.namespace)


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type=_JSON)


def _error(refusal: Refusal | DoorRefusal | RowFailed) -> Response:
    """As the protocol has it: the sentence under `error`. The code stands beside it."""
    code: FailureCode | DoorCode = refusal.code
    content = {"error": refusal.message, "code": code.value}
    return Response(msgspec.json.encode(content), status_of(code).http, failure_headers(code), _JSON)


def _wrong_method(right: str) -> Response:
    response = _error(DoorRefusal(DoorCode.METHOD_NOT_ALLOWED, f"this path takes {right}"))
    response.headers["allow"] = right
    return response
