"""Which requests gateways have accepted, and where their replies stand: what the topics say, folded. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from guideway.schemas.services.accepted import KEPT_S, Accepted, Claim, Published

LEASE_S: Final = 10.0
"""A gateway that claims a request has published it within this time, or is gone. Each gateway counts it from when it
has read the claim, so no two clocks are compared."""


class Place(NamedTuple):
    """Where a reply stands on its namespace's topic."""

    partition: int
    offset: int
    final: bool
    """False: a failure after which the same request may be tried again."""


class Entry(msgspec.Struct):
    """One request."""

    claim: Claim
    read_at: float
    """When this process has read the claim, in seconds of its own clock."""
    published: bool = False


class Known:
    """The requests of all namespaces, by id. Owned by one process.

    It holds at most `limit` requests, and twice as many places of replies. Where there are more, those of the namespace
    with the most go first, oldest first: a namespace that accepts without end pushes out its own.
    """

    def __init__(self, *, limit: int = 100_000) -> None:
        self._limit = limit
        self._entries: dict[str, dict[str, Entry]] = {}
        self._places: dict[str, dict[str, Place]] = {}
        """Namespace → correlation id → place. A reply may be read before its request's claim, and after it went."""
        self._count = self._placed = 0
        self.pushed_out = 0
        """Requests that had to go before their time."""

    def __len__(self) -> int:
        return self._count

    def take(self, namespace: str, note: Accepted, now: float) -> None:
        """The next record of the namespace's accepted requests. A record that is taken again changes nothing.

        now: seconds of this process's clock.
        """
        entries = self._entries.setdefault(namespace, {})
        entry = entries.get(note.id)
        match note:
            case Published():
                if entry is not None and entry.claim.correlation == note.correlation:
                    entry.published = True
            case Claim():
                if entry is None:
                    entries[note.id] = Entry(note, now)
                    self._count += 1
                    self._make_room()
                elif note.after == entry.claim.correlation:
                    self._forget_place(namespace, note.after)
                    entries[note.id] = Entry(note, now)

    def replied(self, namespace: str, correlation: str, place: Place) -> None:
        """A reply to a kept request was read. Of several to one correlation id the first counts."""
        places = self._places.setdefault(namespace, {})
        if correlation in places:
            return
        places[correlation] = place
        self._placed += 1
        if self._placed > 2 * self._limit:
            largest = max(self._places, key=lambda one: len(self._places[one]))
            self._forget_place(largest, next(iter(self._places[largest])))

    def find(self, namespace: str, request_id: str) -> tuple[Entry, Place | None] | None:
        """The request and where its reply stands, if that is there; None: it is not known."""
        entry = self._entries.get(namespace, {}).get(request_id)
        return None if entry is None else (entry, self.place(namespace, entry.claim.correlation))

    def place(self, namespace: str, correlation: str) -> Place | None:
        """Where the reply with this correlation id stands, if that is there."""
        return self._places.get(namespace, {}).get(correlation)

    def forget(self, namespace: str) -> None:
        """The topic of its accepted requests was made anew."""
        self._count -= len(self._entries.pop(namespace, {}))

    def forget_replies(self, namespace: str) -> None:
        """The topic of its replies was made anew."""
        self._placed -= len(self._places.pop(namespace, {}))

    def expire(self, before_ms: int) -> None:
        """Forget the requests that were claimed before this, Unix milliseconds: their notes are leaving the topic."""
        for namespace, entries in self._entries.items():
            for request_id in list(entries):
                if entries[request_id].claim.at_ms >= before_ms:
                    break
                self._drop(namespace, request_id)

    def _make_room(self) -> None:
        if self._count > self._limit:
            largest = max(self._entries, key=lambda one: len(self._entries[one]))
            self._drop(largest, next(iter(self._entries[largest])))
            self.pushed_out += 1

    def _drop(self, namespace: str, request_id: str) -> None:
        entry = self._entries[namespace].pop(request_id)
        self._forget_place(namespace, entry.claim.correlation)
        self._count -= 1

    def _forget_place(self, namespace: str, correlation: str) -> None:
        if self._places.get(namespace, {}).pop(correlation, None) is not None:
            self._placed -= 1


def is_over(entry: Entry, now_ms: int) -> bool:
    """Whether the request is from so long ago that its id may name another one."""
    return now_ms - entry.claim.at_ms > KEPT_S * 1000


def replaceable(entry: Entry, place: Place | None, now_ms: int, now: float) -> bool:
    """Whether a further claim may take its place: nothing final came of it, and nothing more will; or it is over.

    now_ms: Unix time in milliseconds; now: seconds of the clock of `Known.take`.
    """
    if is_over(entry, now_ms):
        return True
    if place is not None:
        return not place.final
    return not entry.published and now - entry.read_at > LEASE_S
