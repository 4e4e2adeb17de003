"""Who holds what on a cluster, and which namespaces there are. Who belongs to whom is read off the rights. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import cached_property

import msgspec

from guideway.infra.rights.right import Held, Operation, Resource, Right
from guideway.infra.rights.spaces import Services, Space
from guideway.schemas.names.addresses import BATCH_REPLIES, CALL, GATEWAY
from guideway.schemas.names.groups import (
    BATCHERS_GROUP,
    ENDPOINTS_GROUP,
    STEWARD_GROUP,
    TARGETS_GROUP,
    TRAINERS_GROUP,
    WORKERS_GROUPS,
)
from guideway.schemas.names.service_topics import KEYS_TOPIC, catalogue_topic, owner_of_catalogue, results_topic
from guideway.schemas.names.topics import (
    call_topic,
    endpoint_of_partial_topic,
    endpoint_of_reply_topic,
    endpoint_of_topic,
)


class Survey(msgspec.Struct, frozen=True, dict=True):
    """What was found on a cluster."""

    topics: Mapping[str, int]
    """Topic → partitions."""
    rights: tuple[Right, ...] | None
    """None: the cluster holds none, and everybody may do everything."""
    quotas: Mapping[str, Mapping[str, float]]
    """User → quota in Kafka's words → value."""

    def namespaces(self) -> list[str]:
        """Those whose catalogue topic is there, or has rights."""
        named = [*self.topics, *(one.name for one in self.rights or () if one.resource == "topic")]
        return sorted({owner for one in named if (owner := owner_of_catalogue(one)) is not None})

    @cached_property
    def held(self) -> Held:
        """All rights."""
        return Held(self.rights or ())

    @cached_property
    def services(self) -> Services:
        """As whom our services log in: whoever may be in their groups; where nobody may, the usual names."""
        usual = Services()
        stewards = self._may("read", "group", STEWARD_GROUP)
        # Stewards read the keys as well, for the audit trail.
        gateways = [one for one in self._may("read", "topic", KEYS_TOPIC) if one not in stewards]
        return Services(
            endpoints=self._may("read", "group", ENDPOINTS_GROUP) or usual.endpoints,
            worker=self._may("read", "group", WORKERS_GROUPS) or usual.worker,
            trainer=self._may("read", "group", TRAINERS_GROUP) or usual.trainer,
            targets=self._may("read", "group", TARGETS_GROUP) or usual.targets,
            steward=stewards or usual.steward,
            gateway=tuple(gateways) or usual.gateway,
            batcher=self._may("read", "group", BATCHERS_GROUP) or usual.batcher,
        )

    def makers_of_keys(self) -> tuple[str, ...]:
        """Who may make and end keys of callers, beside those who may do everything."""
        return self._may("write", "topic", KEYS_TOPIC)

    def space(self, namespace: str, endpoints: Collection[str]) -> Space:
        """A namespace with its principals: who may write its catalogue is of its team; who may only call calls."""
        ours = self.services.all
        team = [one for one in self._may("write", "topic", catalogue_topic(namespace)) if one not in ours]
        calling = [one for one in self._may("write", "topic", call_topic(namespace)) if one not in {*ours, *team}]
        return Space(
            namespace,
            team=tuple(team),
            callers=tuple(calling),
            endpoints=tuple(sorted(endpoints)),
            deleted=tuple(one for one in self.endpoints_with_topics(namespace) if one not in endpoints),
            reply_addresses=self.reply_addresses(namespace),
            partial=self.partial(namespace),
            leaves=results_topic(namespace) in self.topics,
        )

    def reply_addresses(self, namespace: str) -> tuple[str, ...]:
        """Names of the reply topics that belong to no endpoint: those whose endpoint has never had a topic."""
        events, replies = self._endpoints[namespace]
        return tuple(sorted(replies - events - {CALL, GATEWAY, BATCH_REPLIES}))

    def partial(self, namespace: str) -> tuple[str, ...]:
        """Names of the reply topics beside which there is a topic of pieces, but for that of the gateways."""
        return tuple(sorted(self._partial[namespace]))

    def endpoints_with_topics(self, namespace: str) -> list[str]:
        """Names of the endpoints, deleted ones too, that have an event topic."""
        return sorted(self._endpoints[namespace][0])

    def endpoints_with_rights(self, namespace: str) -> list[str]:
        """Names of the endpoints on whose event topic somebody has a right, whether or not it is there."""
        return sorted(self._endpoints_of_rights[namespace])

    @cached_property
    def _endpoints_of_rights(self) -> Mapping[str, set[str]]:
        found: Mapping[str, set[str]] = defaultdict(set)
        for resource, name in self._by_resource:
            if resource == "topic" and (of := endpoint_of_topic(name)) is not None:
                found[of[0]].add(of[1])
        return found

    @cached_property
    def _endpoints(self) -> Mapping[str, tuple[set[str], set[str]]]:
        """Namespace → names with an event topic, names with a reply topic."""
        found: Mapping[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
        for topic in self.topics:
            for place, of in enumerate((endpoint_of_topic(topic), endpoint_of_reply_topic(topic))):
                if of is not None:
                    found[of[0]][place].add(of[1])
        return found

    @cached_property
    def _partial(self) -> Mapping[str, set[str]]:
        """Namespace → names with a topic of pieces."""
        found: Mapping[str, set[str]] = defaultdict(set)
        for topic in self.topics:
            if (of := endpoint_of_partial_topic(topic)) is not None and of[1] != GATEWAY:
                found[of[0]].add(of[1])
        return found

    @cached_property
    def _by_resource(self) -> Mapping[tuple[Resource, str], list[Right]]:
        found: Mapping[tuple[Resource, str], list[Right]] = defaultdict(list)
        for one in self.rights or ():
            found[one.resource, one.name].append(one)
        return found

    def _may(self, operation: Operation, resource: Resource, name: str) -> tuple[str, ...]:
        """Principals with this very right, or with all of the resource's."""
        found = [one for one in self._by_resource.get((resource, name), ()) if one.operation in (operation, "all")]
        return tuple(sorted({one.principal for one in found}))
