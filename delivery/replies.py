"""A Reply → the records that carry it. Each is a CloudEvent in binary mode as well."""

from __future__ import annotations

from collections.abc import Sequence

from guideway.delivery.settings import MAX_RECORD_BYTES
from guideway.schemas import names
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.reply import Completed, Failed, Reply
from guideway.schemas.request import ReplyAddress
from guideway.schemas.wire import REPLY


def reply_records(reply: Reply, addresses: Sequence[ReplyAddress], record: Record) -> list[Outgoing]:
    """One record for each address, with the key of `record`, and its correlation and trace headers byte for byte.

    Where a completed reply is too large, the first address, which is the caller's, gets a failed reply, and the others
    get nothing.
    """
    addresses = distinct(addresses)
    value = REPLY.encode(reply)
    ours = {
        names.CONTENT_TYPE: "application/json",
        names.REQUEST_ID: reply.id,
        names.STATUS: "completed" if isinstance(reply, Completed) else "failed",
        "ce_specversion": "1.0",
        "ce_id": reply.id,
        "ce_source": names.address(reply.namespace, reply.endpoint),
        "ce_type": "guideway.reply.completed.v1" if isinstance(reply, Completed) else "guideway.reply.failed.v1",
    }
    if isinstance(reply, Failed):
        ours[names.FAILURE_CODE] = reply.code.value
    headers = [*record.headers_named(names.ECHOED_HEADERS), *((name, text.encode()) for name, text in ours.items())]
    records = [
        Outgoing(topic=address.topic, partition=address.partition, key=record.key, value=value, headers=headers)
        for address in addresses
    ]
    largest = max((out.size_bytes for out in records), default=0)
    if largest > MAX_RECORD_BYTES and isinstance(reply, Completed):
        refusal = Refusal(
            FailureCode.REPLY_TOO_LARGE,
            f"the reply has {largest} bytes, {MAX_RECORD_BYTES} can be sent: "
            + shorter(records[0], "lower the endpoint's max_tokens or samples"),
        )
        return reply_records(failed(reply.id, reply.namespace, reply.endpoint, refusal), addresses[:1], record)
    return records


def shorter(out: Outgoing, value: str) -> str:
    """What to make shorter in a record that is too large; `value`: what to say if its value takes most of the room."""
    beside = out.beside_bytes
    if beside <= out.size_bytes / 2:
        return value
    return f"{beside} of them are the event's own key and echoed headers, which come along: shorten these"


def distinct(addresses: Sequence[ReplyAddress]) -> list[ReplyAddress]:
    """The addresses in their order, each place once: a caller may name the topic of a target as well.

    An address without a partition is dropped where another names a partition of the same topic.
    """
    places: dict[str, list[ReplyAddress]] = {}
    for address in addresses:
        places.setdefault(address.topic, []).append(address)
    kept = {topic: {one for one in found if one.partition is not None} or found[:1] for topic, found in places.items()}
    return [one for one in dict.fromkeys(addresses) if one in kept[one.topic]]


def failed(request_id: str, namespace: str, endpoint: str, refusal: Refusal) -> Failed:
    """The reply that tells of a refusal."""
    return Failed(
        id=request_id,
        namespace=namespace,
        endpoint=endpoint,
        code=refusal.code,
        message=refusal.message,
        retryable=refusal.code.retryable,
    )
