"""A Kafka record as the project's pure parts see it: no client library behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

Headers = Sequence[tuple[str, bytes | None]]
"""In order, with repeats; a value may be null."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A record that was read."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

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
    def size_bytes(self) -> int:
        """What the record takes on the wire, roughly (from above)."""
        parts = len(self.value or b"") + len(self.key or b"")
        return parts + sum(4 * len(name) + len(value or b"") + 8 for name, value in self.headers) + 128
