"""An endpoint's result as the message that it declares for it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, assert_never

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import EncodeError

from guideway.catalogue.protobuf.field_types import types_of, types_of_items
from guideway.catalogue.protobuf.message_type import MessageType
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Regex, Text, WordLabels

_LONG: Final = frozenset(
    {
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_SINT64,
        FieldDescriptor.TYPE_SFIXED64,
    }
)
_UNSIGNED_LONG: Final = frozenset({FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64})
_FREE: Final = frozenset({"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"})
_MOST_LEVELS: Final = 50
_LONGEST: Final = 20
"""The characters of the longest integer of 64 bits."""


def written_value(value: Any, rule: OutputRule, kind: MessageType) -> bytes:
    """The message with the value in it: of one field, or of the fields of an object.

    Raises ValueError, which says what does not fit, and does not quote the value.
    """
    message: Any = kind.factory()
    if value is None:
        raise ValueError("the result is null, and a message cannot say that")
    plain = _as_object(value, rule, kind.descriptor)
    try:
        json_format.ParseDict(plain, message, max_recursion_depth=100)
        written = bytes(message.SerializeToString(deterministic=True))
    except json_format.ParseError as error:
        raise ValueError(_without_value(error)) from None
    except EncodeError:
        raise ValueError("a field that the message requires is not there") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"it cannot be written ({type(error).__name__})") from None
    if numbers := {*_numbers(plain)}:
        held = json_format.MessageToDict(message, use_integers_for_enums=True)
        if not numbers <= {*_numbers(held, of_texts=True)}:
            raise ValueError("it has a number of more digits than the field for it holds")
    return written


def _numbers(value: Any, *, of_texts: bool = False) -> Iterator[int | float]:
    """The numbers in a value but 0, which a message leaves out.

    of_texts: those in texts as well: so are the integers of 64 bits that are read from a message.
    """
    match value:
        case dict():
            for inner in value.values():
                yield from _numbers(inner, of_texts=of_texts)
        case list():
            for inner in value:
                yield from _numbers(inner, of_texts=of_texts)
        case bool():
            pass
        case int() | float() if value:
            yield value
        case str() if of_texts and len(value) <= _LONGEST and value.isascii() and value.removeprefix("-").isdigit():
            yield int(value)


def _without_value(error: json_format.ParseError) -> str:
    """What the library says of a place: only the names in it are ours to show."""
    text = str(error)
    known = "Failed to parse "
    field = text[len(known) :].split(" field", 1)[0] if text.startswith(known) and " field" in text else ""
    return f"field {field} cannot hold what came" if field else "it has a name or a value that the message lacks"


def _as_object(value: Any, rule: OutputRule, descriptor: Descriptor) -> dict[str, Any]:
    if isinstance(rule, Json):
        if not isinstance(value, dict):
            raise ValueError("the result is no object")
        return value
    (field,) = descriptor.fields
    if isinstance(rule, WordLabels):
        names = [one.name for one in field.message_type.fields] if field.message_type is not None else []
        return {field.name: [dict(zip(names, pair, strict=True)) for pair in value]}
    return {field.name: value}


def check_message(rule: OutputRule, kind: MessageType) -> None:
    """Raises ValueError, which says what to change, for a message that results of this rule do not fit into.

    What a JSON Schema leaves open is not known before there is a result.
    """
    if isinstance(rule, Json):
        _check_object(rule.schema, kind.descriptor, "", 0)
        return
    fields = kind.descriptor.fields
    if len(fields) != 1:
        raise ValueError(
            f"a result of output type {_named(rule)} is one value, and message {kind.name} has {len(fields)} fields: "
            "use a message with one"
        )
    (field,) = fields
    wanted = _wanted(rule)
    if wanted is not None and not wanted.fits(field):
        raise ValueError(
            f"field {field.name} of message {kind.name} cannot hold each result of output type {_named(rule)}: make it "
            f"{wanted.words}"
        )


class _Wanted:
    def __init__(self, words: str, fits: Callable[[FieldDescriptor], bool]) -> None:
        self.words = words
        self.fits = fits


def _wanted(rule: Text | Choice | Boolean | Number | WordLabels | Regex) -> _Wanted:
    """What the one field has to be."""
    match rule:
        case Text() | Regex():
            return _Wanted("a string", lambda field: _is_one(field, FieldDescriptor.TYPE_STRING))
        case Choice(labels):
            return _Wanted(
                "a string, or an enum with all labels as names",
                lambda field: _is_one(field, FieldDescriptor.TYPE_STRING) or _has_names(field, labels),
            )
        case Boolean():
            return _Wanted("a bool", lambda field: _is_one(field, FieldDescriptor.TYPE_BOOL))
        case Number(decimals, negative):
            integers = _LONG | (frozenset() if negative else _UNSIGNED_LONG) if decimals == 0 else frozenset()
            words = "a double" if decimals else "an int64 or a double"
            return _Wanted(words, lambda field: _is_one(field, FieldDescriptor.TYPE_DOUBLE, *integers))
        case WordLabels():
            return _Wanted("a repeated message with two strings, word and label", _is_pairs)
        case _:
            assert_never(rule)


def _is_one(field: FieldDescriptor, *types: int) -> bool:
    return not field.is_repeated and field.type in types


def _has_names(field: FieldDescriptor, labels: Sequence[str]) -> bool:
    return not field.is_repeated and field.enum_type is not None and {*labels} <= {*field.enum_type.values_by_name}


def _is_pairs(field: FieldDescriptor) -> bool:
    within = field.message_type
    return (
        field.is_repeated
        and within is not None
        and not within.GetOptions().map_entry
        and [one.type for one in within.fields] == [FieldDescriptor.TYPE_STRING] * 2
    )


def _named(rule: OutputRule) -> str:
    return str(rule.__struct_config__.tag)


def _check_object(schema: Mapping[str, Any], descriptor: Descriptor, where: str, level: int) -> None:
    """Compare the properties of a schema with the fields of a message."""
    what = f"output.schema{where}"
    if schema.get("type", "object") != "object":
        raise ValueError(f"{what} is no object, and message {descriptor.full_name} has fields: make it an object")
    if schema.get("additionalProperties", False) is not False:
        raise ValueError(f"{what} allows additionalProperties, for which a message has no fields: leave that out")
    known = {**descriptor.fields_by_camelcase_name, **descriptor.fields_by_name}
    properties = schema.get("properties", {})
    for name, part in properties.items() if isinstance(properties, Mapping) else ():
        field = known.get(name)
        if field is None:
            raise ValueError(f"{what} has a property {name[:60]!r}, and message {descriptor.full_name} no such field")
        if isinstance(part, Mapping):
            _check_property(part, field, f"{where}.properties.{name}", level)


def _check_property(part: Mapping[str, Any], field: FieldDescriptor, where: str, level: int) -> None:
    """Refuse what is known not to fit. References and alternatives are not looked into."""
    within = field.message_type
    if level > _MOST_LEVELS or (within is not None and within.full_name in _FREE):
        return
    if not field.is_repeated:
        _check_one(part, field, types_of(field), where, level)
        return
    _check_types(part, field, types_of(field), where)
    items = part.get("items")
    if isinstance(items, Mapping) and (within is None or not within.GetOptions().map_entry):
        _check_one(items, field, types_of_items(field), f"{where}.items", level)


def _check_one(part: Mapping[str, Any], field: FieldDescriptor, fitting: Sequence[str], where: str, level: int) -> None:
    """Compare the schema of one value with the field, or with the items of a repeated one."""
    _check_types(part, field, fitting, where)
    if field.enum_type is not None:
        _check_names(part, field, where)
    elif field.message_type is not None:
        _check_object_if_one(part, field.message_type, where, level)


def _check_types(part: Mapping[str, Any], field: FieldDescriptor, fitting: Sequence[str], where: str) -> None:
    """fitting: the types that the field may have, the closest first."""
    types = part.get("type")
    allowed = [types] if isinstance(types, str) else types if isinstance(types, list) else []
    plain = [one for one in allowed if one != "null"]
    if wrong := [one for one in plain if one not in fitting and not (one == "integer" and "number" in fitting)]:
        raise ValueError(
            f"output.schema{where} is of type {wrong[0]}, and field {field.name} is {fitting[0]}: make them agree"
        )
    if "number" in plain and fitting[0] == "integer":
        raise ValueError(f"output.schema{where} may be a fraction, and field {field.name} is an integer: write integer")
    if {"number", "integer"} & {*plain} and field.type == FieldDescriptor.TYPE_FLOAT:
        raise ValueError(
            f"output.schema{where} may have more digits than fit into field {field.name}, a float: make it a double"
        )


def _check_object_if_one(part: Mapping[str, Any], within: Descriptor, where: str, level: int) -> None:
    if "properties" in part and not within.full_name.startswith("google.protobuf."):
        _check_object(part, within, where, level + 1)


def _check_names(part: Mapping[str, Any], field: FieldDescriptor, where: str) -> None:
    assert field.enum_type is not None, "whoever asks has looked"
    names = field.enum_type.values_by_name
    given = part.get("enum", [part["const"]] if "const" in part else None)
    if not isinstance(given, list) or not {one for one in given if one is not None} <= {*names}:
        raise ValueError(
            f"output.schema{where} may be what enum {field.enum_type.full_name} does not have: give it `enum` with "
            f"some of {', '.join([*names][:20])}"
        )
