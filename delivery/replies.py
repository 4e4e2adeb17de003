"""A Reply → the records that carry it. Each is a CloudEvent in binary mode as well."""

from __future__ import annotations

from collections.abc import Sequence

from guideway.delivery.settings import MAX_RECORD_BYTES
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.names import header
from guideway.schemas.names.addresses import endpoint_address
from guideway.schemas.names.content_types import PROTOBUF, REPLY_MESSAGE
from guideway.schemas.protobuf.replies import reply_message, reply_of
from guideway.schemas.record import Outgoing, Record
from guideway.schemas.reply import Completed, Failed, Reply
from guideway.schemas.request import ReplyAddress
from guideway.schemas.wire import REPLY, Undecodable


def reply_records(
    reply: Reply,
    addresses: Sequence[ReplyAddress],
    record: Record,
    *,
    message: str | None = None,
    written: bytes = b"",
) -> list[Outgoing]:
    """One record for each address, with the key of `record`, and its correlation and trace headers byte for byte.

    message: the Protobuf message that the first address gets, which is the caller's; the others get JSON, as it does
    where this is None. written: that message, where it is not ours; a failed reply is always ours.

    Where a completed reply is too large, the first address gets a failed reply, and the others get nothing.
    """
    addresses = distinct(addresses)
    value = REPLY.encode(reply)
    callers, callers_type = value, "application/json"
    if message is not None:
        is_ours = isinstance(reply, Failed) or message == REPLY_MESSAGE
        callers = reply_message(reply).SerializeToString() if is_ours else written
        callers_type = f"{PROTOBUF}; messageType={REPLY_MESSAGE if is_ours else message}"
    id_, is_completed = reply.id.encode(), isinstance(reply, Completed)
    more: list[tuple[str, bytes]] = [
        (header.REQUEST_ID, id_),
        (header.STATUS, b"completed" if is_completed else b"failed"),
        ("ce_specversion", b"1.0"),
        ("ce_id", id_),
        ("ce_source", endpoint_address(reply.namespace, reply.endpoint).encode()),
        ("ce_type", b"guideway.reply.completed.v1" if is_completed else b"guideway.reply.failed.v1"),
    ]
    if isinstance(reply, Failed):
        more.append((header.FAILURE_CODE, reply.code.value.encode()))
    echoed = record.headers_named(header.ECHOED_HEADERS)

    def outgoing(address: ReplyAddress, value: bytes, content_type: str) -> Outgoing:
        headers = [*echoed, (header.CONTENT_TYPE, content_type.encode()), *more]
        return Outgoing(topic=address.topic, partition=address.partition, key=record.key, value=value, headers=headers)

    records = [outgoing(address, callers, callers_type) for address in addresses[:1]]
    records += [outgoing(address, value, "application/json") for address in addresses[1:]]
    largest = max((out.size_bytes for out in records), default=0)
    if largest > MAX_RECORD_BYTES and isinstance(reply, Completed):
        refusal = Refusal(
            FailureCode.REPLY_TOO_LARGE,
            f"the reply has {largest} bytes, {MAX_RECORD_BYTES} can be sent: "
            + shorter(records[0], "lower the endpoint's max_tokens or samples"),
        )
        too_large = failed(reply.id, reply.namespace, reply.endpoint, refusal)
        return reply_records(too_large, addresses[:1], record, message=message)
    return records


def reply_in(record: Record | Outgoing) -> Reply:
    """The reply in a record of a reply topic, in JSON or in Protobuf. Raises Undecodable."""
    given = [value for name, value in record.headers if name == header.CONTENT_TYPE and value is not None]
    return reply_from(record.value, (given[-1] if given else b"").decode("utf-8", "replace"))


def reply_from(value: bytes | None, content_type: str) -> Reply:
    """The reply in the value of such a record. Raises Undecodable."""
    media, _, parameters = content_type.partition(";")
    if media.strip() != PROTOBUF:
        return REPLY.decode(value)
    if parameters.strip() != f"messageType={REPLY_MESSAGE}":
        raise Undecodable(f"it is a message of the endpoint's own ({parameters.strip()[:100]}), as its caller wants it")
    return reply_of(value or b"")


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
    if len(addresses) == 1:
        return [*addresses]
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
