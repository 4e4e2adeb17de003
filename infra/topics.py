"""The topics that manifests and namespaces need, each with its partitions and settings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from guideway.delivery.settings import MAX_READ_BYTES
from guideway.schemas.kinds.router import Router
from guideway.schemas.kinds.targets import Target
from guideway.schemas.manifests import Endpoint, Manifest, Model
from guideway.schemas.names.addresses import BATCH_REPLIES, CALL, GATEWAY, PUBLIC
from guideway.schemas.names.service_topics import (
    CALIBRATIONS_TOPIC,
    HELD_WEBHOOKS_TOPIC,
    KEYS_TOPIC,
    ROUTED_TOPIC,
    USAGE_TOPIC,
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
    LANES,
    batch_call_topic,
    call_topic,
    cancellation_topic,
    dead_letter_topic,
    event_topic,
    partial_topic,
    reply_topic,
    request_topic,
)
from guideway.schemas.services.accepted import KEPT_S, PARTIAL_KEPT_S
from guideway.schemas.services.cancellation import HELD_S
from guideway.schemas.services.leaving import DELAYS_S

DEAD_LETTER_RETENTION_MS: Final = 30 * 24 * 3600 * 1000
"""People need time to look at dead letters. Kafka's default is 7 days."""

COMPACTED: Final = {"cleanup.policy": "compact"}
CANCELLATION_CONFIGS: Final = {
    "retention.ms": str(HELD_S * 1000),
    # Only whole segments go: without this a worker that starts would read a week of them.
    "segment.ms": str(HELD_S * 1000 // 4),
}


@dataclass(frozen=True)
class TopicDefinition:
    """A topic as it should be created. What `configs` does not name is left to the cluster."""

    name: str
    partitions: int = 1
    configs: Mapping[str, str] = field(default_factory=dict)

    def configs_at(self, replication: int) -> dict[str, str]:
        """The settings on a cluster that keeps so many copies: with three, a write is safe once two have it."""
        safe = {"min.insync.replicas": "2"} if replication >= 3 else {}
        return {"max.message.bytes": str(MAX_READ_BYTES)} | safe | dict(self.configs)


CALIBRATIONS: Final = TopicDefinition(CALIBRATIONS_TOPIC, configs=COMPACTED)
KEYS: Final = TopicDefinition(KEYS_TOPIC, configs=COMPACTED)
ROUTED: Final = TopicDefinition(ROUTED_TOPIC, configs={"retention.ms": str(3600 * 1000)})
"""Nobody waits for an answer for longer."""
USAGE: Final = TopicDefinition(USAGE_TOPIC, configs={"retention.ms": str(3600 * 1000)})


HELD_WEBHOOKS: Final = TopicDefinition(HELD_WEBHOOKS_TOPIC, configs=COMPACTED)
RESULTS_PARTITIONS: Final = 3
RESULTS_RETENTION_MS: Final = 7 * 24 * 3600 * 1000
"""So long may `guideway targets` stand still. What is archived from there stays there as long, erased or not."""
DELIVERIES_RETENTION_MS: Final = 14 * 24 * 3600 * 1000
"""Longer than the last attempt waits."""


BATCH_RETENTION_MS: Final = 30 * 24 * 3600 * 1000
"""So long a batch job can be listed. It has ended long before."""
BATCH_NEWS_CONFIGS: Final = {
    "cleanup.policy": "compact,delete",
    # Longer than its job is listed, for which Kafka may take a segment more: without its end it would seem to wait.
    "retention.ms": str(2 * BATCH_RETENTION_MS),
    # Only segments that are over are compacted, and each job tells how far it is every second.
    "segment.ms": str(600 * 1000),
}


def catalogues(namespaces: Iterable[str]) -> list[TopicDefinition]:
    """The topics of the catalogue: that of the platform, and those of these namespaces."""
    owners = [PUBLIC, *sorted({*namespaces} - {PUBLIC})]
    return [TopicDefinition(catalogue_topic(owner), configs=COMPACTED) for owner in owners]


def wanted(manifests: Iterable[Manifest]) -> list[TopicDefinition]:
    """All topics that these manifests need, the catalogue's first; the same topic is listed once."""
    manifests = list(manifests)
    found = catalogues(manifest.namespace for manifest in manifests)
    targets: list[TopicDefinition] = []
    for manifest in manifests:
        found += own(manifest)
        match manifest:
            case Endpoint(namespace=namespace, partitions=partitions):
                own_replies = [reply_topic(namespace, to) for to in sorted(manifest.own_targets)]
                targets += [TopicDefinition(topic, partitions) for topic in own_replies]
                found += leaving(namespace) if manifest.leaves else []
                found += shadows(namespace) if manifest.shadow is not None else []
            case Target(namespace=namespace, name=name, partitions=partitions):
                targets.append(TopicDefinition(reply_topic(namespace, name), partitions))
    for owner in dict.fromkeys(one.namespace for one in manifests if isinstance(one, Endpoint | Router)):
        found += calls(owner)
    # A target that is an endpoint itself has said how many partitions it wants.
    by_name: dict[str, TopicDefinition] = {}
    for definition in found + targets:
        by_name.setdefault(definition.name, definition)
    return list(by_name.values())


def own(manifest: Manifest) -> list[TopicDefinition]:
    """The topics that this manifest alone brings, which its namespace has for nothing else."""
    match manifest:
        case Endpoint(namespace=namespace, name=name, partitions=partitions):
            events = with_dead_letters(event_topic(namespace, name), partitions)
            replies = TopicDefinition(reply_topic(namespace, name), partitions)
            pieces = TopicDefinition(partial_topic(namespace, name), partitions, _kept(PARTIAL_KEPT_S))
            return [*events, replies, *([pieces] if manifest.partial else [])]
        case Model(name=size, partitions=partitions):
            requests = [with_dead_letters(request_topic(size, lane), partitions) for lane in LANES]
            cancelled = TopicDefinition(cancellation_topic(size), configs=CANCELLATION_CONFIGS)
            return [CALIBRATIONS, ROUTED, USAGE, *(topic for lane in requests for topic in lane), cancelled]
    return []


def calls(namespace: str, partitions: int = 1) -> list[TopicDefinition]:
    """The general address of a namespace, and where its replies go: those of callers, and those of gateways."""
    return [
        *with_dead_letters(call_topic(namespace), partitions),
        TopicDefinition(reply_topic(namespace, CALL), partitions),
        *gateways(namespace),
    ]


def gateways(namespace: str) -> list[TopicDefinition]:
    """The topics over which gateways call for a namespace, and find again what they have accepted."""
    return [
        TopicDefinition(reply_topic(namespace, GATEWAY), configs=_kept(KEPT_S)),
        TopicDefinition(partial_topic(namespace, GATEWAY), configs=_kept(PARTIAL_KEPT_S)),
        # For as long as nobody should be told that an accepted request is unknown.
        TopicDefinition(accepted_topic(namespace), configs=_kept(2 * KEPT_S)),
    ]


def _kept(seconds: int) -> dict[str, str]:
    # Only whole segments go.
    return {"retention.ms": str(seconds * 1000), "segment.ms": str(seconds * 1000 // 8)}


def leaving(namespace: str) -> list[TopicDefinition]:
    """Where results of a namespace leave Kafka from, and the notes of the service that takes them away."""
    configs = {"retention.ms": str(RESULTS_RETENTION_MS)}
    waiting = {"retention.ms": str(DELIVERIES_RETENTION_MS)}
    return [
        *with_dead_letters(results_topic(namespace), RESULTS_PARTITIONS, configs),
        *with_dead_letters(deliveries_topic(namespace), len(DELAYS_S), waiting),
        HELD_WEBHOOKS,
    ]


def training(namespace: str, partitions: int = 8) -> list[TopicDefinition]:
    """The topics of a namespace's training jobs. partitions: of the topic of jobs: so many run at a time."""
    return [
        *with_dead_letters(training_topic(namespace), partitions),
        TopicDefinition(training_events_topic(namespace)),
        TopicDefinition(training_cancel_topic(namespace), configs=COMPACTED),
    ]


def batches(namespace: str, partitions: int = 3) -> list[TopicDefinition]:
    """The topics of a namespace's batch jobs. partitions: so many batchers can share its jobs."""
    kept = {"retention.ms": str(BATCH_RETENTION_MS)}
    return [
        *with_dead_letters(batch_topic(namespace), partitions, kept),
        *with_dead_letters(batch_call_topic(namespace), partitions),
        TopicDefinition(reply_topic(namespace, BATCH_REPLIES), partitions),
        TopicDefinition(batch_events_topic(namespace), configs=BATCH_NEWS_CONFIGS),
        TopicDefinition(batch_cancel_topic(namespace), configs=BATCH_NEWS_CONFIGS),
    ]


def batches_of(manifests: Iterable[Manifest]) -> list[TopicDefinition]:
    """The topics of batch jobs of all namespaces that have endpoints."""
    owners = dict.fromkeys(one.namespace for one in manifests if isinstance(one, Endpoint))
    return [definition for owner in owners for definition in batches(owner)]


def shadows(namespace: str) -> list[TopicDefinition]:
    """What the shadows of a namespace's endpoints keep."""
    # Only segments that are over are compacted, and rows that are deleted should go.
    return [TopicDefinition(shadows_topic(namespace), configs=COMPACTED | {"segment.ms": str(3600 * 1000)})]


def with_dead_letters(topic: str, partitions: int, configs: Mapping[str, str] | None = None) -> list[TopicDefinition]:
    """A topic and the one of its dead letters."""
    retention = {"retention.ms": str(DEAD_LETTER_RETENTION_MS)}
    return [
        TopicDefinition(topic, partitions, configs or {}),
        TopicDefinition(dead_letter_topic(topic), configs=retention),
    ]
