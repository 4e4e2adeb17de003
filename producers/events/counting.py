"""How many values a JSON text holds, before it is decoded, and whether it names a member twice. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

from guideway.producers.events.protobuf.weighing import MOST_VALUES

_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_BEFORE_VALUES: Final = (b",", b"[", b"{")
_NOTHING_IN: Final = (b"[]", b"{}")


def has_too_many(value: bytes) -> bool:
    """Whether a text that may be JSON has more than `MOST_VALUES` values: of two bytes each may take seventy."""
    if _before_values(value) <= MOST_VALUES:
        return False
    # Half of a value's strings may be its names, and each has two quotation marks that are not escaped.
    if value.count(b'"') - value.count(b'\\"') > 4 * MOST_VALUES:
        return True
    return _before_values(_STRING.sub(b"", value)) > MOST_VALUES


def names_twice(value: bytes, decoded: Any) -> bool:
    """Whether an object in this JSON names a member twice: of those the decoder has kept one."""
    # Outside of strings a colon stands once for each member.
    members = _members(decoded)
    return value.count(b":") != members and _STRING.sub(b"", value).count(b":") != members


def _before_values(value: bytes) -> int:
    return sum(map(value.count, _BEFORE_VALUES)) - sum(map(value.count, _NOTHING_IN))


def _members(decoded: Any) -> int:
    """The number of members of all objects in the value."""
    count, rest = 0, [decoded]
    while rest:
        match rest.pop():
            case dict() as members:
                count += len(members)
                rest += [one for one in members.values() if isinstance(one, dict | list)]
            case list() as items:
                rest += [one for one in items if isinstance(one, dict | list)]
    return count
