"""The archive in the store: `STORE/archive.v1/NAMESPACE/ENDPOINT/YYYY-MM-DD/NAME.jsonl.gz` (or `.parquet`).

No namespace has a dot, so this is the part of none. An object appears whole or not at all. Nothing in one is changed:
who erases or joins writes another object first and then removes the old one, and what stands in both meanwhile is one
row by its `row`.

Erasing leaves a note (a hash of the id) for those who write: what is still in Kafka must not come back.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Final

import msgspec

from guideway.catalogue.archive.rows import SUFFIXES, Form, Row, digest_of_id, read, written
from guideway.catalogue.artefacts.opening import opened
from guideway.schemas.names.addresses import NAME

_FOLDER: Final = "archive.v1"
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_FORMS: Final[dict[str, Form]] = {suffix: form for form, suffix in SUFFIXES.items()}
_NOTES_DAYS: Final = 45
"""Longer than anything stays in Kafka: dead letters are kept for thirty days."""
_JOINED_BYTES: Final = 8 * 2**20
"""Objects of more bytes, as stored, are not joined."""
_JOINED_CHARS: Final = 32 * 2**20
"""A joined object that has so many takes no more: compressed, one byte may stand for a thousand."""
_FULL: Final = "full-"
"""How the names of these begin."""
_LEFT_OVER: Final = timedelta(hours=1)
"""What is half-written for so long is of a process that was killed."""


class Kept(msgspec.Struct, frozen=True):
    """How long an archive is kept, beside it: also when its endpoint is gone."""

    retention_days: int


class Object(msgspec.Struct, frozen=True):
    """One object of an archive."""

    path: str
    day: str
    form: Form
    stored_bytes: int


class Archive:
    """The archive of one endpoint. Any number of processes may use it at the same time."""

    def __init__(self, store: str, namespace: str, endpoint: str) -> None:
        """store: any fsspec address. Raises Refusal(invalid_setting) if it cannot be opened."""
        # Each is a folder.
        assert NAME.fullmatch(namespace)
        assert NAME.fullmatch(endpoint)
        self.namespace, self.endpoint = namespace, endpoint
        self._fs, base = opened(store)
        self._base = f"{base}/{_FOLDER}/{namespace}/{endpoint}"

    def write(self, rows: Sequence[Row], form: Form) -> None:
        """Add rows, but for what was erased. Raises: OSError; ImportError as `rows.written`."""
        for day in sorted({row.day for row in rows}):
            self._replace([], [row for row in rows if row.day == day], day, form)

    def keep_for(self, retention_days: int) -> None:
        """Note for how long it is kept. Raises OSError."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            if self.retention_days == retention_days:
                return
        self._put(f"{self._base}/kept.json", msgspec.json.encode(Kept(retention_days)))

    @property
    def retention_days(self) -> int | None:
        """As it was noted; None: it was not. Raises: OSError, msgspec.DecodeError."""
        path = f"{self._base}/kept.json"
        return msgspec.json.decode(self._fs.cat_file(path), type=Kept).retention_days if self._fs.exists(path) else None

    def objects(self, since: str = "", until: str = "") -> list[Object]:
        """All objects, in order of their day. since, until: the first and the last day. Raises OSError."""
        found = []
        for day in self._listed(self._base):
            name = _last(day["name"])
            if _DAY.fullmatch(name) and name >= since and (not until or name <= until):
                for one in self._listed(day["name"]):
                    form = _FORMS.get(_last(one["name"]).partition(".")[2])
                    if form is not None and one["type"] == "file":
                        found.append(Object(one["name"], name, form, int(one["size"])))
        return sorted(found, key=lambda one: (one.day, one.path))

    def rows(self, since: str = "", until: str = "") -> Iterator[Row]:
        """All rows, each once, in order of their day; without those that were erased. Raises: OSError, ValueError."""
        erased = self._erased()
        for day, objects in groupby(self.objects(since, until), key=lambda one: one.day):
            seen: set[str] = set()
            for row in self._rows_of(day, list(objects)):
                if row.row not in seen and digest_of_id(row.id) not in erased:
                    seen.add(row.row)
                    yield row

    def _rows_of(self, day: str, objects: list[Object]) -> Iterator[Row]:
        """The rows of these objects, and of those into which some are joined meanwhile."""
        known: set[str] = set()
        while objects:
            is_gone = False
            for one in objects:
                known.add(one.path)
                try:
                    data = self._fs.cat_file(one.path)
                except FileNotFoundError:
                    is_gone = True
                    continue
                yield from _decoded(one, data)
            objects = [one for one in self.objects(day, day) if one.path not in known] if is_gone else []

    def erase(self, request_id: str) -> int:
        """Erase all results of this request, and keep what is still on its way from being archived.

        Returns how many rows. Interrupted, it can be run again. Raises: OSError, ValueError.
        """
        digest = digest_of_id(request_id)
        self._put(f"{self._base}/erased/{digest}", b"")
        count = 0
        for one in self.objects():
            rows = list(self._read(one))
            kept = [row for row in rows if row.id != request_id]
            if len(kept) < len(rows):
                count += len({row.row for row in rows if row.id == request_id})
                self._replace([one], kept, one.day, one.form)
        return count

    def sweep(self, now: datetime, retention_days: int | None) -> None:
        """Delete the days that are over, and join the objects of each other day that is past.

        retention_days: as the endpoint says now; None: as it is noted. Raises: OSError, ValueError.
        """
        days = retention_days or self.retention_days
        first = "" if days is None else (now - timedelta(days=days)).strftime("%Y-%m-%d")
        for day in self._listed(self._base):
            if _DAY.fullmatch(name := _last(day["name"])) and name < first:
                self._fs.rm(day["name"], recursive=True)
        self._forget_left_over(now)
        # Today's and yesterday's are still written.
        before = (now - timedelta(days=1)).strftime("%Y-%m-%d")
        by_day: dict[tuple[str, Form], list[Object]] = {}
        for one in self.objects():
            is_full = _last(one.path).startswith(_FULL)
            if one.day < before and one.stored_bytes < _JOINED_BYTES and not is_full:
                by_day.setdefault((one.day, one.form), []).append(one)
        for (day_, form), objects in by_day.items():
            if len(objects) > 1:
                self._join(objects, day_, form)
        self._forget_notes(now)

    def _join(self, objects: Sequence[Object], day: str, form: Form) -> None:
        """Make as few objects of these as memory allows."""
        some: list[Object] = []
        rows: dict[str, Row] = {}
        chars = 0
        for one in objects:
            some.append(one)
            for row in self._read(one):
                rows[row.row] = row
                chars += row.chars
            if chars >= _JOINED_CHARS:
                self._replace(some, list(rows.values()), day, form, prefix=_FULL)
                some, rows, chars = [], {}, 0
        if len(some) > 1:
            self._replace(some, list(rows.values()), day, form)

    def _replace(self, old: Sequence[Object], rows: Sequence[Row], day: str, form: Form, *, prefix: str = "") -> None:
        """Put these rows in the place of the old objects, but for what was erased, also while this runs."""
        path: str | None = None
        erased: frozenset[str] | None = None
        while erased != (now := self._erased()):
            kept = [row for row in rows if digest_of_id(row.id) not in now]
            if erased is None or len(kept) < len(rows):
                earlier, path = (
                    path,
                    f"{self._base}/{day}/{prefix}{uuid.uuid4().hex}.{SUFFIXES[form]}" if kept else None,
                )
                if path is not None:
                    self._put(path, written(kept, form))
                if earlier is not None:
                    self._remove(earlier)
            rows, erased = kept, now
        for one in old:
            self._remove(one.path)

    def _erased(self) -> frozenset[str]:
        return frozenset(_last(one["name"]) for one in self._listed(f"{self._base}/erased"))

    def _forget_notes(self, now: datetime) -> None:
        for one in self._listed(f"{self._base}/erased"):
            if _is_older(one, now, timedelta(days=_NOTES_DAYS)):
                self._remove(one["name"])

    def _forget_left_over(self, now: datetime) -> None:
        """What a killed process has half-written holds texts that nobody reads, and that nobody could erase."""
        for day in self._listed(self._base):
            if _DAY.fullmatch(_last(day["name"])):
                for one in self._listed(day["name"], hidden=True):
                    if one["type"] == "file" and _is_older(one, now, _LEFT_OVER):
                        self._remove(one["name"])

    def _read(self, one: Object) -> Iterator[Row]:
        """The rows of an object; none if somebody has joined it with others meanwhile."""
        try:
            data = self._fs.cat_file(one.path)
        except FileNotFoundError:
            return
        yield from _decoded(one, data)

    def _put(self, path: str, data: bytes) -> None:
        # Whole or not at all: half-written, it has a name that nobody reads.
        fresh = f"{path.rpartition('/')[0]}/.{uuid.uuid4().hex}"
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(fresh, data)
        self._fs.mv(fresh, path)

    def _remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def _listed(self, path: str, *, hidden: bool = False) -> list[dict[str, Any]]:
        """What is there. hidden: what is half-written instead."""
        self._fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            found: list[dict[str, Any]] = self._fs.ls(path, detail=True)
            return [one for one in found if _last(one["name"]).startswith(".") is hidden]
        return []


def _decoded(one: Object, data: bytes) -> Iterator[Row]:
    try:
        yield from read(data, one.form)
    except ValueError as error:
        raise ValueError(f"{one.path} is {error}: restore it, or remove it") from None


def archives(store: str, namespace: str | None = None) -> list[Archive]:
    """All archives in a store, of one namespace or of all. Raises: Refusal(invalid_setting), OSError."""
    fs, base = opened(store)
    found = []
    for owner in _folders(fs, f"{base}/{_FOLDER}"):
        if namespace in (None, owner):
            found += [Archive(store, owner, one) for one in _folders(fs, f"{base}/{_FOLDER}/{owner}")]
    return found


def _folders(fs: Any, path: str) -> list[str]:
    try:
        listed = fs.ls(path, detail=True)
    except FileNotFoundError:
        return []
    return sorted(name for one in listed if NAME.fullmatch(name := _last(one["name"])))


def _is_older(listed: dict[str, Any], now: datetime, age: timedelta) -> bool:
    """Whether a file was written so long ago; False where the store does not say when it was."""
    written_at = listed.get("mtime") or listed.get("LastModified") or listed.get("updated")
    if isinstance(written_at, int | float):
        written_at = datetime.fromtimestamp(written_at, UTC)
    return isinstance(written_at, datetime) and now - written_at > age


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
