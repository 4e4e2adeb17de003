"""How a worker takes requests in: lanes share its slots."""

from __future__ import annotations

from collections.abc import Collection, Hashable

from guideway.delivery.intake import UNBOUNDED, Limit
from guideway.schemas.names.topics import Lane, lane_of_topic


class ByLane:
    """A `delivery.intake.Intake` that gives each lane its own slots, however many requests the other lane has."""

    def party(self, topic: str) -> Lane:
        return lane_of_topic(topic)

    def limits(self, holding: Collection[Hashable]) -> Limit:
        return lambda lane: UNBOUNDED
