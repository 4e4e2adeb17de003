"""What a msgspec type allows at a place: fields, words and kinds. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from msgspec import inspect

from guideway.catalogue.documents.faults import FieldPath


@cache
def shape_of(kind: Any) -> inspect.Type:
    """msgspec's description of a type or of a union of types."""
    return inspect.type_info(kind)


def bare(shape: inspect.Type) -> inspect.Type:
    """The shape without its metadata."""
    return bare(shape.type) if isinstance(shape, inspect.Metadata) else shape


def described(shape: inspect.Type) -> str:
    """The text of `Meta(description=...)`, of the shape or of the items of a list; else empty."""
    match shape:
        case inspect.Metadata(type=inner, extra_json_schema=extra):
            return str((extra or {}).get("description", "")) or described(inner)
        case inspect.ListType(item_type=inner):
            return described(inner)
        case inspect.UnionType(types=kinds):
            return next(filter(None, map(described, kinds)), "")
    return ""


def shape_at(shape: inspect.Type, value: Any, place: FieldPath) -> inspect.Type | None:
    """The shape at a place of the value. In a union the value decides which member it is. None if it is unknown."""
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
    """The member of a union that the value means; the whole union if that is open."""
    whole = bare(shape)
    if not isinstance(whole, inspect.UnionType):
        return shape
    structs = structs_of(shape)
    texts = [kind for kind in whole.types if isinstance(bare(kind), inspect.StrType)]
    if isinstance(value, str) and len(texts) == 1:
        return texts[0]
    if isinstance(value, dict):
        for one in structs:
            if one.tag_field is not None and value.get(one.tag_field) == one.tag:
                return one
    is_word = isinstance(value, str) and words_of(shape)
    return structs[0] if len(structs) == 1 and not is_word else shape


def structs_of(shape: inspect.Type | None) -> list[inspect.StructType]:
    """The structs that the shape allows."""
    match bare(shape) if shape is not None else None:
        case inspect.StructType() as one:
            return [one]
        case inspect.UnionType(types=kinds):
            return [struct for kind in kinds for struct in structs_of(kind)]
    return []


def tags_of(shape: inspect.Type | None) -> list[str]:
    """The tags of the structs that the shape allows."""
    return [str(one.tag) for one in structs_of(shape) if one.tag is not None]


def tag_fields_of(shape: inspect.Type | None) -> set[str]:
    """The name of the field that holds the tag; empty without tags."""
    return {one.tag_field for one in structs_of(shape) if one.tag_field is not None}


def names_of(shape: inspect.Type | None) -> list[str]:
    """The field names of the struct, that of its tag first."""
    structs = structs_of(shape)
    if len(structs) != 1:
        return []
    tag = [structs[0].tag_field] if structs[0].tag_field is not None else []
    return [*tag, *(field.encode_name for field in structs[0].fields)]


def required_of(shape: inspect.Type | None) -> list[str]:
    """The field names of the struct that have no default."""
    return [field.encode_name for one in structs_of(shape)[:1] for field in one.fields if field.required]


def key_of(shape: inspect.Type | None) -> inspect.Type | None:
    """The shape of a mapping's names; None for other shapes."""
    mapping = bare(shape) if shape is not None else None
    return mapping.key_type if isinstance(mapping, inspect.DictType) else None


def words_of(shape: inspect.Type | None) -> list[str]:
    """The words of a closed list; empty for other shapes."""
    match bare(shape) if shape is not None else None:
        case inspect.LiteralType(values=values):
            return [str(value) for value in values]
        case inspect.UnionType(types=kinds):
            return [word for kind in kinds for word in words_of(kind)]
    return []


def homes_of(shape: inspect.Type | None, name: str) -> Iterator[str]:
    """The fields of a struct that contain a field of this name: it was probably meant there, one level deeper."""
    for one in structs_of(shape)[:1]:
        for field in one.fields:
            if any(name in names_of(inner) for inner in structs_of(field.type)):
                yield field.encode_name
