"""What a gRPC call asks: metadata and the message `guideway.v1.Event` → a `Call`. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from google.protobuf.message import Message
from starlette.datastructures import Headers

from guideway.producers.events.protobuf.weighing import MOST_VALUES
from guideway.producers.events.read_event import GUIDANCE_FORM, no_guidance
from guideway.producers.gateway.call import Call, id_after
from guideway.producers.gateway.http.asked import idempotency_key, trace
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.generation import AskedGeneration
from guideway.schemas.names import header
from guideway.schemas.names.addresses import ADDRESS

REQUEST_ID: Final = "x-request-id"
MAX_DEADLINE_S: Final = 1e9
"""A deadline further off than this is one that far off: clients write years for `never`."""
_MOST_NAME_CHARS: Final = 500
"""Of a message's type: it stands in a content type, which is read to some length only."""
_EXACT: Final = 2**53
"""From here on a double does not hold every integer."""


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the metadata of a call, of what is read there."""

    authorization: tuple[str, ...] = ()
    api_key: tuple[str, ...] = ()
    request_id: str | None = None
    idempotency_key: str | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    """The trace context."""


def read_metadata(given: Iterable[tuple[str, str | bytes]]) -> Metadata:
    """The metadata of a call, which say what the same headers say over HTTP. Other names are not read.

    Raises: Refusal(invalid_header); DoorRefusal(bad_request).
    """
    headers = Headers(raw=[(name.encode(), one.encode() if isinstance(one, str) else one) for name, one in given])
    ids = headers.getlist(REQUEST_ID)
    if len(set(ids)) > 1:
        raise Refusal(FailureCode.INVALID_HEADER, f"metadata {REQUEST_ID} is there twice: send it once")
    return Metadata(
        authorization=tuple(headers.getlist("authorization")),
        api_key=tuple(headers.getlist("x-api-key")),
        request_id=ids[0] if ids else None,
        idempotency_key=idempotency_key(headers, "metadata idempotency-key"),
        headers=trace(headers),
    )


def deadline_ms(remaining_s: float | None, now_ms: int) -> int | None:
    """The event's deadline, of what time the call has left. None: the call has no deadline."""
    return None if remaining_s is None else now_ms + int(min(remaining_s, MAX_DEADLINE_S) * 1000)


def call_of(event: Any, metadata: Metadata, *, namespace: str, deadline: int | None, partial: bool = False) -> Call:
    """The call for a `guideway.v1.Event`.

    namespace: the caller's. deadline: Unix milliseconds.
    Raises Refusal: undecodable_event, wrong_field, invalid_header, unknown_endpoint.
    """
    content, content_type = _content(event)
    if event.id and metadata.request_id not in {None, event.id}:
        raise Refusal(
            FailureCode.INVALID_HEADER, f"the event has an `id`, and the metadata {REQUEST_ID} is another: send one"
        )
    if event.id and metadata.idempotency_key is not None:
        raise Refusal(
            FailureCode.INVALID_HEADER,
            "the event has an `id`, and the metadata an idempotency-key: each names the work, so send one",
        )
    if (wrong := no_guidance(",".join(event.guidance))) is not None:
        raise Refusal(
            FailureCode.WRONG_FIELD, f"field 'guidance' has {wrong!r}, which is no name: write {GUIDANCE_FORM}"
        )
    headers = metadata.headers
    if event.HasField("generation"):
        headers = (*headers, (header.GENERATION, msgspec.json.encode(_generation(event.generation))))
    return Call(
        namespace=namespace,
        address=address_of(event.endpoint),
        content=content,
        content_type=content_type,
        request_id=event.id or id_after(metadata.request_id),
        idempotency_key=metadata.idempotency_key,
        keep=bool(event.id),
        deadline_ms=deadline,
        guidance=tuple(event.guidance),
        partial=partial,
        headers=headers,
    )


def address_of(endpoint: str) -> str | None:
    """`/NAMESPACE/NAME`; None for none: the router decides. Raises Refusal(unknown_endpoint)."""
    if not endpoint:
        return None
    address = endpoint if endpoint.startswith("/") else f"/{endpoint}"
    if not ADDRESS.fullmatch(address):
        raise Refusal(FailureCode.UNKNOWN_ENDPOINT, f"{endpoint[:150]!r} is no endpoint: write /NAMESPACE/NAME")
    return address


def _content(event: Any) -> tuple[bytes, str]:
    """(the event's value, its content type)."""
    match event.WhichOneof("content"):
        case "fields":
            return msgspec.json.encode(plain(event.fields)), "application/json"
        case "json":
            return event.json.encode(), "application/json"
        case "text":
            return event.text.encode(), "text/plain"
        case "message":
            name = event.message.type_url.rpartition("/")[2]
            if not name or not name.replace(".", "").replace("_", "").isalnum():
                raise Refusal(
                    FailureCode.UNDECODABLE_EVENT,
                    "`message` has no type: pack the message into the Any, so that `type_url` names it",
                )
            if len(name) > _MOST_NAME_CHARS:
                raise Refusal(
                    FailureCode.UNDECODABLE_EVENT,
                    f"the type of `message` has {len(name)} characters, and {_MOST_NAME_CHARS} are read: shorten it",
                )
            return event.message.value, f"application/protobuf; messageType={name}"
    raise Refusal(FailureCode.UNDECODABLE_EVENT, "the event has no content: set `fields`, `json`, `text` or `message`")


def plain(struct: Any) -> dict[str, Any]:
    """The fields of a `google.protobuf.Struct`; its whole numbers are integers.

    Raises Refusal: wrong_field; undecodable_event for more values than an event may have.
    """
    left = iter(range(MOST_VALUES))
    return {name: _plain(value, name, left) for name, value in struct.fields.items()}


def _plain(value: Any, place: str, left: Iterator[int]) -> Any:
    """left: has one for each further value that there may be."""
    if next(left, None) is None:
        raise Refusal(
            FailureCode.UNDECODABLE_EVENT, f"`fields` have more than {MOST_VALUES} values: send less in one event"
        )
    match value.WhichOneof("kind"):
        case "number_value":
            return _number(value.number_value, place)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "list_value":
            return [_plain(inner, f"{place}[{at}]", left) for at, inner in enumerate(value.list_value.values)]
        case "struct_value":
            return {name: _plain(inner, f"{place}.{name}", left) for name, inner in value.struct_value.fields.items()}
        case "null_value":
            return None
    raise Refusal(FailureCode.WRONG_FIELD, f"field {place[:150]!r} is a Value without a kind: give it one")


def _number(number: float, place: str) -> int | float:
    if not math.isfinite(number):
        raise Refusal(FailureCode.WRONG_FIELD, f"field {place[:150]!r} is {number}, which is no number of JSON's")
    if not number.is_integer():
        return number
    if abs(number) >= _EXACT:
        shown = f"{number:.0f}" if abs(number) < 1e20 else f"{number:g}"
        raise Refusal(
            FailureCode.WRONG_FIELD,
            f"field {place[:150]!r} is {shown}, and an integer as large may be rounded already, as a Struct has "
            "doubles: send the fields in `json`",
        )
    return int(number)


def _generation(message: Message) -> dict[str, Any]:
    """The fields that are set. Raises Refusal(wrong_field) for a value that no endpoint can have."""
    given = {field.name: list(value) if field.is_repeated else value for field, value in message.ListFields()}
    for name, value in given.items():
        try:
            # As JSON, which has no NaN.
            msgspec.json.decode(msgspec.json.encode({name: value}), type=AskedGeneration)
        except msgspec.ValidationError as error:
            why = str(error).partition(" - at ")[0]
            raise Refusal(FailureCode.WRONG_FIELD, f"field 'generation.{name}' is out of bounds ({why})") from None
    return given
