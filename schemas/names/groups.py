"""Consumer groups, and the transactional ids of those who write for them."""

from __future__ import annotations

from typing import Final

from guideway.schemas.names.addresses import NAME, RESERVED_NAMESPACES
from guideway.schemas.names.service_topics import catalogue_topic

ENDPOINTS_GROUP: Final = "gw.endpoints"
DEAD_LETTER_REPLAY_GROUP: Final = "gw.dlq.replay"
TRAINERS_GROUP: Final = "gw.trainers"
"""The consumer group of all trainers."""
BATCHERS_GROUP: Final = "gw.batchers"
"""The consumer group of all batchers; the groups that keep how far each job is begin so."""
TARGETS_GROUP: Final = "gw.targets"
"""The consumer group of all services that post to webhooks and write archives."""
STEWARD_GROUP: Final = "gw.steward"
"""The consumer group of all stewards."""
WORKERS_GROUPS: Final = "gw.workers."
"""How the groups of all workers begin."""


def own_groups(namespace: str) -> str:
    """How the consumer groups and the transactional ids of a namespace's own programs begin."""
    return f"{namespace}."


def workers_group(size: str) -> str:
    """The consumer group of all workers of one model size."""
    return f"{WORKERS_GROUPS}{size}"


def replay_group(topic: str) -> str:
    """The group whose committed offsets say which dead letters of `topic` were replayed; it has no members.

    That of a namespace is its own, so that nobody of another can join it, and be in the way.
    """
    match topic.split("."):
        case ["gw", namespace, _, *_, "dlq"] if NAME.fullmatch(namespace) and namespace not in RESERVED_NAMESPACES:
            return f"{own_groups(namespace)}dlq.replay"
    return DEAD_LETTER_REPLAY_GROUP


def shadow_group(namespace: str, shadow: str) -> str:
    """The consumer group of those who carry out one shadow: of the namespace's own, for its team does."""
    return f"{own_groups(namespace)}shadow.{shadow}"


def batch_job_group(namespace: str, job: str) -> str:
    """Keeps how many pieces of a job are sent; nobody is a member. Whoever sends them has it as transactional id."""
    return f"{BATCHERS_GROUP}.{namespace}.{job}"


def transactional_id(group: str, topic: str, partition: int) -> str:
    """One id for each *input partition*. It is the lock under which that partition's results and offset are written."""
    return f"{group}.{topic}.{partition}"


def writer_of(topic: str) -> str:
    """The transactional id of every process that plans versions in this topic and writes them."""
    return f"{topic.removesuffix('.v1')}.writer"


def catalogue_writer(namespace: str) -> str:
    """The transactional id of every process that plans versions in a namespace's catalogue and writes them."""
    return writer_of(catalogue_topic(namespace))


def shadows_writer(namespace: str) -> str:
    """The transactional id of every process that says how far a shadow of the namespace is."""
    return f"{own_groups(namespace)}shadows.writer"
