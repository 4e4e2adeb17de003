"""A reply → the record by which `guideway targets` learns of it, where an endpoint's results leave Kafka. Pure."""

from __future__ import annotations

import msgspec

from guideway.delivery.settings import MAX_RECORD_BYTES
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.service_topics import results_topic
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.reply import Completed, Reply
from guideway.schemas.services.leaving import Result
from guideway.schemas.wire import RESULT


def leaving(reply: Reply, endpoint: Endpoint, version: int, record: Record, *, text: str | None) -> list[Outgoing]:
    """The record, or none. record: of whose result this is; its key comes along.

    What is too large for one record goes without its text, and else without its reply, rather than not at all.
    """
    completed, rule = isinstance(reply, Completed), endpoint.archived
    if not (endpoint.webhooks or (completed and rule is not None)):
        return []
    keeps = completed and rule is not None and rule.text
    result = Result(
        reply=reply,
        id=reply.id,
        endpoint=endpoint.name,
        endpoint_version=version,
        completed=completed,
        text=text if keeps else None,
    )
    topic = results_topic(endpoint.namespace)
    out = Outgoing(topic=topic, key=record.key, value=RESULT.encode(result))
    if out.size_bytes > MAX_RECORD_BYTES:
        out = msgspec.structs.replace(out, value=RESULT.encode(msgspec.structs.replace(result, text=None)))
    if out.size_bytes > MAX_RECORD_BYTES:
        bare = RESULT.encode(msgspec.structs.replace(result, text=None, reply=None))
        out = msgspec.structs.replace(out, value=bare, key=None)
    return [out]
