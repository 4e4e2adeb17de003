"""How many requests a process works on at a time, and how many of each namespace. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

from guideway.producers.gateway.status import DoorCode, DoorRefusal


class Room:
    """One for all doors of a process. What waits takes room as well."""

    def __init__(self, *, most: int, most_of_one: int, most_bytes: int, most_bytes_of_one: int) -> None:
        """most: of all namespaces together; most_of_one: of each. The bytes are of bodies that are being read, of
        answers that are being sent, and of what waits for clients of streams."""
        self._most_bytes, self._most_bytes_of_one = most_bytes, most_bytes_of_one
        self._held_bytes = 0
        self._held_of: Counter[str] = Counter()
        self._most, self._most_of_one = most, most_of_one
        self._taken: Counter[str] = Counter()
        self.total = 0
        self.closed = False
        """The process is ending: nothing new is begun."""

    @contextmanager
    def taken(self, namespace: str) -> Iterator[None]:
        """Around the work on one request. Raises DoorRefusal: too_many_requests, busy."""
        if self.closed:
            raise DoorRefusal(DoorCode.BUSY, "this gateway is ending: send it again, to another one")
        if self.total >= self._most:
            raise DoorRefusal(DoorCode.BUSY, "this gateway has no room for more requests: send it again, or to another")
        if self._taken[namespace] >= self._most_of_one:
            raise DoorRefusal(
                DoorCode.TOO_MANY_REQUESTS,
                f"namespace {namespace} has {self._most_of_one} requests at this gateway, which is as many as it may: "
                "wait for some, or send them with `Prefer: respond-async`",
            )
        self._taken[namespace] += 1
        self.total += 1
        try:
            yield
        finally:
            self._taken[namespace] -= 1
            if not self._taken[namespace]:
                del self._taken[namespace]
            self.total -= 1

    @contextmanager
    def reading(self, namespace: str) -> Iterator[Held]:
        """Around the reading of one body, for as long as it is held: is told how many bytes have come."""
        with closing(self.held(namespace)) as hold:
            yield hold

    def held(self, namespace: str) -> Held:
        """Nothing yet, of this namespace."""
        return Held(self, namespace)

    def _count(self, namespace: str, count: int) -> None:
        self._held_bytes += count
        self._held_of[namespace] += count
        if not self._held_of[namespace]:
            del self._held_of[namespace]

    def _has_half(self, namespace: str, count: int) -> bool:
        of_one, of_all = self._held_of[namespace] + count, self._held_bytes + count
        return of_one <= self._most_bytes_of_one // 2 and of_all <= self._most_bytes // 2

    def _require_bytes(self, namespace: str) -> None:
        if self._held_of[namespace] > self._most_bytes_of_one:
            of = f"namespace {namespace}" if namespace else "callers who need no key"
            raise DoorRefusal(
                DoorCode.TOO_MANY_REQUESTS,
                f"this gateway holds {self._most_bytes_of_one} bytes of {of}, which is as many as it may: send fewer "
                "at a time, and read the answers",
            )
        if self._held_bytes > self._most_bytes:
            raise DoorRefusal(DoorCode.BUSY, "this gateway holds too much at a time: send it again, or to another")


class Held:
    """Bytes that are held of one request, until they are given back."""

    def __init__(self, room: Room, namespace: str) -> None:
        self._room, self._namespace = room, namespace
        self._bytes = 0

    def __call__(self, count: int) -> None:
        """So many more are held. Raises DoorRefusal: too_many_requests, busy; they are held all the same."""
        self._bytes += count
        self._room._count(self._namespace, count)
        self._room._require_bytes(self._namespace)

    def spare(self, count: int) -> bool:
        """Hold so many more, if half of the room is enough for them: they are of what can be done without."""
        if is_held := self._room._has_half(self._namespace, count):
            self(count)
        return is_held

    def or_none(self, count: int) -> None:
        """Hold so many more, or none of them. Raises DoorRefusal: too_many_requests, busy."""
        try:
            self(count)
        except DoorRefusal:
            self.less(count)
            raise

    def less(self, count: int) -> None:
        """So many are not held any more."""
        self._bytes -= count
        self._room._count(self._namespace, -count)

    def close(self) -> None:
        """Nothing is held any more."""
        self.less(self._bytes)
