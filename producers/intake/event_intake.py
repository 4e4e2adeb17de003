"""Which events the endpoint service takes in: each namespace has its share, in whatever order events come.

A backlog stays in the event topics of its own namespace. Requests that are published wait in one queue for all
namespaces, so that queue is kept short.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Sequence
from typing import Any

from aiokafka.structs import TopicPartition

from guideway.catalogue.entries import Identity
from guideway.catalogue.topic import CatalogueFollower
from guideway.delivery.intake import Limit
from guideway.producers.intake.shares import Party, Shares
from guideway.schemas import names
from guideway.schemas.manifests import Endpoint
from guideway.schemas.record import Outgoing


class EventIntake:
    """A `delivery.intake.Intake`: its parties are namespaces, each in one lane."""

    def __init__(self, reader: CatalogueFollower, shares: Shares) -> None:
        self._reader = reader
        self._shares = shares

    def party(self, topic: str) -> Party:
        namespace, name = endpoint_of(topic)
        catalogue = self._reader.catalogue
        found = catalogue.latest(Identity("endpoint", namespace, name))
        if found is None or not isinstance(endpoint := found[1], Endpoint):
            return Party(namespace, "")
        if catalogue.latest(Identity("model", "public", endpoint.model_size)) is None:
            # The event is refused; that needs no worker, so the lane's limit does not matter.
            return Party(namespace, "")
        return Party(namespace, names.request_topic(endpoint.model_size, endpoint.lane))

    def limits(self, holding: Collection[Hashable]) -> Limit:
        return self._shares.limits(holding, asyncio.get_running_loop().time())

    def published(self, topic: str, placed: Sequence[tuple[Outgoing, Any]]) -> set[str]:
        """Note the requests among what was published of this event topic. Returns the model sizes they are for."""
        now = asyncio.get_running_loop().time()
        sizes = set()
        for outgoing, at in placed:
            if (size := names.size_of_request_topic(at.topic)) is not None:
                place = TopicPartition(at.topic, at.partition)
                self._shares.published(place, at.offset, endpoint_of(topic)[0], outgoing.size_bytes, now)
                sizes.add(size)
        return sizes


def endpoint_of(topic: str) -> tuple[str, str]:
    """(namespace, endpoint) of an event topic."""
    found = names.endpoint_of_topic(topic)
    assert found is not None, "the subscription's pattern admits endpoint topics only"
    return found
