"""Every topic, header, group and client name of guideway. No other file spells one out."""

from __future__ import annotations

import os
import re
from typing import Final, Literal

NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""A namespace, endpoint, guidance or model-size name. It has no dots, so that topics cannot collide."""

Lane = Literal["interactive", "batch"]
LANES: Final[tuple[Lane, ...]] = ("interactive", "batch")

# Topics --------------------------------------------------------------------------------------------------------------

CATALOGUE_TOPIC: Final = "gw.catalogue.v1"
EVENT_TOPICS: Final = r"^gw\.[a-z0-9-]+\.[a-z0-9-]+\.in\.v1$"
"""Pattern of all endpoint topics, for a consumer's subscription."""


TRAINING_JOBS_TOPIC: Final = "gw.training.jobs.v1"
TRAINING_EVENTS_TOPIC: Final = "gw.training.events.v1"
"""What happens to jobs. One partition, so that all who watch see the events in order."""
TRAINING_CANCEL_TOPIC: Final = "gw.training.cancel.v1"
"""Ids of cancelled jobs. One partition, compacted."""


def event_topic(namespace: str, endpoint: str) -> str:
    """Where events for the endpoint `/NAMESPACE/ENDPOINT` are published."""
    return f"gw.{namespace}.{endpoint}.in.v1"


def reply_topic(namespace: str, endpoint: str) -> str:
    """Where replies go when the caller names no other topic."""
    return f"gw.{namespace}.{endpoint}.out.v1"


def request_topic(size: str, lane: str) -> str:
    """Where the marshalled requests of one model size and lane wait for its workers."""
    return f"gw.infer.{size}.{lane}.v1"


def lane_of_topic(topic: str) -> Lane:
    """The lane of a request topic; of any other topic it is `interactive`."""
    match topic.split("."):
        case ["gw", "infer", _, "batch", "v1"]:
            return "batch"
    return "interactive"


def size_of_request_topic(topic: str) -> str | None:
    """The model size of a request topic; None for any other topic."""
    match topic.split("."):
        case ["gw", "infer", size, lane, "v1"] if lane in LANES:
            return size
    return None


def cancellation_topic(size: str) -> str:
    """Where every worker of one model size reads which requests were cancelled. One partition."""
    return f"gw.infer.{size}.cancel.v1"


def dead_letter_topic(topic: str) -> str:
    """Where a record of `topic` goes if it can be neither processed nor answered."""
    return f"{topic}.dlq"


def topic_of_dead_letters(topic: str) -> str | None:
    """The topic whose dead letters `topic` holds; None if it is no dead-letter topic of ours."""
    return topic.removesuffix(".dlq") if topic.startswith("gw.") and topic.endswith(".dlq") else None


def endpoint_of_topic(topic: str) -> tuple[str, str] | None:
    """(namespace, endpoint) of an endpoint's event topic, or None for any other topic."""
    match topic.split("."):
        case ["gw", namespace, endpoint, "in", "v1"]:
            return namespace, endpoint
    return None


def endpoint_of_reply_topic(topic: str) -> tuple[str, str] | None:
    """(namespace, endpoint) of an endpoint's own reply topic, or None for any other topic."""
    match topic.split("."):
        case ["gw", namespace, endpoint, "out", "v1"]:
            return namespace, endpoint
    return None


def is_reply_topic_of(topic: str, namespace: str) -> bool:
    """Whether a caller of `namespace` may have replies sent to `topic`: `gw.NAMESPACE.ANYTHING.out.v1` only.

    Anything wider would let a caller use our rights to write where it may not (a confused deputy).
    """
    match topic.split("."):
        case ["gw", owner, name, "out", "v1"]:
            return owner == namespace and NAME.fullmatch(name) is not None
    return False


def address(namespace: str, endpoint: str) -> str:
    """The endpoint's address as people write it."""
    return f"/{namespace}/{endpoint}"


RESERVED_NAMESPACES: Final = frozenset({"infer", "catalogue", "training"})
"""A topic of an endpoint in one of these would look like one of ours."""

# Consumer groups, transactions, clients ------------------------------------------------------------------------------

ENDPOINTS_GROUP: Final = "gw.endpoints"
DEAD_LETTER_REPLAY_GROUP: Final = "gw.dlq.replay"
"""Its committed offsets say which dead letters were replayed; it has no members."""


CATALOGUE_WRITER: Final = "gw.catalogue.writer"
"""The transactional id of every process that plans versions in the catalogue and writes them."""

TRAINERS_GROUP: Final = "gw.trainers"
"""The consumer group of all trainers."""


def workers_group(size: str) -> str:
    """The consumer group of all workers of one model size."""
    return f"gw.workers.{size}"


def transactional_id(group: str, topic: str, partition: int) -> str:
    """One id for each *input partition*. It is the lock under which that partition's results and offset are written."""
    return f"{group}.{topic}.{partition}"


def client_id(role: str, token: int | None = None) -> str:
    """`guideway-ROLE-PID`: by the process id the caretaker of an embedded broker sees that a member is dead.

    token: identifies a pipeline among the members of its group.
    """
    name = f"guideway-{role}-{os.getpid()}"
    return name if token is None else f"{name}.{token:x}"


CLIENT_ID: Final = re.compile(r"guideway-[a-z-]+-(?P<pid>\d+)(?:\.(?P<token>[0-9a-f]{8,9}))?")


def token_of_client_id(text: str) -> int | None:
    """The token in a client id of ours, or None."""
    named = CLIENT_ID.fullmatch(text)
    return int(named["token"], 16) if named and named["token"] else None


# Headers: text in UTF-8 unless stated ---------------------------------------------------------------------------------

CORRELATION_ID: Final = "correlation_id"
REPLY_TO: Final = "reply_to"
DEADLINE: Final = "deadline"
"""Unix time in milliseconds, or RFC 3339 with an offset."""
GUIDANCE: Final = "guidance"
"""Guidance that the event names: `NAMESPACE/NAME[@VERSION]`, separated by commas."""
CONTENT_TYPE: Final = "content-type"
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
REQUEST_ID: Final = "request_id"
CANCEL: Final = "cancel"
"""On an event without a value: the id of the request to cancel."""
STATUS: Final = "guideway_status"
"""On replies: `completed` or `failed`."""
FAILURE_CODE: Final = "guideway_failure_code"

SPRING_CORRELATION_ID: Final = "kafka_correlationId"
"""Opaque bytes."""
SPRING_REPLY_TOPIC: Final = "kafka_replyTopic"
SPRING_REPLY_PARTITION: Final = "kafka_replyPartition"
"""Four bytes, big-endian."""

SMALLRYE_CORRELATION_ID: Final = "REPLY_CORRELATION_ID"
SMALLRYE_REPLY_TOPIC: Final = "REPLY_TOPIC"
SMALLRYE_REPLY_PARTITION: Final = "REPLY_PARTITION"

REPLY_TOPIC_HEADERS: Final = (REPLY_TO, SPRING_REPLY_TOPIC, SMALLRYE_REPLY_TOPIC)
"""The first header that is there counts."""
REPLY_PARTITION_HEADERS: Final = (SPRING_REPLY_PARTITION, SMALLRYE_REPLY_PARTITION)
"""The first header that is there counts: four bytes, big-endian, or decimal digits as NestJS writes them."""

CLOUD_EVENT_PREFIX: Final = "ce_"
CLOUD_EVENT_SOURCE: Final = "ce_source"
"""On replies: the endpoint's address."""
CLOUD_EVENT_STRUCTURED: Final = "application/cloudevents"

ECHOED_HEADERS: Final = frozenset(
    {CORRELATION_ID, SPRING_CORRELATION_ID, SMALLRYE_CORRELATION_ID, TRACEPARENT, TRACESTATE}
)
"""Copied byte for byte from event to request to reply, repeated and empty ones included."""

DEAD_LETTER_PREFIX: Final = "guideway_dlq_"
CONNECT_ERROR_PREFIX: Final = "__connect.errors."
