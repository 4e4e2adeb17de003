"""A form with a file → the file on this machine's disk, bounded in size and in time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import IO, Final

import msgspec
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from guideway.producers.gateway.gateway import Gateway
from guideway.producers.gateway.openai.refused import Wrong
from guideway.producers.gateway.status import DoorCode, DoorRefusal

_MORE_BYTES: Final = 64 * 2**10
"""Of the form beside the file."""
_SLOWEST_BYTES: Final = 16 * 2**10
"""Of each second, on the whole: who is slower holds a place for nothing."""
_FIELDS: Final = frozenset({"purpose", "expires_after[anchor]", "expires_after[seconds]"})
_MOST_FILENAME: Final = 200


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent."""

    file: IO[bytes]
    """At its begin."""
    size: int
    filename: str
    fields: dict[str, str]
    """`purpose`, and when it expires; checked by whoever knows what they mean."""


@contextlib.asynccontextmanager
async def uploaded(request: Request, gateway: Gateway) -> AsyncIterator[Upload]:
    """The file, which is gone afterwards.

    Raises: DoorRefusal (body_too_large, unsupported_media_type, bad_request where it does not come in time); Wrong.
    """
    limit = gateway.settings.max_file_bytes
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise DoorRefusal(
            DoorCode.UNSUPPORTED_MEDIA_TYPE,
            "a file is sent as a form: use multipart/form-data with `file` and `purpose`",
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise DoorRefusal(DoorCode.UNSUPPORTED_MEDIA_TYPE, "the body is compressed: send it as it is")
    parser = _Parser(request, gateway, limit)
    try:
        form = await parser.parse()
    except _Ended as ended:
        raise ended.why from None
    except MultiPartException as error:
        raise Wrong(f"the form cannot be read ({str(error.message)[:100]}): send `file` and `purpose`") from None
    try:
        yield _upload(form, limit)
    finally:
        await form.close()


class _Ended(MultiPartException):
    """The form is not read on. The parser closes its files for an exception of this kind only."""

    def __init__(self, why: Exception) -> None:
        super().__init__(str(why))
        self.why = why


class _Parser(MultiPartParser):
    """What is too large is read as far again, and not kept: else its client would not read why."""

    def __init__(self, request: Request, gateway: Gateway, limit: int) -> None:
        super().__init__(
            request.headers, self._pieces(request), max_files=1, max_fields=len(_FIELDS), max_part_size=1024
        )
        self._limit, self._patience_s = limit, gateway.settings.body_timeout_s
        self._whole = False

    def on_end(self) -> None:
        """The last boundary came."""
        self._whole = True

    async def _pieces(self, request: Request) -> AsyncGenerator[bytes, None]:
        size, loop, stream = 0, asyncio.get_running_loop(), request.stream()
        began = loop.time()
        while size <= 2 * self._limit + _MORE_BYTES:
            # A while at the start, and then as long as so many bytes may take.
            until = began + self._patience_s + size / _SLOWEST_BYTES
            try:
                async with asyncio.timeout_at(until):
                    piece = await anext(stream)
            except StopAsyncIteration:
                break
            except TimeoutError:
                raise _Ended(
                    DoorRefusal(DoorCode.BAD_REQUEST, "the file did not come in time: send it faster")
                ) from None
            except ClientDisconnect as error:
                raise _Ended(error) from None
            size += len(piece)
            if size <= self._limit + _MORE_BYTES:
                yield piece
        if size > self._limit + _MORE_BYTES:
            raise _Ended(_too_large(self._limit))
        if not self._whole:
            raise _Ended(Wrong("the form ends too early: send all of it", "file"))


def _upload(form: FormData, limit: int) -> Upload:
    given = form.multi_items()
    files = [value for name, value in given if name == "file" and isinstance(value, UploadFile)]
    fields = {name: value for name, value in given if isinstance(value, str)}
    others = [name for name, _ in given if name != "file" and name not in _FIELDS]
    if others or len({name for name, _ in given}) < len(given):
        what = f"has {others[0][:60]!r}, which is not known" if others else "has a part twice"
        raise Wrong(f"the form {what}: send `file` and `purpose`", (others or ["file"])[0][:60])
    if not files:
        raise Wrong("there is no file in the form: send it as the part `file`", "file")
    file = files[0]
    size, filename = file.size or 0, file.filename or ""
    if not size:
        raise Wrong("the file is empty: it has no rows", "file")
    if size > limit:
        raise _too_large(limit)
    if not filename or len(filename) > _MOST_FILENAME or not filename.isprintable():
        raise Wrong(f"a file has a name of 1 to {_MOST_FILENAME} printable characters: give it one", "file")
    file.file.seek(0)
    return Upload(file=file.file, size=size, filename=filename, fields=fields)


def _too_large(limit: int) -> DoorRefusal:
    return DoorRefusal(DoorCode.BODY_TOO_LARGE, f"a file has at most {limit} bytes: compress it (.gz), or split it")
