"""Keywords that restrict nothing, and formats that the grammar library takes too widely. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"}
)
"""The formats that the grammar enforces. All others are notes for people, as JSON Schema allows."""
_LEAP: Final = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29"
_DAY: Final = f"(?:{_LEAP}|[0-9]{{4}}-(?:(?:0[13-9]|1[0-2])-[0-9]{{2}}|02-(?:[01][0-9]|2[0-8])))"
_TIME: Final = "[0-9]{2}:[0-9]{2}:[0-5]"
_THERE_ARE: Final = {"date": f"^{_DAY}", "time": f"^{_TIME}", "date-time": f"^{_DAY}[Tt ]{_TIME}"}
"""The library takes 29 February for a day of every year, and second 60 for one of every minute."""
_NONE_OF: Final = re.compile(r"\\.|\[\^([-\]]?)", re.DOTALL)
_CONTROLS: Final = r"\x00-\x07\x0e-\x1f"
"""Where a set of characters has these, the library also writes quotation marks and backslashes that it has not."""
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
    """A copy of the schema without what restricts nothing, and with days and seconds that there are.

    of_names: keywords with a schema for each of their names.
    """
    if isinstance(part, list):
        return [restricting(one, of_names, keyword) for one in part]
    if not isinstance(part, Mapping) or keyword in _VALUES:
        return part
    if keyword in of_names:
        return {
            kept_pattern(name) if keyword == "patternProperties" else name: restricting(inner, of_names)
            for name, inner in part.items()
        }
    made = {name: restricting(inner, of_names, name) for name, inner in part.items() if not says_nothing(name, inner)}
    if isinstance(pattern := made.get("pattern"), str):
        made["pattern"] = kept_pattern(pattern)
    if there_are := _THERE_ARE.get(made.get("format", "")):
        beside = made.get("allOf")
        if "pattern" not in made:
            made["pattern"] = there_are
        elif beside is None or isinstance(beside, list):
            made["allOf"] = [*(beside or []), {"pattern": there_are}]
    return made


def kept_pattern(pattern: str) -> str:
    """The pattern as the library keeps it: `[^"]` without control characters, which nobody means by it."""

    def none_of(found: re.Match[str]) -> str:
        first = found[1]
        return f"[^{_CONTROLS}{chr(92) + first if first else ''}" if found[0][0] == "[" else found[0]

    return _NONE_OF.sub(none_of, pattern)
