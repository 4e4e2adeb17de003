"""Uploaded files in the store: `STORE/files.v1/NAMESPACE/ID.json` says what a file is, `ID.content` is its content.

No namespace has a dot, so this is the part of none. A file is there once its `.json` is, which is written last and
removed first. All that a caller can choose of a path is the id, and an id has one form.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from typing import IO, Any, BinaryIO, Final

import msgspec

from guideway.catalogue.artefacts.opening import opened, put_whole, written_s
from guideway.producers.gateway.status import DoorCode, DoorRefusal
from guideway.schemas.names.addresses import NAME

FOLDER: Final = "files.v1"
FILE_ID: Final = re.compile(r"file-[0-9a-f]{32}")
_PIECE_BYTES: Final = 2**20
_LEFT_OVER_S: Final = 24 * 3600
"""A content without a `.json` for so long is of a process that was killed."""


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a file beside its content."""

    id: str
    filename: str
    bytes: int
    created_s: int
    """Unix time in seconds."""
    expires_s: int | None = None
    """From then on it is gone; None: it stays until somebody deletes it."""


class FileStore:
    """The uploaded files of all namespaces. Methods take a while; they raise OSError and what else the store has."""

    def __init__(self, store: str, *, most_files: int, most_bytes: int) -> None:
        """store: any fsspec address. most_files, most_bytes: of one namespace.

        Raises Refusal(invalid_setting) if it cannot be opened.
        """
        self._fs, base = opened(store)
        self._base = f"{base}/{FOLDER}"
        self._most_files, self._most_bytes = most_files, most_bytes

    def put(self, namespace: str, content: IO[bytes], size: int, filename: str, expires_s: int | None) -> About:
        """Keep a file. Raises DoorRefusal(too_many_requests) where the namespace has as much as it may have."""
        self.require_room(namespace, size)
        self._forget_left_over(namespace)
        about = About(
            id=f"file-{secrets.token_hex(16)}",
            filename=filename,
            bytes=size,
            created_s=int(time.time()),
            expires_s=expires_s,
        )
        self._fs.makedirs(self._folder(namespace), exist_ok=True)
        path = self._path(namespace, about.id)
        try:
            with self._fs.open(f"{path}.content", "wb") as out:
                while piece := content.read(_PIECE_BYTES):
                    out.write(piece)
            # Whole at once: whoever keeps a file meanwhile removes what is none.
            put_whole(self._fs, f"{path}.json", msgspec.json.encode(about))
        except BaseException:
            self._remove(path)
            raise
        return about

    def require_room(self, namespace: str, size: int) -> None:
        """Raises DoorRefusal(too_many_requests) where a file of so many bytes would be too much."""
        there = self.files(namespace)
        if len(there) >= self._most_files:
            raise _full(f"namespace {namespace} has {len(there)} files, which is as many as it may have")
        if sum(one.bytes for one in there) + size > self._most_bytes:
            raise _full(f"namespace {namespace} may have {self._most_bytes} bytes of files, and this would be more")

    def files(self, namespace: str) -> list[About]:
        """The latest first."""
        paths = [path for path in self._names(namespace) if path.endswith(".json")]
        found = self._fs.cat(paths, on_error="omit") if paths else {}
        # Of one path some stores give the bytes alone.
        contents = found.values() if isinstance(found, dict) else [found]
        there = [about for data in contents if (about := _about(data)) is not None]
        return sorted(there, key=lambda one: (one.created_s, one.id), reverse=True)

    def about(self, namespace: str, id_: str) -> About | None:
        """None: the namespace has no such file, whoever else has one."""
        if not FILE_ID.fullmatch(id_):
            return None
        try:
            return _about(self._fs.cat_file(f"{self._path(namespace, id_)}.json"))
        except FileNotFoundError:
            return None

    def open(self, namespace: str, about: About) -> BinaryIO:
        """The content, to be closed. Raises FileNotFoundError where it was deleted meanwhile."""
        found: BinaryIO = self._fs.open(f"{self._path(namespace, about.id)}.content", "rb")
        return found

    def delete(self, namespace: str, id_: str) -> None:
        """What is not there stays so."""
        assert FILE_ID.fullmatch(id_)
        self._remove(self._path(namespace, id_))

    def _remove(self, path: str) -> None:
        for ending in (".json", ".content"):
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(f"{path}{ending}")

    def _folder(self, namespace: str) -> str:
        assert NAME.fullmatch(namespace)
        return f"{self._base}/{namespace}"

    def _path(self, namespace: str, id_: str) -> str:
        return f"{self._folder(namespace)}/{id_}"

    def _names(self, namespace: str) -> list[str]:
        return [str(one["name"]) for one in self._listed(namespace)]

    def _listed(self, namespace: str) -> list[dict[str, Any]]:
        self._fs.invalidate_cache()
        try:
            found: list[dict[str, Any]] = self._fs.ls(self._folder(namespace), detail=True)
        except FileNotFoundError:
            return []
        return found

    def _forget_left_over(self, namespace: str) -> None:
        listed = self._listed(namespace)
        known = {str(one["name"]) for one in listed}
        for one in listed:
            path = str(one["name"])
            about = f"{path.removesuffix('.content')}.json"
            if path.endswith(".content") and about not in known and _age_s(one) > _LEFT_OVER_S:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(path)
            elif path.endswith(".json"):
                with contextlib.suppress(FileNotFoundError):
                    if _about(self._fs.cat_file(path)) is None:
                        self._remove(path.removesuffix(".json"))


def _about(data: Any) -> About | None:
    """None for a file that is over, or of another version."""
    try:
        about = msgspec.json.decode(data, type=About)
    except msgspec.DecodeError:
        return None
    return about if about.expires_s is None or about.expires_s > time.time() else None


def _age_s(listed: dict[str, Any]) -> float:
    """0 where the store does not say."""
    written = written_s(listed)
    return 0.0 if written is None else time.time() - written


def _full(message: str) -> DoorRefusal:
    return DoorRefusal(DoorCode.TOO_MANY_REQUESTS, f"{message}: delete some with DELETE /v1/files/ID")
