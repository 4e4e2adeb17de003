"""The rights of a namespace: of its team, of its callers, and of our services on its topics. Pure.

Rights on topics are literal. Kafka has no pattern for the end of a name, so a right on all that begins with `gw.shop.`
would let callers write replies and dead letters as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from guideway.infra.rights.right import Operation, Pattern, Resource, Right
from guideway.infra.topics import (
    COMPACTED,
    HELD_WEBHOOKS,
    KEYS,
    ROUTED,
    USAGE,
    TopicDefinition,
    batches,
    calls,
    training,
)
from guideway.schemas.names.addresses import BATCH_REPLIES, CALL, GATEWAY, PUBLIC, is_trial
from guideway.schemas.names.groups import catalogue_writer, own_groups
from guideway.schemas.names.service_topics import (
    AUDIT_TOPIC,
    CALIBRATIONS_TOPIC,
    accepted_topic,
    batch_cancel_topic,
    batch_events_topic,
    batch_topic,
    catalogue_topic,
    deliveries_topic,
    results_topic,
    shadows_topic,
    training_cancel_topic,
    training_events_topic,
    training_topic,
)
from guideway.schemas.names.topics import (
    batch_call_topic,
    call_topic,
    dead_letter_topic,
    event_topic,
    partial_topic,
    reply_topic,
    trial_topics,
)


class Services(msgspec.Struct, frozen=True):
    """As whom our services log in."""

    endpoints: tuple[str, ...] = ("User:gw-endpoints",)
    worker: tuple[str, ...] = ("User:gw-worker",)
    trainer: tuple[str, ...] = ("User:gw-trainer",)
    targets: tuple[str, ...] = ("User:gw-targets",)
    steward: tuple[str, ...] = ("User:gw-steward",)
    gateway: tuple[str, ...] = ("User:gw-gateway",)
    batcher: tuple[str, ...] = ("User:gw-batcher",)

    @property
    def all(self) -> frozenset[str]:
        of_all = (self.endpoints, self.worker, self.trainer, self.targets, self.steward, self.gateway, self.batcher)
        return frozenset(one for each in of_all for one in each)


class Space(msgspec.Struct, frozen=True):
    """A namespace, as far as rights depend on it."""

    name: str
    team: tuple[str, ...] = ()
    """Principals that apply, publish, train and call."""
    callers: tuple[str, ...] = ()
    """Principals that only call: they publish events and read replies."""
    endpoints: tuple[str, ...] = ()
    """Names of its endpoints."""
    reply_addresses: tuple[str, ...] = ()
    """NAME of each further topic `gw.NAMESPACE.NAME.out.v1` that replies may go to."""
    deleted: tuple[str, ...] = ()
    """Names of endpoints that were deleted, and whose topics are there: what stands in them is still answered and read,
    and nobody writes more."""
    partial: tuple[str, ...] = ()
    """NAME of each topic `gw.NAMESPACE.NAME.partial.v1` to which pieces of texts go, but for that of the gateways."""
    leaves: bool = False
    """Whether results of its endpoints leave Kafka, or once did."""


def fixed_topics(namespace: str) -> list[TopicDefinition]:
    """The topics that a namespace has without any endpoint."""
    own = [TopicDefinition(catalogue_topic(namespace), configs=COMPACTED)]
    if namespace == PUBLIC:
        own += [TopicDefinition(CALIBRATIONS_TOPIC, configs=COMPACTED), TopicDefinition(AUDIT_TOPIC)]
        own += [ROUTED, USAGE, KEYS, HELD_WEBHOOKS]
    return [
        *own,
        *calls(namespace, CALL_PARTITIONS),
        *training(namespace, TRAINING_PARTITIONS),
        *batches(namespace),
    ]


CALL_PARTITIONS: Final = 3
TRAINING_PARTITIONS: Final = 1
"""Jobs of one namespace take their turns in a partition; trainers share the partitions of all namespaces."""


def space_rights(space: Space, services: Services) -> list[Right]:
    """All rights that a namespace needs: those of its team, its callers and our services on its topics."""
    return list(dict.fromkeys([*_of_team(space), *_of_callers(space), *_of_services(space, services)]))


def _of_team(space: Space) -> Iterable[Right]:
    ns = space.name
    yield from _own(space, space.team)
    for topic in [
        *_open_topics(space),
        *(catalogue_topic(ns), training_topic(ns), training_cancel_topic(ns)),
        *(batch_topic(ns), batch_cancel_topic(ns), shadows_topic(ns)),
    ]:
        yield from may(space.team, topic, "read", "write")
    events = _event_topics(space)
    dead = [dead_letter_topic(one) for one in (*events, training_topic(ns), batch_topic(ns))]
    for topic in [
        *events,
        *_reply_topics(space),
        *_partial_topics(space),
        *dead,
        training_events_topic(ns),
        batch_events_topic(ns),
        catalogue_topic(PUBLIC),
    ]:
        yield from may(space.team, topic, "read")
    yield from may(space.team, catalogue_writer(ns), "write", resource="transactional id")
    if space.leaves:
        # Dead letters of deliveries are read, and put back.
        yield from may(space.team, deliveries_topic(ns), "read", "write")
        for topic in (results_topic(ns), deliveries_topic(ns)):
            yield from may(space.team, dead_letter_topic(topic), "read")


def _of_callers(space: Space) -> Iterable[Right]:
    yield from _own(space, space.callers)
    for topic in _open_topics(space):
        yield from may(space.callers, topic, "write")
    for topic in (*_reply_topics(space), *_partial_topics(space)):
        yield from may(space.callers, topic, "read")


def _own(space: Space, principals: Sequence[str]) -> Iterable[Right]:
    """Consumer groups and transactions of their own. A name has no dot, so `shop.` is the beginning of no other's."""
    beginning = own_groups(space.name)
    yield from may(principals, beginning, "read", resource="group", pattern="prefix")
    yield from may(principals, beginning, "write", resource="transactional id", pattern="prefix")


def _of_services(space: Space, services: Services) -> Iterable[Right]:
    ns = space.name
    everybody = (
        *(*services.endpoints, *services.worker, *services.trainer),
        *(*services.targets, *services.steward, *services.gateway),
    )
    yield from may(everybody, catalogue_topic(ns), "read")
    for one in (*space.endpoints, *space.deleted):
        if is_trial(one):
            # Not the team: to delete a topic into which workers are writing would hold up their other replies.
            for topic in trial_topics(ns, one):
                yield from may(services.steward, topic, "delete")
    for topic in _event_topics(space):
        yield from may(services.endpoints, topic, "read")
        yield from may(services.endpoints, dead_letter_topic(topic), "write")
    for topic in _reply_topics(space):
        yield from may((*services.endpoints, *services.worker), topic, "write")
    for topic in (*_partial_topics(space), partial_topic(ns, GATEWAY)):
        yield from may(services.worker, topic, "write")
        # An event that asks for pieces is refused where it does not see their topic.
        yield from may(services.endpoints, topic, "describe")
    yield from _of_gateways(ns, services)
    yield from _of_batchers_in(ns, services)
    if space.leaves:
        yield from _of_leaving(ns, services)
    jobs = training_topic(ns)
    for topic in (jobs, training_cancel_topic(ns)):
        yield from may(services.trainer, topic, "read")
    # A trainer publishes what it has trained.
    written = (dead_letter_topic(jobs), training_events_topic(ns), catalogue_topic(ns))
    for topic in written:
        yield from may(services.trainer, topic, "write")
    yield from may(services.trainer, catalogue_writer(ns), "write", resource="transactional id")


def _of_gateways(ns: str, services: Services) -> Iterable[Right]:
    """A gateway calls for its callers. What it is answered is read by nobody else, not by the team either."""
    replies, partials = reply_topic(ns, GATEWAY), partial_topic(ns, GATEWAY)
    yield from may((*services.endpoints, *services.worker), replies, "write")
    yield from may(services.gateway, call_topic(ns), "write")
    yield from may(services.gateway, accepted_topic(ns), "read", "write")
    for topic in (replies, partials):
        yield from may(services.gateway, topic, "read")
    # It submits batch jobs for its callers, and tells them what becomes of these.
    for topic in (batch_topic(ns), batch_cancel_topic(ns)):
        yield from may(services.gateway, topic, "read", "write")
    yield from may(services.gateway, batch_events_topic(ns), "read")


def _of_batchers_in(ns: str, services: Services) -> Iterable[Right]:
    """A batcher calls for its jobs. What their rows are answered is read by nobody else, not by the team either."""
    replies = reply_topic(ns, BATCH_REPLIES)
    yield from may((*services.endpoints, *services.worker), replies, "write")
    for topic in (batch_topic(ns), batch_cancel_topic(ns), batch_events_topic(ns), replies):
        yield from may(services.batcher, topic, "read")
    for topic in (
        batch_call_topic(ns),
        batch_events_topic(ns),
        dead_letter_topic(batch_topic(ns)),
    ):
        yield from may(services.batcher, topic, "write")


def _of_leaving(ns: str, services: Services) -> Iterable[Right]:
    results, deliveries = results_topic(ns), deliveries_topic(ns)
    yield from may((*services.endpoints, *services.worker), results, "write")
    yield from may(services.targets, results, "read")
    yield from may(services.targets, deliveries, "read", "write")
    for topic in (results, deliveries):
        yield from may(services.targets, dead_letter_topic(topic), "write")


def _open_topics(space: Space) -> list[str]:
    """Where events may be published."""
    calls = [call_topic(space.name), batch_call_topic(space.name)]
    return [*calls, *(event_topic(space.name, one) for one in space.endpoints)]


def _event_topics(space: Space) -> list[str]:
    """Where events stand."""
    return [*_open_topics(space), *(event_topic(space.name, one) for one in space.deleted)]


def _partial_topics(space: Space) -> list[str]:
    return [partial_topic(space.name, one) for one in space.partial]


def _reply_topics(space: Space) -> list[str]:
    found = [CALL, *space.endpoints, *space.deleted, *space.reply_addresses]
    return [reply_topic(space.name, one) for one in dict.fromkeys(found)]


def may(
    principals: Iterable[str],
    name: str,
    *operations: Operation,
    resource: Resource = "topic",
    pattern: Pattern = "literal",
) -> Iterable[Right]:
    """These operations for each of these principals."""
    for principal in principals:
        for operation in operations:
            yield Right(principal, resource, pattern, name, operation)
