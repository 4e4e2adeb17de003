"""What a type of msgspec allows at a place inside of it: which fields, words and kinds. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from msgspec import inspect

from guideway.catalogue.documents.faults import FieldPath


@cache
def shape_of(kind: Any) -> inspect.Type:
    """What msgspec knows of a type or of a union of types."""
    return inspect.type_info(kind)


def bare(shape: inspect.Type) -> inspect.Type:
    """Without what is only said of it."""
    return bare(shape.type) if isinstance(shape, inspect.Metadata) else shape


def described(shape: inspect.Type) -> str:
    """What `Meta(description=...)` says of it, or of what a list of it holds."""
    match shape:
        case inspect.Metadata(type=inner, extra_json_schema=extra):
            return str((extra or {}).get("description", "")) or described(inner)
        case inspect.ListType(item_type=inner):
            return described(inner)
        case inspect.UnionType(types=kinds):
            return next(filter(None, map(described, kinds)), "")
    return ""


def shape_at(shape: inspect.Type, value: Any, place: FieldPath) -> inspect.Type | None:
    """What is allowed at a place of the value; where a union stands, the value itself says which of them. None: nothing
    is known of it."""
    here = chosen(shape, value)
    if not place:
        return here
    one, *rest = place
    inner: Any = value.get(one) if isinstance(value, dict) else None
    match bare(here):
        case inspect.StructType(fields=fields):
            field = next((field for field in fields if field.encode_name == one), None)
            return None if field is None else shape_at(field.type, inner, tuple(rest))
        case inspect.DictType(value_type=kind):
            return shape_at(kind, inner, tuple(rest))
        case inspect.ListType(item_type=kind):
            item = value[one] if isinstance(value, list) and isinstance(one, int) and one < len(value) else None
            return shape_at(kind, item, tuple(rest))
    return None


def chosen(shape: inspect.Type, value: Any) -> inspect.Type:
    """The member of a union that is meant by the value; the whole where that cannot be told."""
    whole = bare(shape)
    if not isinstance(whole, inspect.UnionType):
        return shape
    structs = structs_of(shape)
    if isinstance(value, dict):
        for one in structs:
            if one.tag_field is not None and value.get(one.tag_field) == one.tag:
                return one
    return structs[0] if len(structs) == 1 else shape


def structs_of(shape: inspect.Type | None) -> list[inspect.StructType]:
    """The structs that may stand there."""
    match bare(shape) if shape is not None else None:
        case inspect.StructType() as one:
            return [one]
        case inspect.UnionType(types=kinds):
            return [struct for kind in kinds for struct in structs_of(kind)]
    return []


def tags_of(shape: inspect.Type | None) -> list[str]:
    """The words by which the structs that may stand there are told apart."""
    return [str(one.tag) for one in structs_of(shape) if one.tag is not None]


def tag_fields_of(shape: inspect.Type | None) -> set[str]:
    """The field, if there is one, that says which of these words it is."""
    return {one.tag_field for one in structs_of(shape) if one.tag_field is not None}


def names_of(shape: inspect.Type | None) -> list[str]:
    """The fields of the struct that stands there, the one that tells its kind first."""
    structs = structs_of(shape)
    if len(structs) != 1:
        return []
    tag = [structs[0].tag_field] if structs[0].tag_field is not None else []
    return [*tag, *(field.encode_name for field in structs[0].fields)]


def required_of(shape: inspect.Type | None) -> list[str]:
    """Those of them that have no default."""
    return [field.encode_name for one in structs_of(shape)[:1] for field in one.fields if field.required]


def key_of(shape: inspect.Type | None) -> inspect.Type | None:
    """What a mapping's names may be."""
    mapping = bare(shape) if shape is not None else None
    return mapping.key_type if isinstance(mapping, inspect.DictType) else None


def words_of(shape: inspect.Type | None) -> list[str]:
    """The words of a closed list, where one is meant."""
    match bare(shape) if shape is not None else None:
        case inspect.LiteralType(values=values):
            return [str(value) for value in values]
        case inspect.UnionType(types=kinds):
            return [word for kind in kinds for word in words_of(kind)]
    return []


def homes_of(shape: inspect.Type | None, name: str) -> Iterator[str]:
    """The fields of a struct whose own fields have this name: it was meant there, and stands one level too high."""
    for one in structs_of(shape)[:1]:
        for field in one.fields:
            if any(name in names_of(inner) for inner in structs_of(field.type)):
                yield field.encode_name
