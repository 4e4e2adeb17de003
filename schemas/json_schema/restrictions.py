"""Keywords that restrict nothing, and formats that the grammar library takes too widely. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"}
)
"""The formats that the grammar enforces. All others are notes for people, as JSON Schema allows."""
_DATES: Final = frozenset({"date", "date-time"})
_LEAP: Final = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29"
_A_DAY: Final = f"^(?:{_LEAP}|[0-9]{{4}}-(?:0[13-9]|1[0-2]|02-[01]|02-2[0-8]))"
"""The library takes 29 February for a day of every year."""
_VALUES: Final = frozenset({"const", "enum", "default", "examples"})


def says_nothing(keyword: str, inner: Any) -> bool:
    """Whether the keyword allows all values, as generators of schemas write some."""
    match keyword:
        case "uniqueItems":
            return inner is False
        case "propertyNames":
            return inner is True or inner in ({}, {"type": "string"})
        case "unevaluatedProperties" | "unevaluatedItems":
            return inner is True
        case "format":
            return not isinstance(inner, str) or inner not in FORMATS
    return False


def restricting(part: Any, of_names: frozenset[str], keyword: str = "") -> Any:
    """A copy of the schema without what restricts nothing, and with days that there are.

    of_names: keywords with a schema for each of their names.
    """
    if isinstance(part, list):
        return [restricting(one, of_names, keyword) for one in part]
    if not isinstance(part, Mapping) or keyword in _VALUES:
        return part
    named = keyword in of_names
    made = {
        name: restricting(inner, of_names, "" if named else name)
        for name, inner in part.items()
        if named or not says_nothing(name, inner)
    }
    if not named and isinstance(said := made.get("format"), str) and said in _DATES:
        beside = made.get("allOf")
        if "pattern" not in made:
            made["pattern"] = _A_DAY
        elif beside is None or isinstance(beside, list):
            made["allOf"] = [*(beside or []), {"pattern": _A_DAY}]
    return made
