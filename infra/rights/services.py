"""The rights of our services that depend on no namespace. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from guideway.infra.rights.right import CLUSTER, Pattern, Right
from guideway.infra.rights.spaces import Services, may
from guideway.schemas.names.groups import (
    BATCHERS_GROUP,
    ENDPOINTS_GROUP,
    STEWARD_GROUP,
    TARGETS_GROUP,
    TRAINERS_GROUP,
    WORKERS_GROUPS,
    writer_of,
)
from guideway.schemas.names.service_topics import (
    AUDIT_TOPIC,
    CALIBRATIONS_TOPIC,
    HELD_WEBHOOKS_TOPIC,
    KEYS_TOPIC,
    ROUTED_TOPIC,
    USAGE_TOPIC,
)
from guideway.schemas.names.topics import EVERY_TOPIC, LANES, REQUESTS, dead_letter_topic, request_topic


def service_rights(services: Services, sizes: Sequence[str]) -> list[Right]:
    """All of them. sizes: the model sizes that there are."""
    return list(
        dict.fromkeys(
            [
                *_of_endpoint_services(services.endpoints),
                *_of_workers(services.worker, sizes),
                *_of_trainers(services.trainer),
                *_of_targets(services.targets),
                *_of_stewards(services.steward),
                *may(services.gateway, KEYS_TOPIC, "read"),
                # Each job has a group of its own, without members, and a transactional id.
                *_consuming(services.batcher, BATCHERS_GROUP, "prefix"),
            ]
        )
    )


def _of_endpoint_services(who: Sequence[str]) -> Iterable[Right]:
    yield from _consuming(who, ENDPOINTS_GROUP, "literal")
    # `infer` is no namespace of anybody's: all that begins so is ours.
    yield from may(who, REQUESTS, "write", pattern="prefix")
    # How far workers are says how much more a namespace may send.
    yield from may(who, WORKERS_GROUPS, "describe", resource="group", pattern="prefix")
    yield from may(who, CALIBRATIONS_TOPIC, "read")
    yield from may(who, ROUTED_TOPIC, "read")
    yield from may(who, USAGE_TOPIC, "write")
    yield from may(who, AUDIT_TOPIC, "write")


def _of_workers(who: Sequence[str], sizes: Sequence[str]) -> Iterable[Right]:
    yield from _consuming(who, WORKERS_GROUPS, "prefix")
    yield from may(who, REQUESTS, "read", pattern="prefix")
    # Not all of `gw.infer.`: a worker must not be able to write requests.
    for size in sizes:
        for lane in LANES:
            yield from may(who, dead_letter_topic(request_topic(size, lane)), "write")
    yield from may(who, CALIBRATIONS_TOPIC, "read", "write")
    yield from may(who, writer_of(CALIBRATIONS_TOPIC), "write", resource="transactional id")
    yield from may(who, ROUTED_TOPIC, "write")
    yield from may(who, USAGE_TOPIC, "write")
    yield from may(who, AUDIT_TOPIC, "write")


def _of_trainers(who: Sequence[str]) -> Iterable[Right]:
    yield from _consuming(who, TRAINERS_GROUP, "literal")
    yield from may(who, AUDIT_TOPIC, "write")


def _of_targets(who: Sequence[str]) -> Iterable[Right]:
    yield from _consuming(who, TARGETS_GROUP, "literal")
    # What it sees it reads: a catalogue, and biases of labels, are read together.
    yield from may(who, CALIBRATIONS_TOPIC, "read")
    yield from may(who, HELD_WEBHOOKS_TOPIC, "read", "write")


def _of_stewards(who: Sequence[str]) -> Iterable[Right]:
    yield from _consuming(who, STEWARD_GROUP, "literal")
    yield from may(who, AUDIT_TOPIC, "write")
    # What it sees it reads: a catalogue, and biases of labels, are read together.
    yield from may(who, CALIBRATIONS_TOPIC, "read")
    yield from may(who, KEYS_TOPIC, "read")
    yield from may(who, EVERY_TOPIC, "create", "describe", pattern="prefix")
    yield from may(who, CLUSTER, "alter", "describe", resource="cluster")


def _consuming(who: Sequence[str], group: str, pattern: Pattern) -> Iterable[Right]:
    """A pipeline reads in this group, and has a transactional id for each partition of what it reads."""
    yield from may(who, group, "read", resource="group", pattern=pattern)
    yield from may(
        who, group if pattern == "prefix" else f"{group}.", "write", resource="transactional id", pattern="prefix"
    )
