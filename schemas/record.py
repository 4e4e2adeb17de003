"""A Kafka record as the pure parts of the project see it, without a client library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

Headers = Sequence[tuple[str, bytes | None]]
"""Headers in order, with repeats; a value may be null."""


RECORD_OVERHEAD_BYTES = 500
HEADER_OVERHEAD_BYTES = 120


class Withheld(bytes):
    """Stands for the value of a record that is too large to read. It holds no bytes."""

    record_bytes: int

    @staticmethod
    def of(record_bytes: int) -> Withheld:
        """`record_bytes`: of the whole record."""
        value = Withheld(b"\xff")
        value.record_bytes = record_bytes
        return value


def held_bytes(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """About how many bytes a record takes in memory."""
    # Several times for each record: loops take half of what generators do.
    found = len(key or b"") + len(value or b"") + RECORD_OVERHEAD_BYTES + HEADER_OVERHEAD_BYTES * len(headers)
    for name, given in headers:
        found += len(name) + (len(given) if given is not None else 0)
    return found


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
        """About how many bytes the record takes in memory."""
        return held_bytes(self.key, self.value, self.headers)

    def header(self, name: str) -> bytes | None:
        """The last value of the header that is not null, as most clients read repeats; None without one."""
        # A dozen times for each event, as `held_bytes`.
        for key, value in reversed(self.headers):
            if key == name and value is not None:
                return value
        return None

    def headers_named(self, names: Iterable[str]) -> list[tuple[str, bytes | None]]:
        """The headers with one of these names, as they came."""
        wanted = frozenset(names)
        return [(name, value) for name, value in self.headers if name in wanted]


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A record to publish; with `partition=None` the key decides the partition, as usual."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    partition: int | None = None

    @property
    def held_bytes(self) -> int:
        """About how many bytes the record takes in memory."""
        return held_bytes(self.key, self.value, self.headers)

    @property
    def size_bytes(self) -> int:
        """About how many bytes the record takes on the wire, rather more than less."""
        return len(self.value or b"") + self.beside_bytes

    @property
    def beside_bytes(self) -> int:
        """How many of these bytes are key and headers."""
        found = len(self.key or b"") + 8 * len(self.headers) + 128
        for name, value in self.headers:
            found += 4 * len(name) + (len(value) if value is not None else 0)
        return found
