"""Batches that were accepted and of which no job is made yet: `STORE/asked.v1/NAMESPACE/ID.*`, for any gateway.

    ID.batch       what was asked; written before the caller is answered
    ID.cancelled   there once somebody has cancelled it
    ID.ended       why no job was made of it
    ID.trouble     why a gateway could make none yet, and has left it to others
    ID.lease       who makes a job of it, and that this one lives

Once the job is published, all of them are removed: the topic has the job. No namespace has a dot.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple

import msgspec

from guideway.catalogue.artefacts.opening import opened, put_whole
from guideway.schemas.names.addresses import NAME
from guideway.schemas.services.batch import JOB_ID

FOLDER: Final = "asked.v1"
_BATCH, _CANCELLED, _ENDED, _TROUBLE, _LEASE = "batch", "cancelled", "ended", "trouble", "lease"


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/batches`."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None


class AcceptedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as it was asked for."""

    id: str
    ask: Ask
    created_ms: int
    """Unix time, as all times here."""
    deadline_ms: int


class NotMade(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no job of it."""

    outcome: Literal["failed", "cancelled", "expired"]
    at_ms: int
    code: str = ""
    message: str = ""
    param: str | None = None


class Standing(NamedTuple):
    """An accepted batch, and what is known of it."""

    batch: AcceptedBatch
    is_cancelled: bool
    ended: NotMade | None
    trouble: str = ""
    """Why there is no job of it yet, for people; empty: nobody has told of any trouble."""


class AcceptedStore:
    """Owner of these files. Methods take a while; they raise OSError and what else the store has."""

    def __init__(self, store: str) -> None:
        """store: any fsspec address. Raises Refusal(invalid_setting) if it cannot be opened."""
        self._fs, base = opened(store)
        self._base = f"{base}/{FOLDER}"

    def put(self, namespace: str, batch: AcceptedBatch) -> None:
        """From now on it is not lost."""
        self._put(namespace, batch.id, _BATCH, msgspec.json.encode(batch))

    def of(self, namespace: str) -> list[Standing]:
        """Those of a namespace, in no order."""
        return self._read(namespace, self._names(namespace))

    def one(self, namespace: str, id_: str) -> Standing | None:
        """None: there is none, or a job was made of it."""
        if not JOB_ID.fullmatch(id_):
            return None
        found = self._read(namespace, {f"{id_}.{what}" for what in (_BATCH, _CANCELLED, _ENDED, _TROUBLE)})
        return found[0] if found else None

    def left(self) -> list[tuple[str, str]]:
        """(namespace, id) of all that have not ended."""
        found = []
        for namespace in self._namespaces():
            there = self._names(namespace)
            ids = [name.removesuffix(f".{_BATCH}") for name in there if name.endswith(f".{_BATCH}")]
            found += [(namespace, id_) for id_ in ids if f"{id_}.{_ENDED}" not in there and JOB_ID.fullmatch(id_)]
        return found

    def over(self, before_ms: int) -> list[tuple[str, str]]:
        """(namespace, id) of those that ended before this without a job."""
        return [
            (namespace, one.batch.id)
            for namespace in self._namespaces()
            for one in self.of(namespace)
            if one.ended is not None and one.ended.at_ms < before_ms
        ]

    def cancel(self, namespace: str, id_: str) -> None:
        """Somebody has cancelled it."""
        self._put(namespace, id_, _CANCELLED, b"")

    def held_up(self, namespace: str, id_: str, why: str) -> None:
        """Tell people why there is no job of it yet."""
        self._put(namespace, id_, _TROUBLE, why.encode())
        if self.one(namespace, id_) is None:
            # It was forgotten meanwhile, and this would stay for ever.
            self.forget(namespace, id_)

    def end(self, namespace: str, id_: str, ended: NotMade) -> None:
        """No job will be made of it."""
        self._put(namespace, id_, _ENDED, msgspec.json.encode(ended))
        self._remove(namespace, id_, (_LEASE, _TROUBLE))

    def forget(self, namespace: str, id_: str) -> None:
        """It is known elsewhere, or not wanted any more."""
        # That it has ended goes last: else a job would be made of it after all.
        self._remove(namespace, id_, (_LEASE, _TROUBLE, _BATCH, _CANCELLED, _ENDED))

    def lease(self, namespace: str, id_: str) -> bytes:
        """What whoever makes a job of it wrote last; empty: nobody does yet."""
        with contextlib.suppress(FileNotFoundError):
            return bytes(self._fs.cat_file(self._path(namespace, id_, _LEASE)))
        return b""

    def put_lease(self, namespace: str, id_: str, lease: bytes) -> None:
        """Say that somebody makes a job of it."""
        self._put(namespace, id_, _LEASE, lease)

    def _read(self, namespace: str, names_: Iterable[str]) -> list[Standing]:
        paths = {f"{self._base}/{namespace}/{name}": name for name in names_ if not name.endswith(f".{_LEASE}")}
        data = {paths[path]: data for path, data in self._contents(list(paths)).items() if path in paths}
        found = []
        for name, content in data.items():
            id_, _, what = name.rpartition(".")
            if what == _BATCH and (batch := _decoded(content, AcceptedBatch)) is not None and batch.id == id_:
                ended = _decoded(data.get(f"{id_}.{_ENDED}", b""), NotMade)
                trouble = data.get(f"{id_}.{_TROUBLE}", b"").decode("utf-8", "replace")
                found.append(Standing(batch, f"{id_}.{_CANCELLED}" in data, ended, trouble))
        return found

    def _contents(self, paths: list[str]) -> dict[str, bytes]:
        if len(paths) > 1:
            # Stores differ in whether a path begins with a slash.
            asked, found = {path.lstrip("/"): path for path in paths}, self._fs.cat(paths, on_error="return")
            for error in found.values():
                # What cannot be read now must not seem to be gone.
                if isinstance(error, Exception) and not isinstance(error, FileNotFoundError):
                    raise error
            return {asked.get(path.lstrip("/"), path): data for path, data in found.items() if isinstance(data, bytes)}
        with contextlib.suppress(FileNotFoundError):
            return {path: bytes(self._fs.cat_file(path)) for path in paths}
        return {}

    def _namespaces(self) -> list[str]:
        return [name for name in self._listed(self._base) if NAME.fullmatch(name)]

    def _names(self, namespace: str) -> set[str]:
        assert NAME.fullmatch(namespace)
        return {name for name in self._listed(f"{self._base}/{namespace}") if not name.startswith(".")}

    def _listed(self, folder: str) -> list[str]:
        self._fs.invalidate_cache()
        try:
            return [str(path).rstrip("/").rpartition("/")[2] for path in self._fs.ls(folder, detail=False)]
        except FileNotFoundError:
            return []

    def _put(self, namespace: str, id_: str, what: str, data: bytes) -> None:
        put_whole(self._fs, self._path(namespace, id_, what), data)

    def _remove(self, namespace: str, id_: str, which: Iterable[str]) -> None:
        for what in which:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(self._path(namespace, id_, what))

    def _path(self, namespace: str, id_: str, what: str) -> str:
        assert NAME.fullmatch(namespace)
        assert JOB_ID.fullmatch(id_)
        return f"{self._base}/{namespace}/{id_}.{what}"


def _decoded(data: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError:
        return None
