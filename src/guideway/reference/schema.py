"""A JSON Schema of everything that people write, for editors."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from guideway.reference.types import ALL, DEADLINE_S, bounds, meanings, structs_in
from guideway.schemas.manifests import Endpoint

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TITLE: Final = "A manifest of guideway, or a task of its studio"


def schema() -> dict[str, Any]:
    """One schema: a document is one of the kinds. It takes what `apply` reads, not only what `apply` accepts."""
    kinds, parts = msgspec.json.schema_components(ALL, ref_template="#/$defs/{name}")
    for struct in structs_in(*ALL):
        properties = parts[struct.cls.__name__]["properties"]
        for name, meaning in meanings(struct.cls).items():
            beside = properties[name].get("description")
            properties[name]["description"] = f"{meaning}\n\n{beside}" if beside else meaning
    for (owner, name), most in bounds().items():
        _bound(parts[owner.__name__]["properties"][name], most)
    least, most_s = DEADLINE_S
    for one in parts[Endpoint.__name__]["properties"]["deadline_s"]["anyOf"]:
        if one["type"] == "number":
            one |= {"minimum": least, "maximum": most_s}
            one.pop("exclusiveMinimum", None)
    whole = {"$schema": _DIALECT, "title": _TITLE, "oneOf": list(kinds), "$defs": parts}
    made: dict[str, Any] = _portable(whole)
    return made


def _bound(part: dict[str, Any], most: int) -> None:
    keywords = {"string": "maxLength", "array": "maxItems", "integer": "maximum", "object": "maxProperties"}
    # How many bytes a JSON Schema takes is nothing that a schema can say.
    if (keyword := keywords[part["type"]]) != "maxProperties" or "additionalProperties" in part:
        part[keyword] = min(most, part.get(keyword, most))


def _portable(part: Any) -> Any:
    """In the words of JSON Schema alone: its patterns have no `\\Z`, and it knows no `discriminator`."""
    if isinstance(part, list):
        return [_portable(one) for one in part]
    if not isinstance(part, dict):
        return part
    made = {key: _portable(one) for key, one in part.items() if key != "discriminator"}
    if "discriminator" in part:
        made["oneOf"] = made.pop("anyOf")
    if isinstance(pattern := made.get("pattern"), str):
        made["pattern"] = pattern.replace(r"\A", "^").replace(r"\Z", "$")
    return made
