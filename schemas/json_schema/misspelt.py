"""Keywords that JSON Schema does not have: what was meant, where that can be seen. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

_BOUNDS: Final = {
    "min": {"string": "minLength", "array": "minItems", "object": "minProperties"},
    "max": {"string": "maxLength", "array": "maxItems", "object": "maxProperties"},
}
_OTHERS: Final[Mapping[str, tuple[type, tuple[str, ...]]]] = {
    "minimum": (float, ("ge", "gte")),
    "exclusiveMinimum": (float, ("gt",)),
    "maximum": (float, ("le", "lte")),
    "exclusiveMaximum": (float, ("lt",)),
    "maxLength": (float, ("len", "length")),
    "maxItems": (float, ("size",)),
    "pattern": (str, ("regex", "regexp", "match")),
    "enum": (list, ("choices", "options", "values", "allowed")),
    "properties": (dict, ("fields", "attributes", "members")),
    "items": (dict, ("elements",)),
    "anyOf": (list, ("union",)),
}
"""Keyword → the type of value by which it is known to be meant, and how other languages of schemas call it."""


def meant(keyword: str, part: Mapping[str, Any], known: Collection[str]) -> str:
    """The known keyword that this unknown one of `part` was meant to be; empty if that cannot be seen."""
    plain = {_plain(one): one for one in known}
    if (found := plain.get(_plain(keyword))) is not None:
        return found
    if near := difflib.get_close_matches(keyword, sorted(known), 1, 0.75):
        return near[0]
    value, name = part[keyword], _plain(keyword)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _BOUNDS and is_number:
        bound = "minimum" if name == "min" else "maximum"
        return _BOUNDS[name].get(str(part.get("type")), bound)
    for word, (kind, others) in _OTHERS.items():
        if name in others and word not in part and (is_number if kind is float else isinstance(value, kind)):
            return word
    return ""


def _plain(keyword: str) -> str:
    return re.sub(r"[^a-z$]", "", keyword.lower())
