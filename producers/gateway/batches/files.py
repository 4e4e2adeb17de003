"""`/v1/files`: files go into the store, and come out of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import BinaryIO, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from guideway.producers.batch.jobs import Job, Jobs
from guideway.producers.gateway.batches.accepted import AcceptedStore
from guideway.producers.gateway.batches.file_store import About, FileStore
from guideway.producers.gateway.batches.job_list import JobList
from guideway.producers.gateway.batches.objects import ResultFile, file_object, result_file, result_file_object
from guideway.producers.gateway.batches.serving import few_at_a_time, in_store, json_of, no_file, page_of
from guideway.producers.gateway.batches.upload import Upload, uploaded
from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.http.guard import caller_of
from guideway.producers.gateway.openai.refused import Wrong

_PIECE_BYTES: Final = 256 * 2**10
_MOST_UPLOADS: Final = 8
_OLDEST_S: Final = 30 * 86_400
_YOUNGEST_S: Final = 3600


class Files:
    """`/v1/files`"""

    def __init__(
        self, gateway: Gateway, store: FileStore, accepted: AcceptedStore, jobs: Jobs, job_list: JobList
    ) -> None:
        self._gateway, self._store, self._accepted = gateway, store, accepted
        self._jobs, self._list = jobs, job_list
        self._uploading = Counter[str]()

    async def upload(self, request: Request) -> Response:
        """`POST /v1/files`"""
        namespace = (await caller_of(request, self._gateway)).namespace
        with (
            self._gateway.room.taken(namespace),
            few_at_a_time(self._uploading, namespace, _MOST_UPLOADS, "uploads files"),
        ):
            async with uploaded(request, self._gateway) as upload:
                expires_s = _expires_s(upload)
                about = await in_store(
                    lambda: self._store.put(namespace, upload.file, upload.size, upload.filename, expires_s)
                )
        return json_of(file_object(about))

    async def list(self, request: Request) -> Response:
        """`GET /v1/files`: those that were uploaded."""
        namespace = (await caller_of(request, self._gateway)).namespace
        with self._gateway.room.taken(namespace):
            found = await in_store(lambda: self._store.files(namespace))
        purpose, order = request.query_params.get("purpose", "batch"), request.query_params.get("order", "desc")
        objects = [file_object(about) for about in found] if purpose == "batch" else []
        return json_of(page_of(request, objects if order == "desc" else objects[::-1], default=10_000, most=10_000))

    async def get(self, request: Request) -> Response:
        """`GET /v1/files/ID`"""
        namespace = (await caller_of(request, self._gateway)).namespace
        id_ = request.path_params["id"]
        with self._gateway.room.taken(namespace):
            if (results := result_file(id_)) is not None:
                job, name = await self._results(namespace, id_, results)
                size = await in_store(lambda: _size(self._jobs, namespace, job, name), id_)
                return json_of(result_file_object(id_, size, job, name, self._gateway.settings.kept_s))
            return json_of(file_object(await self._about(namespace, id_)))

    async def content(self, request: Request) -> Response:
        """`GET /v1/files/ID/content`"""
        namespace = (await caller_of(request, self._gateway)).namespace
        id_ = request.path_params["id"]
        with self._gateway.room.taken(namespace):
            if (results := result_file(id_)) is not None:
                job, name = await self._results(namespace, id_, results)
                folder = self._jobs.folder(namespace, job.job.id)
                file = await in_store(lambda: folder.open(name), id_)
            else:
                about = await self._about(namespace, id_)
                file = await in_store(lambda: self._store.open(namespace, about), id_)
        return _Download(self._gateway, namespace, file)

    async def delete(self, request: Request) -> Response:
        """`DELETE /v1/files/ID`: a batch that was made of it goes on."""
        namespace = (await caller_of(request, self._gateway)).namespace
        id_ = request.path_params["id"]
        with self._gateway.room.taken(namespace):
            if (results := result_file(id_)) is not None:
                job, name = await self._results(namespace, id_, results)
                await in_store(lambda: self._jobs.folder(namespace, job.job.id).delete(name), id_)
                return json_of({"id": id_, "object": "file", "deleted": True})
            await self._about(namespace, id_)
            for one in await in_store(lambda: self._accepted.of(namespace)):
                if one.batch.ask.input_file_id == id_ and one.ended is None:
                    raise Wrong(
                        f"batch {one.batch.id} is being made of it: delete it once that is in_progress", "file_id"
                    )
            await in_store(lambda: self._store.delete(namespace, id_))
        return json_of({"id": id_, "object": "file", "deleted": True})

    async def _about(self, namespace: str, id_: str) -> About:
        about = await in_store(lambda: self._store.about(namespace, id_))
        if about is None:
            raise no_file(namespace, id_)
        return about

    async def _results(self, namespace: str, id_: str, results: ResultFile) -> tuple[Job, str]:
        """The job, and the name of the file in its folder."""
        job = await self._list.job(namespace, results.job)
        name = "" if job is None or job.ended is None else getattr(job.ended, results.which)
        if job is None or not name:
            raise no_file(namespace, id_)
        return job, name


class _Download(Response):
    """A file, piece by piece; its caller's place is taken as long as that lasts."""

    def __init__(self, gateway: Gateway, namespace: str, file: BinaryIO) -> None:
        size = file.seek(0, 2)
        file.seek(0)
        super().__init__(media_type="application/octet-stream", headers={"content-disposition": "attachment"})
        self.headers["content-length"] = str(size)
        self._gateway, self._namespace, self._file = gateway, namespace, file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file, self._gateway.room.taken(self._namespace):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while piece := await asyncio.to_thread(self._file.read, _PIECE_BYTES):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _size(jobs: Jobs, namespace: str, job: Job, name: str) -> int:
    with jobs.folder(namespace, job.job.id).open(name) as file:
        return file.seek(0, 2)


def _expires_s(upload: Upload) -> int | None:
    """When the file is to be gone. Raises Wrong, also where the purpose is another than batches."""
    purpose = upload.fields.get("purpose")
    if purpose != "batch":
        what = "purpose is missing" if purpose is None else f"purpose is {purpose[:40]!r}"
        raise Wrong(f"{what}, and files are for batches: write `batch`", "purpose")
    anchor, seconds = upload.fields.get("expires_after[anchor]"), upload.fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    after_s = int(seconds) if seconds and seconds.isascii() and seconds.isdigit() and len(seconds) < 9 else 0
    if anchor != "created_at" or not _YOUNGEST_S <= after_s <= _OLDEST_S:
        raise Wrong(
            f"expires_after is {_YOUNGEST_S} to {_OLDEST_S} seconds after `created_at`: write that", "expires_after"
        )
    return int(time.time()) + after_s
