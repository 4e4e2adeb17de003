"""How much of the memory of every process a namespace's catalogue may take. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from guideway.catalogue.identity import Identity
from guideway.schemas.names.service_topics import CALIBRATIONS_TOPIC, PUBLIC_CATALOGUE_TOPIC

MOST_BYTES: Final = 64 * 2**20
"""Of the records of one namespace, as they stand in its topic. What comes beyond it is not taken in: every service and
worker has all catalogues in memory, and whoever may write one must not end them all."""
_EACH_BYTES: Final = 512
"""What a record costs beside its value. A removed one still has its number remembered."""
_OURS: Final = frozenset({CALIBRATIONS_TOPIC, PUBLIC_CATALOGUE_TOPIC})
"""Written by the platform, and not bounded."""


class Room:
    """What the records of each topic take. The catalogue that asks it owns it."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[Identity, int], int] = {}
        self._taken: Counter[str] = Counter()
        """By topic."""
        self.left_out: Counter[str] = Counter()
        """By topic: how many records were not taken in."""

    def takes(self, identity: Identity, version: int, value: bytes | None) -> bool:
        """Count this record, in place of the one that had its key. False: there is no room, and nothing has changed."""
        size, before = _EACH_BYTES + len(value or b""), self._sizes.get((identity, version), 0)
        topic = identity.topic
        if size > before and topic not in _OURS and self._taken[topic] + size - before > MOST_BYTES:
            self.left_out[topic] += 1
            return False
        self._sizes[identity, version] = size
        self._taken[topic] += size - before
        return True

    def has_for(self, identity: Identity, values: Sequence[bytes]) -> bool:
        """Whether new records with these values would be taken in, in the topic of this identity."""
        topic = identity.topic
        more = sum(_EACH_BYTES + len(value) for value in values)
        return topic in _OURS or (not self.left_out[topic] and self._taken[topic] + more <= MOST_BYTES)

    def forget(self, topic: str) -> None:
        """The topic is no more."""
        for key in [one for one in self._sizes if one[0].topic == topic]:
            del self._sizes[key]
        del self._taken[topic], self.left_out[topic]

    def copy(self) -> Room:
        """One that changes apart from this."""
        other = Room()
        other._sizes, other._taken, other.left_out = dict(self._sizes), self._taken.copy(), self.left_out.copy()
        return other
