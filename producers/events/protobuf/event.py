"""The value of an event in Protobuf → its fields, by the endpoint's input rule. Pure."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from guideway.catalogue.protobuf.message_type import MessageType, message_type
from guideway.producers.events.protobuf.framing import declared_message, without_frame
from guideway.producers.events.protobuf.reading import read_message
from guideway.producers.events.protobuf.weighing import TooMuch, check_weight
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import InputRule
from guideway.schemas.names import header

_FIRST_TEXT: Final = 0x20
"""Texts that begin with a byte below this are rare, and so do most messages."""


def message_fields(value: bytes, content_type: str, rule: InputRule | None) -> dict[str, Any]:
    """The fields of an event that is declared as Protobuf, or has the frame of it.

    rule: of its endpoint; None: that is not known. Raises Refusal: undecodable_event, missing_field, wrong_field.
    """
    if rule is None:
        raise _refused(
            f"an event in Protobuf needs an endpoint that says what message it is: name one in the header "
            f"{header.ENDPOINT}, or send JSON"
        )
    kind = _declared(rule)
    if kind is None:
        raise _refused(
            "this endpoint takes no Protobuf: send JSON, or have its manifest say `input: {format: protobuf, message: "
            "PACKAGE.MESSAGE, descriptors: FILE}`"
        )
    named = declared_message(content_type)
    if named and named != kind.name:
        raise _refused(
            f"the content type names message {named[:200]!r}, and this endpoint takes {kind.name}: send that"
        )
    return read_message(without_frame(value, kind.indexes, kind.name), kind, frozenset(rule.fields))


def is_framed(value: bytes, rule: InputRule | None) -> bool:
    """Whether an event without a content type has the frame of a schema registry, with a message in it.

    rule: of its endpoint. JSON in such a frame begins with a brace or a quotation mark, which no message indexes do.
    """
    return (
        rule is not None
        and rule.format == "protobuf"
        and value[:1] == b"\0"
        and value[:2] != b"\0{"
        and value[5:6] not in {b"{", b'"'}
    )


def check_undeclared(value: bytes, rule: InputRule | None) -> None:
    """Raises Refusal(undecodable_event) for what would be read as text, and is the endpoint's message as well."""
    if rule is None or not value or value[0] >= _FIRST_TEXT or (kind := _declared(rule)) is None:
        return
    try:
        check_weight(value, kind)
        message = kind.factory.FromString(value)
    except (DecodeError, TooMuch):
        return
    if message.ListFields() and not len(UnknownFieldSet(message)):
        raise _refused(
            f"the value has no content type, and may be a message {kind.name}: declare application/protobuf, or "
            "text/plain if it is text"
        )


def _declared(rule: InputRule) -> MessageType | None:
    if rule.format != "protobuf":
        return None
    try:
        return message_type(rule.descriptors, rule.message)
    except ValueError as error:
        raise Refusal(
            FailureCode.UNDECODABLE_EVENT,
            f"the endpoint's descriptors cannot be used ({error})",
            to_others="the endpoint's descriptors cannot be used: send JSON, or tell its owner",
        ) from None


def _refused(message: str) -> Refusal:
    return Refusal(FailureCode.UNDECODABLE_EVENT, message)
