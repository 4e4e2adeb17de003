"""Archived results of endpoints: which there are, some of them, all of them, and none of one request any more."""

from __future__ import annotations

import contextlib
import os
import random
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from guideway.catalogue.archive.archive import Archive, archives
from guideway.catalogue.archive.rows import Row, write_lines, write_parquet
from guideway.producers.client.client import split_address
from guideway.schemas.failures import FailureCode, Refusal
from guideway.settings import Settings

T = TypeVar("T")


class Held(msgspec.Struct, frozen=True):
    """What one archive holds."""

    endpoint: str
    """`/NAMESPACE/ENDPOINT`"""
    days: int
    first: str
    last: str
    objects: int
    stored_bytes: int
    retention_days: int | None


class Day(msgspec.Struct, frozen=True):
    """What an archive holds of one day (UTC)."""

    day: str
    rows: int
    """Results, each once."""
    without_text: int
    """How many of them cannot be asked again: their text is not kept, or was too large."""
    objects: int
    stored_bytes: int


def held(settings: Settings, namespace: str | None) -> list[Held]:
    """All archives, of one namespace or of all. Raises Refusal(invalid_setting) where the store cannot be read."""
    with _reading(settings):
        return [_held(one) for one in archives(settings.store, namespace)]


def _held(archive: Archive) -> Held:
    objects = archive.objects()
    days = sorted({one.day for one in objects})
    return Held(
        endpoint=f"/{archive.namespace}/{archive.endpoint}",
        days=len(days),
        first=days[0] if days else "",
        last=days[-1] if days else "",
        objects=len(objects),
        stored_bytes=sum(one.stored_bytes for one in objects),
        retention_days=archive.retention_days,
    )


def days(settings: Settings, address: str) -> list[Day]:
    """What an archive holds, day by day; all of it is read. Raises as `rows`."""
    with _reading(settings):
        archive = _filled(settings, address)
        counted: dict[str, list[bool]] = {}
        for row in archive.rows():
            counted.setdefault(row.day, []).append(row.text is None)
        stored: dict[str, list[int]] = {}
        for one in archive.objects():
            stored.setdefault(one.day, []).append(one.stored_bytes)
    return [
        Day(day, len(found := counted.get(day, [])), sum(found), len(sizes), sum(sizes))
        for day, sizes in sorted(stored.items())
    ]


def rows(settings: Settings, address: str, since: str = "", until: str = "") -> Iterator[Row]:
    """All rows of an archive, each once. since, until: days. Raises Refusal: unknown_endpoint, invalid_setting."""
    with _reading(settings):
        yield from _filled(settings, address).rows(since, until)


def days_of(settings: Settings, address: str) -> list[str]:
    """The days of which an archive holds results, in order; nothing of them is read. Raises as `rows`, not if empty."""
    with _reading(settings):
        return sorted({one.day for one in _of(settings, address).objects()})


def sample(settings: Settings, address: str, count: int, *, since: str = "", seed: int | None = None) -> list[Row]:
    """Some rows, drawn by chance from all. seed: the same draws the same. Raises as `rows`."""
    return drawn_of(rows(settings, address, since), count, seed=seed)


def drawn_of(found: Iterable[T], count: int, *, seed: int | None = None) -> list[T]:
    """So many of these, drawn by chance, in no order; all if there are no more."""
    chance, drawn = random.Random(seed), list[T]()
    for number, one in enumerate(found):
        # Each one so far is among the drawn with the same chance.
        if number < count:
            drawn.append(one)
        elif (place := chance.randint(0, number)) < count:
            drawn[place] = one
    return drawn


def export(settings: Settings, address: str, place: Path, since: str = "") -> int:
    """Write all rows into a new file, `.jsonl` or `.parquet` by its name; returns how many. It is whole or not there.

    Raises as `rows`; Refusal(invalid_setting) for another name, a file that exists, or one that cannot be written.
    """
    write = {".jsonl": write_lines, ".parquet": write_parquet}.get(place.suffix)
    if write is None:
        raise Refusal(FailureCode.INVALID_SETTING, f"{place} is neither .jsonl nor .parquet: name it so")
    if place.exists():
        raise Refusal(FailureCode.INVALID_SETTING, f"{place} exists: name another file, or remove it")
    half = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}")
    try:
        with _reading(settings):
            found = _filled(settings, address).rows(since)
            try:
                with half.open("xb") as out:
                    count = write(found, out)
            except OSError as error:
                if error.filename not in (None, str(half)):
                    raise
                raise Refusal(
                    FailureCode.INVALID_SETTING, f"{place} cannot be written ({error.strerror}): name another place"
                ) from None
        # Never over a file that somebody has written meanwhile.
        os.link(half, place)
        return count
    finally:
        half.unlink(missing_ok=True)


def erase(settings: Settings, address: str, request_id: str) -> int:
    """Erase all of one request; returns how many rows. Raises as `rows`."""
    with _reading(settings):
        return _of(settings, address).erase(request_id)


def _of(settings: Settings, address: str) -> Archive:
    return Archive(settings.store, *split_address(address))


def _filled(settings: Settings, address: str) -> Archive:
    """An archive that holds something: of a name that is misspelt, nothing would look like no traffic."""
    archive = _of(settings, address)
    if not archive.objects():
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"this store holds no results of {address}: `guideway archive list` says of which endpoints it does",
        )
    return archive


@contextlib.contextmanager
def _reading(settings: Settings) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise Refusal(
            FailureCode.INVALID_SETTING, "the archive is in Parquet, and pyarrow is not installed: pip install pyarrow"
        ) from None
    except (OSError, ValueError) as error:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            f"the store {settings.store} cannot be used ({error}): check that it is the right one, and that this user "
            "may read and write it",
        ) from None
