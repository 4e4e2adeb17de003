"""The paths in OpenAI's form."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from guideway.catalogue.access import called_endpoint
from guideway.producers.batch.jobs import Jobs
from guideway.producers.gateway.batches.accepted import AcceptedStore
from guideway.producers.gateway.batches.batches import Batches
from guideway.producers.gateway.batches.file_store import FileStore
from guideway.producers.gateway.batches.files import Files
from guideway.producers.gateway.batches.job_list import JobList
from guideway.producers.gateway.call import Call
from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.http import asked as headers
from guideway.producers.gateway.http.guard import REQUEST_ID, body_of, caller_of
from guideway.producers.gateway.http.paths import Path
from guideway.producers.gateway.http.waiting import ClientLeft, answered, to_nobody
from guideway.producers.gateway.openai.answering import AnswerStream, OpenAiRequest, answer_of, refused, too_late
from guideway.producers.gateway.openai.event import prepared
from guideway.producers.gateway.openai.models import called_model, model_list, model_of, named, router_model
from guideway.producers.gateway.openai.parameters import Chat, Completion, read_chat, read_completion
from guideway.producers.gateway.pending import Pending
from guideway.producers.gateway.running import no_later, wait_s
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.producers.gateway.visible import VisibleEndpoints
from guideway.schemas.failures import Refusal
from guideway.schemas.manifests import Endpoint

Handler = Callable[[Request], Awaitable[Response]]
_NOT_HERE: Final = (
    "assistants", "audio", "embeddings", "images", "moderations", "responses", "threads",
)  # fmt: skip


def routes(gateway: Gateway) -> list[BaseRoute]:
    """Before the native paths, for these take any two names."""
    made = _OpenAi(gateway)
    return [
        Path("/v1/models", {"GET": _told(made.models)}, refused),
        Path("/v1/models/{model:path}", {"GET": _told(made.model)}, refused),
        Path("/v1/chat/completions", {"POST": _told(made.chat)}, refused),
        Path("/v1/completions", {"POST": _told(made.completions)}, refused),
        *_batches(gateway),
        *(Path(f"/v1/{one}{more}", dict.fromkeys(("GET", "POST", "DELETE"), _told(_not_here)), refused)
          for one in (*_NOT_HERE, "batches", "files") for more in ("", "/{rest:path}")),
    ]  # fmt: skip


def _batches(gateway: Gateway) -> list[BaseRoute]:
    """None where there is no store for their files."""
    settings = gateway.settings
    if settings.store is None:
        return []
    store = FileStore(settings.store, most_files=settings.max_files, most_bytes=settings.max_files_bytes)
    jobs = Jobs(settings.cluster, settings.store)
    job_list = JobList(jobs)
    accepted = AcceptedStore(settings.store)
    files = Files(gateway, store, accepted, jobs, job_list)
    batches = Batches(gateway, store, accepted, jobs, job_list)
    return [
        Path("/v1/files", {"GET": _told(files.list), "POST": _told(files.upload)}, refused),
        Path("/v1/files/{id}", {"GET": _told(files.get), "DELETE": _told(files.delete)}, refused),
        Path("/v1/files/{id}/content", {"GET": _told(files.content)}, refused),
        Path("/v1/batches", {"GET": _told(batches.list), "POST": _told(batches.create)}, refused),
        Path("/v1/batches/{id}", {"GET": _told(batches.get)}, refused),
        Path("/v1/batches/{id}/cancel", {"POST": _told(batches.cancel)}, refused),
    ]


class _OpenAi:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._visible = VisibleEndpoints()

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`"""
        caller = await caller_of(request, self._gateway)
        with self._gateway.room.taken(caller.namespace):
            found = self._visible.of(self._gateway.catalogue_reader.catalogue, caller.namespace)
            # With 10,000 endpoints it takes a while, and nobody else is to wait for it.
            return await asyncio.to_thread(lambda: _json(model_list(found, caller.namespace)))

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/NAMESPACE/NAME`"""
        caller = await caller_of(request, self._gateway)
        with self._gateway.room.taken(caller.namespace):
            endpoint = await self._called(request.path_params["model"], caller.namespace)
        return _json(router_model(caller.namespace) if endpoint is None else model_of(endpoint))

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`"""
        return await self._answer(request, read_chat)

    async def completions(self, request: Request) -> Response:
        """`POST /v1/completions`"""
        return await self._answer(request, read_completion)

    async def _answer(self, request: Request, read: Callable[[bytes], Chat | Completion]) -> Response:
        caller = await caller_of(request, self._gateway)
        with self._gateway.room.taken(caller.namespace):
            asking, pending = await self._begun(request, read, caller.namespace)
            if asking.asked.stream:
                return AnswerStream(self._gateway, pending, asking)
            try:
                answer = await answered(request, pending, wait_s(self._gateway, asking.deadline_ms))
            except (ClientLeft, asyncio.CancelledError) as error:
                if not pending.kept:
                    self._gateway.abandon(pending)
                if isinstance(error, asyncio.CancelledError):
                    raise
                return to_nobody()
            if answer is None:
                if not pending.kept:
                    self._gateway.abandon(pending)
                refusal = refused(too_late())
                refusal.headers[REQUEST_ID] = pending.id
                return refusal
            return answer_of(answer, asking, pending.id)

    async def _begun(
        self, request: Request, read: Callable[[bytes], Chat | Completion], caller: str
    ) -> tuple[OpenAiRequest, Pending]:
        now_ms = time.time_ns() // 1_000_000
        key = headers.idempotency_key(request.headers)
        deadline_ms = headers.deadline_ms(request.headers, now_ms)
        if key is None:
            deadline_ms = no_later(deadline_ms, self._gateway.settings.max_wait_s, now_ms)
        with self._gateway.room.reading(caller) as hold:
            asked = read(await body_of(request, self._gateway, hold))
            endpoint = await self._called(asked.model, caller)
            event = prepared(asked, endpoint)
            asking = OpenAiRequest(asked=asked, endpoint=endpoint, created_s=now_ms // 1000, deadline_ms=deadline_ms)
            call = Call(
                namespace=caller,
                address=None if endpoint is None else endpoint.address,
                content=event.content,
                content_type=event.content_type,
                idempotency_key=key,
                deadline_ms=deadline_ms,
                guidance=event.guidance,
                partial=asking.in_pieces,
                headers=(*headers.trace(request.headers), *event.headers),
            )
            pending = await self._gateway.calls.begin(call)
        return asking, pending

    async def _called(self, model: str, caller: str) -> Endpoint | None:
        """As `called_model`. It may have been applied a moment ago."""
        reader, address = self._gateway.catalogue_reader, named(model, caller)
        if address is not None:
            with contextlib.suppress(Refusal):
                await reader.eventually(lambda catalogue: called_endpoint(catalogue, *address, caller=caller))
        return called_model(reader.catalogue, model, caller)


async def _not_here(request: Request) -> Response:
    raise DoorRefusal(
        DoorCode.UNKNOWN_PATH,
        f"{request.url.path[:60]} is not served: endpoints are called by /v1/chat/completions and /v1/completions",
    )


def _told(handler: Handler) -> Handler:
    """The handler, with its refusals in OpenAI's form."""

    async def told(request: Request) -> Response:
        try:
            return await handler(request)
        except (Refusal, DoorRefusal) as refusal:
            return refused(refusal)

    return told


def _json(content: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(content), media_type=headers.JSON)
