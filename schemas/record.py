"""A Kafka record as the project's pure parts see it: no client library behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

Headers = Sequence[tuple[str, bytes | None]]
"""In order, with repeats; a value may be null."""


RECORD_OVERHEAD_BYTES = 500
HEADER_OVERHEAD_BYTES = 120


class Withheld(bytes):
    """In place of the value of a record that is too large to be read: whatever the form asked for, it has none."""

    record_bytes: int

    @staticmethod
    def of(record_bytes: int) -> Withheld:
        """`record_bytes`: of the whole record."""
        value = Withheld(b"\xff")
        value.record_bytes = record_bytes
        return value


def held_bytes(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """What a record takes in memory, roughly."""
    parts = len(key or b"") + len(value or b"") + RECORD_OVERHEAD_BYTES
    return parts + sum(len(name) + len(value or b"") + HEADER_OVERHEAD_BYTES for name, value in headers)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A record that was read."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def held_bytes(self) -> int:
        """What the record takes in memory, roughly."""
        return held_bytes(self.key, self.value, self.headers)

    def header(self, name: str) -> bytes | None:
        """The last non-null value of the header, as most clients treat repeats."""
        return next((value for key, value in reversed(self.headers) if key == name and value is not None), None)

    def headers_named(self, names: Iterable[str]) -> list[tuple[str, bytes | None]]:
        """The headers with one of these names, as they came."""
        wanted = frozenset(names)
        return [(name, value) for name, value in self.headers if name in wanted]


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A record to publish; `partition=None` leaves the choice to the key, as usual."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    partition: int | None = None

    @property
    def held_bytes(self) -> int:
        """What the record takes in memory, roughly."""
        return held_bytes(self.key, self.value, self.headers)

    @property
    def size_bytes(self) -> int:
        """What the record takes on the wire, roughly (from above)."""
        return len(self.value or b"") + self.beside_bytes

    @property
    def beside_bytes(self) -> int:
        """What key and headers take of that."""
        return len(self.key or b"") + sum(4 * len(name) + len(value or b"") + 8 for name, value in self.headers) + 128
