"""Fields of a message as input fields of an endpoint: which types fit, and which fields there are. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from guideway.schemas.input import Field

_OF_SCALARS: Final[dict[int, tuple[str, ...]]] = {
    FieldDescriptor.CPPTYPE_BOOL: ("boolean",),
    FieldDescriptor.CPPTYPE_DOUBLE: ("number",),
    FieldDescriptor.CPPTYPE_ENUM: ("string",),
    FieldDescriptor.CPPTYPE_FLOAT: ("number",),
    FieldDescriptor.CPPTYPE_STRING: ("string",),
}
_INTEGER: Final = ("integer", "number")
_ANY: Final = ("string", "integer", "number", "boolean", "array", "object")
_OF_MESSAGES: Final[dict[str, tuple[str, ...]]] = {
    "google.protobuf.Timestamp": ("string",),
    "google.protobuf.Duration": ("string",),
    "google.protobuf.ListValue": ("array",),
    "google.protobuf.Value": _ANY,
}


def types_of(field: FieldDescriptor) -> tuple[str, ...]:
    """The types that an input field for this field may have, the closest first."""
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        return ("object",)
    return ("array",) if field.is_repeated else types_of_items(field)


def types_of_items(field: FieldDescriptor) -> tuple[str, ...]:
    """The types that one value of the field may have, the closest first."""
    message = field.message_type
    if message is None:
        return _OF_SCALARS.get(field.cpp_type, _INTEGER)
    if message.full_name.startswith("google.protobuf.") and message.full_name.endswith("Value"):
        known = _OF_MESSAGES.get(message.full_name)
        return known if known is not None else types_of(message.fields_by_name["value"])
    return _OF_MESSAGES.get(message.full_name, ("object",))


def derived(descriptor: Descriptor, template: str) -> dict[str, Field]:
    """The input fields of a message: all that have one type in JSON, but bytes, of which no text can be made.

    Required are those that the message requires, and strings that the template puts in by their name alone and that are
    not declared `optional`.
    """
    bare = template.replace("{{", "").replace("}}", "")
    found: dict[str, Field] = {}
    for field in descriptor.fields:
        types = types_of(field)
        if field.type == FieldDescriptor.TYPE_BYTES or types == _ANY:
            continue
        named = f"{{{field.name}}}" in bare
        default = _declared_default(field)
        found[field.name] = Field(
            type=types[0],  # type: ignore[arg-type]  # a literal, of those above
            required=field.is_required or (named and types == ("string",) and not field.has_presence),
            default=default,
        )
    return found


def check_fields(fields: Mapping[str, Field], descriptor: Descriptor) -> None:
    """Raises ValueError, which says what to change, for an input field that the message cannot fill."""
    for name, field in fields.items():
        of = descriptor.fields_by_name.get(name)
        if of is None:
            near = difflib.get_close_matches(name, descriptor.fields_by_name, 1)
            there = ", ".join([one.name for one in descriptor.fields][:20]) or "none"
            meant = f"did you mean {near[0]!r}?" if near else f"it has {there}"
            raise ValueError(f"input.fields.{name}: message {descriptor.full_name} has no such field: {meant}")
        if field.type not in (types := types_of(of)):
            raise ValueError(
                f"input.fields.{name} is of type {field.type}, and in message {descriptor.full_name} it is {types[0]}: "
                "make them agree"
            )


def _declared_default(field: FieldDescriptor) -> Any:
    """The default that the message's author wrote, as proto2 has it."""
    if not field.has_default_value or field.message_type is not None or field.type == FieldDescriptor.TYPE_BYTES:
        return None
    return field.enum_type.values_by_number[field.default_value].name if field.enum_type else field.default_value
