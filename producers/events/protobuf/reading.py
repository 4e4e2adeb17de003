"""The bytes of a Protobuf message → fields as JSON has them, by field type: integers stay integers. Pure."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf import duration_pb2, json_format, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from guideway.catalogue.protobuf.message_type import MessageType
from guideway.producers.events.protobuf.weighing import TooMuch, check_weight
from guideway.producers.events.short_floats import short_float
from guideway.schemas.failures import FailureCode, Refusal

Converter = Callable[[Any], Any]
Made = dict[tuple[str, frozenset[str] | None], Converter]
"""Name of a message, fields that are wanted of it → its converter. Those of one set of descriptors."""
_KEPT: Final = 4096
_WRAPPERS: Final = frozenset(one.full_name for one in wrappers_pb2.DESCRIPTOR.message_types_by_name.values())
_TIMES: Final = frozenset({timestamp_pb2.Timestamp.DESCRIPTOR.full_name, duration_pb2.Duration.DESCRIPTOR.full_name})
_FREE: Final = frozenset(
    one.DESCRIPTOR.full_name for one in (struct_pb2.Struct, struct_pb2.Value, struct_pb2.ListValue)
)


class _Misfit(ValueError):
    """A value that cannot be a field. The text begins with a space, or with the name of a field within."""


def read_message(value: bytes, kind: MessageType, wanted: frozenset[str] | None = None) -> dict[str, Any]:
    """The message's fields by name: those that are wanted, or all. What it does not declare is left out, as of a newer
    writer.

    A field that can be absent and is, is not there; of those that cannot, an empty string is not there either.
    Raises Refusal: undecodable_event, missing_field, wrong_field.
    """
    if not value:
        raise _refused(f"the value is empty: send a message {kind.name} with at least one field")
    try:
        check_weight(value, kind)
        message: Any = kind.factory.FromString(value)
        fields = _converter(kind.descriptor, kind.made, wanted)(message)
    except TooMuch as error:
        raise _refused(str(error)) from None
    except DecodeError as error:
        reason = str(error).rpartition(": ")[2]
        raise _refused(f"the value is no message {kind.name} ({reason}): send this message, whole") from None
    except (UnicodeDecodeError, RecursionError):
        raise _refused(
            f"the value is no message {kind.name}: a string in it is not UTF-8, or it is nested too deeply"
        ) from None
    except _Misfit as error:
        raise Refusal(FailureCode.WRONG_FIELD, f"field {error}") from None
    if not message.ListFields():
        raise _refused(
            f"the value has no field of message {kind.name}: is it another message? Send {kind.name}, with at least "
            "one field"
        )
    if kind.has_required and not message.IsInitialized():
        missing = message.FindInitializationErrors()[0]
        raise Refusal(
            FailureCode.MISSING_FIELD, f"field {missing!r} is missing, which message {kind.name} requires: add it"
        )
    # An empty string is how these messages say that there is none.
    return {name: one for name, one in fields.items() if one != "" or kind.descriptor.fields_by_name[name].has_presence}


def _converter(descriptor: Descriptor, made: Made, wanted: frozenset[str] | None = None) -> Converter:
    """Message → what JSON has in its place. wanted: the fields to convert; None: all."""
    key = descriptor.full_name, wanted
    if (found := made.get(key)) is None:
        if len(made) >= _KEPT:
            made.clear()
        found = made[key] = _made_converter(descriptor, made, wanted)
    return found


def _made_converter(descriptor: Descriptor, made: Made, wanted: frozenset[str] | None) -> Converter:
    name = descriptor.full_name
    if name in _WRAPPERS:
        of_inner = _of_field(descriptor.fields_by_name["value"], made)
        return lambda message: of_inner(message.value)
    if name in _TIMES:
        return _time
    if name in _FREE:
        return _free
    fields = [field for field in descriptor.fields if wanted is None or field.name in wanted]
    names_of = {field.number: field.name for field in fields}
    plain = {field.name: _plain_default(field) for field in fields if not field.has_presence}
    converters: dict[int, Converter] = {}
    """Made when they are used: a message may hold itself."""

    def convert(message: Message) -> dict[str, Any]:
        if len(unknown := UnknownFieldSet(message)):
            _check_unknown(unknown, descriptor)
        found = {one: default() for one, default in plain.items()} if plain else {}
        for field, value in message.ListFields():
            number = field.number
            if (of := converters.get(number)) is None:
                if number not in names_of:
                    continue
                of = converters[number] = _of_field(field, made)
            try:
                found[names_of[number]] = of(value)
            except _Misfit as error:
                inner = str(error)
                raise _Misfit(f"{field.name}{'' if inner[0] == ' ' else '.'}{inner}") from None
        return found

    return convert


def _plain_default(field: FieldDescriptor) -> Callable[[], Any]:
    """What a field that is never absent has when nothing was sent."""
    if field.is_repeated:
        return dict if _is_map(field) else list
    value = field.default_value
    if field.enum_type is not None:
        value = field.enum_type.values_by_number[value].name
    elif field.type == FieldDescriptor.TYPE_BYTES:
        value = ""
    return lambda: value


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _of_field(field: FieldDescriptor, made: Made) -> Converter:
    if field.message_type is not None and _is_map(field):
        of_value = _of_one(field.message_type.fields_by_name["value"], made)
        return lambda value: {_key(key): of_value(one) for key, one in value.items()}
    one = _of_one(field, made)
    if not field.is_repeated:
        return one
    if one is _same:
        return list
    return lambda value: [one(element) for element in value]


def _of_one(field: FieldDescriptor, made: Made) -> Converter:
    """Of one value of the field, whether it is repeated or not."""
    if field.message_type is not None:
        return _converter(field.message_type, made)
    if field.enum_type is not None:
        return _enum(field.enum_type)
    return _OF_TYPES.get(field.type, _same)


def _same(value: Any) -> Any:
    return value


def _text(value: Any) -> str:
    # In proto2 nobody has looked whether it is UTF-8.
    return value if isinstance(value, str) else value.decode()


def _key(value: Any) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _enum(enum: EnumDescriptor) -> Converter:
    names: Mapping[int, str] = {number: one.name for number, one in enum.values_by_number.items()}

    def name_of(value: int) -> str:
        if (found := names.get(value)) is None:
            raise _Misfit(f" has number {value}, which enum {enum.full_name} does not know: {_RENEW}")
        return found

    return name_of


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


_RENEW: Final = "send another, or have the endpoint applied with the present descriptors"


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise _Misfit(f" is {value}, which is no number in JSON: leave it out, or send another")
    return value


def _short_float(value: float) -> float:
    return short_float(_finite(value))


_OF_TYPES: Final[dict[int, Converter]] = {
    FieldDescriptor.TYPE_BYTES: _base64,
    FieldDescriptor.TYPE_DOUBLE: _finite,
    FieldDescriptor.TYPE_FLOAT: _short_float,
    FieldDescriptor.TYPE_STRING: _text,
}


def _time(message: Any) -> str:
    try:
        text = message.ToJsonString()
    except (ValueError, OverflowError):
        raise _Misfit(f" is beyond what {message.DESCRIPTOR.full_name} can be: send another") from None
    return str(text)


def _free(message: Message) -> Any:
    try:
        return json_format.MessageToDict(message)
    except (json_format.SerializeToJsonError, ValueError) as error:
        raise _Misfit(f" holds what JSON does not have ({str(error)[:100]}): leave it out, or send another") from None


def _check_unknown(unknown: UnknownFieldSet, descriptor: Descriptor) -> None:
    """Raises _Misfit where an unknown field has the number of a declared one: it was sent as another type."""
    for index in range(len(unknown)):
        number = unknown[index].field_number
        field = descriptor.fields_by_number.get(number)
        if field is not None:
            what = "has a number that its enum does not know, or is" if field.enum_type is not None else "is"
            raise _Misfit(
                f"{field.name} {what} sent as another type than message {descriptor.full_name} declares (number "
                f"{number}): {_RENEW}"
            )


def _refused(message: str) -> Refusal:
    return Refusal(FailureCode.UNDECODABLE_EVENT, message)
