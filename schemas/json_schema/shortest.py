"""How short a text can be that a pattern or a JSON Schema allows: lower bounds, by what is written there. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from guideway.schemas.json_schema.keywords import referred

_PART: Final = re.compile(
    r"""
      (?P<nothing> \\b\{[a-z-]*\} | \\[bBAzZ<>] | [\^$] | \(\?[a-zA-Z-]*\) )
    | (?P<char> \\[pP](?:\{[^}]*\}|.) | \\[xuU]\{[^}]*\} | \\x[0-9A-Fa-f]{2} | \\u[0-9A-Fa-f]{4} | \\U[0-9A-Fa-f]{8}
              | \\. | \[\^?\]?(?:\\.|\[[^\]]*\]|[^\]\\\[])*\] )
    | (?P<open> \((?:\?(?:[a-zA-Z-]*:|P?<[^>]*>))? )
    | (?P<close> \) )
    | (?P<or> \| )
    | (?P<often> (?: [*?+] | \{(?P<least>[0-9]*)(?:,[0-9]*)?\} ) \?? )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_VERBOSE: Final = re.compile(r"\(\?[a-zA-Z]*x")
_MOST: Final = 10**12
"""Longer ones count as so long."""


class _Level:
    """What is open: the whole pattern, or a group of it."""

    def __init__(self) -> None:
        self.others: int | None = None
        """The fewest characters of the alternatives before this one."""
        self.before = 0
        self.last = 0
        """Of the last part, to which a repetition belongs."""

    def add(self, chars: int) -> None:
        self.before, self.last = min(self.before + self.last, _MOST), chars

    def fewest(self) -> int:
        whole = min(self.before + self.last, _MOST)
        return whole if self.others is None else min(self.others, whole)


def fewest_of_pattern(pattern: str) -> int:
    """The characters of the shortest text that matches, or fewer."""
    if _VERBOSE.search(pattern):
        return 0
    levels = [_Level()]
    for part in _PART.finditer(pattern):
        here = levels[-1]
        match part.lastgroup:
            case "char" | "other":
                here.add(1)
            case "nothing":
                here.add(0)
            case "open":
                levels.append(_Level())
            case "close" if len(levels) > 1:
                levels.pop()
                levels[-1].add(here.fewest())
            case "or":
                here.others, here.before, here.last = here.fewest(), 0, 0
            case "often":
                least = 1 if part[0][0] == "+" else int((part["least"] or "0")[:13])
                here.last = min(here.last * least, _MOST)
    return levels[0].fewest() if len(levels) == 1 else 0


def fewest_of_schema(schema: Mapping[str, Any]) -> int:
    """The characters of the shortest JSON that the schema allows, or fewer."""
    try:
        return _Shortest(schema).fewest(schema)
    except RecursionError:
        # Of a long chain of references.
        return 0


class _Shortest:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._known: dict[int, int] = {}
        """By the identity of a subschema. While it is looked at it counts as nothing, as it may need itself."""

    def fewest(self, part: Any) -> int:
        if not isinstance(part, Mapping):
            return 1
        if id(part) not in self._known:
            self._known[id(part)] = 0
            self._known[id(part)] = min(self._of(part), _MOST)
        return self._known[id(part)]

    def _of(self, part: Mapping[str, Any]) -> int:
        types = part.get("type")
        found = [min((self._of_type(one, part) for one in (types if isinstance(types, list) else [types])), default=1)]
        if "$ref" in part:
            reference = part["$ref"]
            found.append(self.fewest(self._root if reference == "#" else referred(reference, self._root)))
        if "const" in part:
            found.append(_written(part["const"]))
        if isinstance(values := part.get("enum"), list) and values:
            found.append(min(map(_written, values)))
        for keyword, of in (("anyOf", min), ("oneOf", min), ("allOf", max)):
            if isinstance(several := part.get(keyword), list) and several:
                found.append(of(map(self.fewest, several)))
        return max(found)

    def _of_type(self, type_: Any, part: Mapping[str, Any]) -> int:
        match type_:
            case "string":
                pattern = part.get("pattern")
                return 2 + max(_count(part, "minLength"), fewest_of_pattern(pattern) if isinstance(pattern, str) else 0)
            case "array":
                return self._of_array(part)
            case "object":
                return self._of_object(part)
            case "boolean" | "null":
                return len("true")
        return 1

    def _of_array(self, part: Mapping[str, Any]) -> int:
        least, first = _count(part, "minItems"), part.get("prefixItems")
        first = first[:least] if isinstance(first, list) else []
        rest = least - len(first)
        return 2 + sum(map(self.fewest, first)) + (rest and rest * self.fewest(part.get("items"))) + max(least - 1, 0)

    def _of_object(self, part: Mapping[str, Any]) -> int:
        named, required = part.get("properties"), part.get("required")
        members = named if isinstance(named, Mapping) else {}
        names: Sequence[Any] = list(dict.fromkeys(map(str, required))) if isinstance(required, list) else []
        own = sum(_written(name) + len(":") + self.fewest(members.get(name)) for name in names)
        more = max(_count(part, "minProperties") - len(names), 0)
        return 2 + own + more * len('"":0') + max(len(names) + more - 1, 0)


def _count(part: Mapping[str, Any], keyword: str) -> int:
    found = part.get(keyword)
    return min(max(int(found), 0), _MOST) if isinstance(found, int | float) and not isinstance(found, bool) else 0


def _written(value: Any) -> int:
    return len(msgspec.json.encode(value).decode())
