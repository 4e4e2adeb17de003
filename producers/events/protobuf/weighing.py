"""How much memory a message would take when it is parsed, before it is. Pure.

Two bytes of an event can be a message that takes kilobytes, and one byte an integer of a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from guideway.catalogue.protobuf.message_type import MessageType

MOST_VALUES: Final = 100_000
"""Of one event: fields, elements of lists and messages, all together."""
MOST_BYTES: Final = 128 * 2**20
"""That the messages within may take while they are empty."""
_UNWEIGHED_BYTES: Final = 32 * 2**10
"""An event up to this size is never too much."""
_MESSAGE_BYTES: Final = 64
_FIELD_BYTES: Final = 16
"""Of a field that is not set."""
_VARINT, _FIXED_64, _BYTES, _BEGIN, _END, _FIXED_32 = range(6)
_WIDTHS: Final = {FieldDescriptor.CPPTYPE_DOUBLE: 8, FieldDescriptor.CPPTYPE_FLOAT: 4}


class TooMuch(ValueError):
    """The message holds more values than an event may."""


def check_weight(value: bytes, kind: MessageType) -> None:
    """Raises TooMuch; DecodeError for bytes that are no message."""
    if len(value) <= _UNWEIGHED_BYTES:
        return
    values = held = 0
    waiting: list[tuple[int, int, Descriptor]] = [(0, len(value), kind.descriptor)]
    while waiting:
        at, end, descriptor = waiting.pop()
        fields: Mapping[int, FieldDescriptor] = descriptor.fields_by_number
        around: list[Mapping[int, FieldDescriptor]] = []
        """The fields of the message around each group that is open."""
        held += _MESSAGE_BYTES + _FIELD_BYTES * len(fields)
        while at < end:
            tag, at = _varint(value, at, end)
            field, wire = fields.get(tag >> 3), tag & 7
            values += 1
            if wire == _BYTES:
                size, at = _varint(value, at, end)
                if size > end - at:
                    raise DecodeError("Wire format was corrupt")
                if field is not None and field.message_type is not None:
                    waiting.append((at, at + size, field.message_type))
                values += _packed(field, size)
                at += size
            elif wire == _BEGIN:
                around.append(fields)
                fields = field.message_type.fields_by_number if field and field.message_type else {}
                held += _MESSAGE_BYTES + _FIELD_BYTES * len(fields)
            elif wire == _END and around:
                fields = around.pop()
            else:
                at = _after(value, at, end, wire)
            if values > MOST_VALUES or held > MOST_BYTES:
                raise TooMuch(f"the message has more than {MOST_VALUES} values: send less in one event")


def _packed(field: FieldDescriptor | None, size: int) -> int:
    """How many numbers there may be in so many bytes of a field."""
    if field is None or field.message_type is not None or not field.is_repeated:
        return 0
    return size // _WIDTHS.get(field.cpp_type, 1) if field.cpp_type != FieldDescriptor.CPPTYPE_STRING else 0


def _after(value: bytes, at: int, end: int, wire: int) -> int:
    """Where the next field begins, after a number of this wire type."""
    if wire == _VARINT:
        return _varint(value, at, end)[1]
    if wire in (_FIXED_64, _FIXED_32):
        return at + (8 if wire == _FIXED_64 else 4)
    # What was read so far may be large: nobody is to parse it before this is found.
    raise DecodeError("Wire format was corrupt")


def _varint(value: bytes, at: int, end: int) -> tuple[int, int]:
    """(number, where the next begins); beyond the end where it is cut."""
    number = shift = 0
    while at < end and shift < 70:
        byte = value[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    return 0, end
