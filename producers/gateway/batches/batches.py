"""`/v1/batches`: batch jobs in OpenAI's form."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from guideway.producers.batch.jobs import Job, Jobs
from guideway.producers.events.contents import from_json
from guideway.producers.gateway.batches.accepted import AcceptedBatch, AcceptedStore, Ask, Standing
from guideway.producers.gateway.batches.file_forms import form_of
from guideway.producers.gateway.batches.file_store import FileStore
from guideway.producers.gateway.batches.job_list import JobList
from guideway.producers.gateway.batches.making import Making
from guideway.producers.gateway.batches.objects import created_ms, notes_of, object_of, told_endpoint, window_s
from guideway.producers.gateway.batches.serving import in_store, json_of, no_file, page_of
from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.http import asked as headers
from guideway.producers.gateway.http.guard import body_of, caller_of
from guideway.producers.gateway.openai.refused import Wrong
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names.service_topics import batch_topic

_MOST_UNFINISHED: Final = 50
"""Batches of one namespace: each has a copy of its rows in the store."""
_MOST_REFUSED: Final = 1000
"""Batches of one namespace of which no job was made: each takes room in every list."""
_MOST_FORGOTTEN: Final = 100
"""At a time: a store may take a while for each."""
_LOOK_S, _LOOKS = 0.2, 25
"""How often, and how many times, one looks for what another gateway is about to accept."""


class Batches:
    """`/v1/batches`"""

    def __init__(
        self, gateway: Gateway, files: FileStore, accepted: AcceptedStore, jobs: Jobs, job_list: JobList
    ) -> None:
        self._gateway, self._files, self._accepted = gateway, files, accepted
        self._jobs, self._list = jobs, job_list
        self._asking: dict[tuple[str, str | None, bytes], asyncio.Task[Job | Standing]] = {}
        self._accepting: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._making = Making(gateway, accepted, files, jobs, job_list)
        gateway.run_beside(self._making.run)

    async def create(self, request: Request) -> Response:
        """`POST /v1/batches`: returns once it cannot be lost any more. Its file is read afterwards."""
        namespace = (await caller_of(request, self._gateway)).namespace
        with self._gateway.room.taken(namespace):
            with self._gateway.room.reading(namespace) as hold:
                asked = _asked(await body_of(request, self._gateway, hold))
            batch = await self._once(namespace, asked, headers.idempotency_key(request.headers))
        return json_of(object_of(batch))

    async def list(self, request: Request) -> Response:
        """`GET /v1/batches`"""
        namespace = (await caller_of(request, self._gateway)).namespace
        with self._gateway.room.taken(namespace):
            batches = await self._all(namespace)
        objects = [object_of(one) for one in sorted(batches, key=created_ms, reverse=True)]
        return json_of(page_of(request, objects, default=20, most=100))

    async def get(self, request: Request) -> Response:
        """`GET /v1/batches/ID`"""
        namespace = (await caller_of(request, self._gateway)).namespace
        with self._gateway.room.taken(namespace):
            return json_of(object_of(await self._batch(namespace, request.path_params["id"])))

    async def cancel(self, request: Request) -> Response:
        """`POST /v1/batches/ID/cancel`: of a batch that has ended nothing comes of it."""
        namespace = (await caller_of(request, self._gateway)).namespace
        with self._gateway.room.taken(namespace):
            batch = await self._batch(namespace, request.path_params["id"])
            if batch.ended is None and not batch.is_cancelled:
                batch = await self._cancelled(namespace, batch)
        return json_of(object_of(batch))

    async def _cancelled(self, namespace: str, batch: Job | Standing) -> Job | Standing:
        if isinstance(batch, Standing):
            id_ = batch.batch.id
            await in_store(lambda: self._accepted.cancel(namespace, id_))
            self._making.cancelled(namespace, id_)
            self._list.changed(namespace)
            found = await self._list.job(namespace, id_)
            if found is None:
                return batch._replace(is_cancelled=True)
            # A job was made of it a moment ago.
            batch = found
            await in_store(lambda: self._accepted.forget(namespace, id_))
        try:
            await self._jobs.cancel(namespace, batch.job.id)
        except Refusal as refusal:
            # It may have ended a moment ago.
            if refusal.code is not FailureCode.INVALID_SETTING:
                raise
        self._list.changed(namespace)
        return await self._batch(namespace, batch.job.id)

    async def _batch(self, namespace: str, id_: str) -> Job | Standing:
        standing = await in_store(lambda: self._accepted.one(namespace, id_))
        if standing is not None:
            jobs = await self._list.of(namespace)
            return next((one for one in jobs if one.job.id == id_), standing)
        job = await self._list.job(namespace, id_)
        if job is None:
            raise DoorRefusal(
                DoorCode.UNKNOWN_REQUEST,
                f"namespace {namespace} has no batch {id_[:80]!r}: GET /v1/batches lists those that there are",
            )
        return job

    async def _once(self, namespace: str, asked: Ask, key: str | None) -> Job | Standing:
        """Whoever asks the same again meanwhile gets the same batch."""
        what = namespace, key, msgspec.json.encode(asked)
        if (asking := self._asking.get(what)) is None:
            asking = self._asking[what] = asyncio.create_task(
                self._created(namespace, asked, key), name="a batch is accepted"
            )
            asking.add_done_callback(lambda task: self._forget(what, task))
        return await asyncio.shield(asking)

    def _forget(self, what: tuple[str, str | None, bytes], task: asyncio.Task[Job | Standing]) -> None:
        del self._asking[what]
        if not task.cancelled():
            # All who wanted to know may have left.
            task.exception()

    async def _created(self, namespace: str, asked: Ask, key: str | None) -> Job | Standing:
        told_endpoint(asked.endpoint)
        seconds, notes = window_s(asked.completion_window), notes_of(asked)
        id_ = f"batch-{secrets.token_hex(16)}" if key is None else _id(namespace, key)
        self._list.changed(namespace)
        if key is not None and (there := await self._there(namespace, id_, notes)) is not None:
            return there
        if key is not None and await in_store(self._jobs.folder(namespace, id_).is_begun):
            raise DoorRefusal(
                DoorCode.IDEMPOTENCY_KEY_REUSED,
                "this idempotency key was used for a batch of long ago, which is listed no more: give each its own",
            )
        about = await in_store(lambda: self._files.about(namespace, asked.input_file_id))
        if about is None:
            raise Wrong(no_file(namespace, asked.input_file_id).message, "input_file_id")
        form_of(about, asked.endpoint)
        await self._gateway.calls.require_topics(namespace, batch_topic(namespace))
        if key is not None and not await self._gateway.calls.claimed(namespace, f"/v1/batches/{id_}", _digest(asked)):
            # Another gateway is about to accept the same.
            for _ in range(_LOOKS):
                if (there := await self._there(namespace, id_, notes)) is not None:
                    return there
                await asyncio.sleep(_LOOK_S)
        now_ms = time.time_ns() // 1_000_000
        batch = AcceptedBatch(id=id_, ask=asked, created_ms=now_ms, deadline_ms=now_ms + seconds * 1000)
        async with self._accepting[namespace]:
            # One after the other: of many at a time none would see the others.
            batches = await self._all(namespace)
            _require_room(namespace, batches)
            for old in _too_many(batches):
                await in_store(partial(self._accepted.forget, namespace, old))
            await in_store(lambda: self._accepted.put(namespace, batch))
        self._making.begin(namespace, id_)
        return Standing(batch, False, None)

    async def _all(self, namespace: str) -> Sequence[Job | Standing]:
        """All batches of a namespace. First what is accepted: what becomes a job meanwhile is seen there."""
        accepted = await in_store(lambda: self._accepted.of(namespace))
        jobs = await self._list.of(namespace)
        known = {one.job.id for one in jobs}
        return [*jobs, *(one for one in accepted if one.batch.id not in known)]

    async def _there(self, namespace: str, id_: str, notes: dict[str, str]) -> Job | Standing | None:
        """The batch of this id. Raises DoorRefusal(idempotency_key_reused) where it is another."""
        standing = await in_store(lambda: self._accepted.one(namespace, id_))
        there = next((one for one in await self._list.of(namespace) if one.job.id == id_), standing)
        if there is None:
            return None
        if (dict(there.job.notes) if isinstance(there, Job) else notes_of(there.batch.ask)) != notes:
            raise DoorRefusal(
                DoorCode.IDEMPOTENCY_KEY_REUSED,
                "this idempotency key was used for another batch: give each its own",
            )
        return there


def _require_room(namespace: str, batches: Sequence[Job | Standing]) -> None:
    if sum(one.ended is None for one in batches) >= _MOST_UNFINISHED:
        raise DoorRefusal(
            DoorCode.TOO_MANY_REQUESTS,
            f"{_MOST_UNFINISHED} batches of namespace {namespace} have not ended, which is as many as may be: wait "
            "for some, or cancel them",
        )


def _too_many(batches: Sequence[Job | Standing]) -> list[str]:
    """The ids of those without a job that are to be forgotten: the ones that ended longest ago."""
    ended = [(one.ended.at_ms, one.batch.id) for one in batches if isinstance(one, Standing) and one.ended]
    return [id_ for _, id_ in sorted(ended)[: max(0, len(ended) - _MOST_REFUSED)][:_MOST_FORGOTTEN]]


def _id(namespace: str, key: str) -> str:
    return f"batch-{hashlib.sha256(f'{namespace}/{key}'.encode()).hexdigest()[:32]}"


def _digest(asked: Ask) -> str:
    return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()


def _asked(body: bytes) -> Ask:
    try:
        return msgspec.convert(from_json(body), Ask)
    except Refusal as refusal:
        raise Wrong(f"the body is not read: {refusal.message}", code=refusal.code) from None
    except msgspec.ValidationError as error:
        raise Wrong(f"the body is no batch ({str(error)[:150]}): correct it") from None
