"""The topics by which events, requests, replies and dead letters travel, and what the name of one says of it."""

from __future__ import annotations

from typing import Final, Literal

from guideway.schemas.names.addresses import CALL, NAME

EVERY_TOPIC: Final = "gw."
"""How all our topics begin."""
EVENT_TOPICS: Final = r"^gw\.[a-z0-9-]+\.(?:[a-z0-9-]+\.in|call|batch-call)\.v1$"
"""Pattern of all endpoint topics and general addresses, for a consumer's subscription."""

Lane = Literal["interactive", "batch"]
LANES: Final[tuple[Lane, ...]] = ("interactive", "batch")


def event_topic(namespace: str, endpoint: str) -> str:
    """Where events for the endpoint `/NAMESPACE/ENDPOINT` are published."""
    return f"gw.{namespace}.{endpoint}.in.v1"


def endpoint_of_topic(topic: str) -> tuple[str, str] | None:
    """(namespace, endpoint) of an endpoint's event topic, or None for any other topic."""
    match topic.split("."):
        case ["gw", namespace, endpoint, "in", "v1"]:
            return namespace, endpoint
    return None


def call_topic(namespace: str) -> str:
    """The general address of a namespace: what it calls, also endpoints of others, is published here."""
    return f"gw.{namespace}.{CALL}.v1"


def batch_call_topic(namespace: str) -> str:
    """The general address of a namespace for work that may wait: all that comes by it goes to the batch lane.

    It has a topic of its own, so that a backlog of such work is in the way of no other call.
    """
    return f"gw.{namespace}.batch-call.v1"


def caller_of_topic(topic: str) -> str | None:
    """The namespace whose general address this topic is, of either lane, or None for any other topic."""
    match topic.split("."):
        case ["gw", namespace, "call" | "batch-call", "v1"]:
            return namespace
    return None


def lane_for(topic: str, lane: Lane) -> Lane:
    """The lane of an event from this topic to an endpoint of `lane`."""
    return "batch" if topic.endswith(".batch-call.v1") and caller_of_topic(topic) is not None else lane


def is_event_topic(topic: str) -> bool:
    """Whether events stand in this topic: of an endpoint, or of a general address."""
    return endpoint_of_topic(topic) is not None or caller_of_topic(topic) is not None


def sender_of_topic(topic: str) -> str:
    """The namespace whose events stand in this topic: of an endpoint, or of a general address."""
    found = endpoint_of_topic(topic)
    sender = found[0] if found is not None else caller_of_topic(topic)
    assert sender is not None, "the subscription's pattern admits topics of events only"
    return sender


def reply_topic(namespace: str, endpoint: str) -> str:
    """Where replies go when the caller names no other topic."""
    return f"gw.{namespace}.{endpoint}.out.v1"


def endpoint_of_reply_topic(topic: str) -> tuple[str, str] | None:
    """(namespace, endpoint) of an endpoint's own reply topic, or None for any other topic."""
    match topic.split("."):
        case ["gw", namespace, endpoint, "out", "v1"]:
            return namespace, endpoint
    return None


def own_reply_topic(topic: str) -> str:
    """Where replies to the events of this topic go, if their callers name no other topic."""
    found = endpoint_of_topic(topic)
    return reply_topic(*found) if found is not None else reply_topic(sender_of_topic(topic), CALL)


def is_reply_topic_of(topic: str, namespace: str) -> bool:
    """Whether a caller of `namespace` may have replies sent to `topic`: `gw.NAMESPACE.ANYTHING.out.v1` only.

    Anything wider would let a caller use our rights to write where it may not (a confused deputy).
    """
    match topic.split("."):
        case ["gw", owner, name, "out", "v1"]:
            return owner == namespace and NAME.fullmatch(name) is not None
    return False


def owner_of_gateway_replies(topic: str) -> str | None:
    """The namespace whose gateways are answered in this topic, or None for any other topic."""
    match topic.split("."):
        case ["gw", namespace, "gateway", "out", "v1"] if NAME.fullmatch(namespace):
            return namespace
    return None


def partial_topic(namespace: str, name: str) -> str:
    """Where text goes that a reply to `reply_topic(namespace, name)` will hold, while it is generated."""
    return f"gw.{namespace}.{name}.partial.v1"


def partial_topic_beside(replies: str) -> str:
    """The topic of pieces that belongs to this reply topic."""
    of = endpoint_of_reply_topic(replies)
    assert of is not None, "pieces go beside a reply topic"
    return partial_topic(*of)


def endpoint_of_partial_topic(topic: str) -> tuple[str, str] | None:
    """(namespace, name) of the reply topic beside which this topic of pieces stands, or None for any other topic."""
    match topic.split("."):
        case ["gw", namespace, name, "partial", "v1"]:
            return namespace, name
    return None


def owner_of_gateway_partials(topic: str) -> str | None:
    """The namespace to whose gateways this topic tells text while it is generated, or None for any other topic."""
    match topic.split("."):
        case ["gw", namespace, "gateway", "partial", "v1"] if NAME.fullmatch(namespace):
            return namespace
    return None


REQUESTS: Final = "gw.infer."
"""How all request topics begin; no namespace is called `infer`."""


def request_topic(size: str, lane: str) -> str:
    """Where the marshalled requests of one model size and lane wait for its workers."""
    return f"gw.infer.{size}.{lane}.v1"


def size_of_request_topic(topic: str) -> str | None:
    """The model size of a request topic; None for any other topic."""
    match topic.split("."):
        case ["gw", "infer", size, lane, "v1"] if lane in LANES:
            return size
    return None


def lane_of_topic(topic: str) -> Lane:
    """The lane of a request topic; of any other topic it is `interactive`."""
    match topic.split("."):
        case ["gw", "infer", _, "batch", "v1"]:
            return "batch"
    return "interactive"


def cancellation_topic(size: str) -> str:
    """Where every worker of one model size reads which requests were cancelled. One partition."""
    return f"gw.infer.{size}.cancel.v1"


def dead_letter_topic(topic: str) -> str:
    """Where a record of `topic` goes if it can be neither processed nor answered."""
    return f"{topic}.dlq"


def topic_of_dead_letters(topic: str) -> str | None:
    """The topic whose dead letters `topic` holds; None if it is no dead-letter topic of ours."""
    return topic.removesuffix(".dlq") if topic.startswith("gw.") and topic.endswith(".dlq") else None


def trial_topics(namespace: str, endpoint: str) -> list[str]:
    """The topics of a trial, which go when its replay is over."""
    events = event_topic(namespace, endpoint)
    return [events, dead_letter_topic(events), reply_topic(namespace, endpoint)]
