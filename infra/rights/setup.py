"""What is to be there for a namespace, or for our services: topics, rights, quotas. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from guideway.infra.rights.right import Right, user_of
from guideway.infra.topics import TopicDefinition


class Quota(msgspec.Struct, frozen=True):
    """What a principal's clients may use of each broker. None: no limit of its own."""

    produced_bytes_per_s: float | None = 10 * 2**20
    consumed_bytes_per_s: float | None = 20 * 2**20
    request_percentage: float | None = 50
    """Of one request thread's time; a broker has several."""
    partition_changes_per_s: float | None = 5
    """Partitions made or deleted in a second."""

    def in_kafkas_words(self) -> dict[str, float | None]:
        """Kafka's name of each quota → its value."""
        return {
            "producer_byte_rate": self.produced_bytes_per_s,
            "consumer_byte_rate": self.consumed_bytes_per_s,
            "request_percentage": self.request_percentage,
            "controller_mutation_rate": self.partition_changes_per_s,
        }


USUAL: Final = Quota()


class Setup(msgspec.Struct, frozen=True):
    """Topics, rights and quotas, to be made or to be printed."""

    topics: tuple[TopicDefinition, ...]
    rights: tuple[Right, ...]
    quotas: Mapping[str, Quota]
    """Principal → what it may use."""

    def rights_by_principal(self) -> dict[str, list[Right]]:
        """Principal → its rights, in order."""
        found: dict[str, list[Right]] = {}
        for right in self.rights:
            found.setdefault(right.principal, []).append(right)
        return found

    def operations(self) -> dict[Right, list[str]]:
        """Rights that differ in their operation only, as the first of them → all their operations."""
        found: dict[tuple[str, ...], tuple[Right, list[str]]] = {}
        for one in self.rights:
            key = (one.principal, one.resource, one.pattern, one.name)
            found.setdefault(key, (one, []))[1].append(one.operation)
        return dict(found.values())

    def quotas_of_users(self) -> dict[str, dict[str, float]]:
        """User → quota in Kafka's words → value; without those that are not set."""
        return {
            user_of(principal): {key: value for key, value in quota.in_kafkas_words().items() if value is not None}
            for principal, quota in self.quotas.items()
        }
