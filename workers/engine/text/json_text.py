"""What is open in a JSON text: read byte by byte as it is written, so that a value without end is seen early. Pure."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

from guideway.schemas.json_schema.places import MOST_CHARS, MOST_DIGITS, MOST_ITEMS, What

_DIGITS: Final = frozenset(b"0123456789")
_IN_NUMBERS: Final = _DIGITS | frozenset(b"+-.eE")
_BEGIN_NUMBERS: Final = _DIGITS | frozenset(b"-")
_IN_EXPONENT: Final = re.compile(rb"-?([0-9]+)(?:\.[0-9]+)?[eE]\+?([0-9]*)")
_VANISHED: Final = re.compile(rb"-?[0-9]{1,400}(?:\.[0-9]+)?[eE]-0*[1-9][0-9]{3,}")
_MOST: Final = 308
"""Every number below 10 to the power of this is a float."""
_EXACT: Final = 20
"""Digits from the first that is not 0: no further one changes the float of 64 bits that readers make of a number."""
_APART: Final = 17
"""Digits that tell all floats of 64 bits apart."""
_MOST_AFTER: Final = 40
"""Digits after the point, or in the exponent."""
_WHOLE, _FRACTION, _EXPONENT = range(3)

Grown = What | Literal["fraction", "exponent", "twice"]
"""`twice`: an object names a member again."""


@dataclass(slots=True)
class Open:
    """An object, an array, a string or a number that has begun and not ended."""

    what: What
    start: int
    """Where it begins, in bytes of the text."""
    size: int = 0
    """Members, elements, characters or digits so far."""
    name: str | None = None
    """Of an object's member that is being written."""
    names: set[bytes] = field(default_factory=set)
    """Of an object's members, as they are written."""
    expects_name: bool = True


class Crossing(NamedTuple):
    """A value has just grown larger than one may that has no bound of its own."""

    what: Grown
    path: tuple[str | int, ...]
    negative: bool = False
    names: frozenset[bytes] = frozenset()


class JsonText:
    """Owner of what is open at the end of the text so far, and of what has grown too large in it."""

    def __init__(self) -> None:
        self.open: list[Open] = []
        self.crossings: list[Crossing] = []
        """In the order in which they happened; the caller takes out those that it has looked at."""
        self.size = 0
        """Bytes."""
        self._in_string = self._in_name = self._is_escaped = False
        self._name = bytearray()
        self._number = bytearray()
        self._digits = [0, 0, 0]
        self._significant = 0
        self._phase = _WHOLE

    def see(self, data: bytes) -> None:
        """Go on by `data`."""
        for byte in data:
            if self._in_string:
                self._see_in_string(byte)
            elif byte in (_IN_NUMBERS if self._number else _BEGIN_NUMBERS):
                self._see_in_number(byte)
            else:
                self._end_number()
                self._see_outside(byte)
            self.size += 1

    def copy(self) -> JsonText:
        """Another one, of the same text."""
        other = copy.copy(self)
        other.open = [replace(one, names={*one.names}) for one in self.open]
        other.crossings, other._digits = [*self.crossings], [*self._digits]
        other._name, other._number = bytearray(self._name), bytearray(self._number)
        return other

    @property
    def ends(self) -> bytes:
        """The bytes that may end the value that the text ends in, if that is a string or a number; else empty."""
        if self._in_string:
            return b"" if self._in_name or self._is_escaped else b'"'
        return b",]}" if self._number else b""

    @property
    def path(self) -> tuple[str | int, ...]:
        """The path of the value that the text ends in."""
        return path_of(self.open)

    @property
    def exponent(self) -> tuple[int, int] | None:
        """In an exponent without a minus, what it is so far and what it may be at most; None elsewhere."""
        if not (match := _IN_EXPONENT.fullmatch(self._number)):
            return None
        # There may be as many digits as the text has tokens; leading zeros do not count.
        return int(match[2].lstrip(b"0")[:9] or b"0"), max(0, _MOST - len(match[1]))

    @property
    def is_exact(self) -> bool:
        """Whether the text ends in a number that no further digit changes: its fraction is long, or it is 0 already."""
        if self._phase == _EXPONENT:
            return _VANISHED.fullmatch(self._number) is not None
        return self._phase == _FRACTION and self._digits[_FRACTION] > 0 and self._significant >= _EXACT

    def _see_in_string(self, byte: int) -> None:
        if not self._is_escaped and byte == ord('"'):
            self._end_string()
            return
        if self._in_name:
            self._name.append(byte)
        continues = byte & 0xC0 == 0x80
        if not self._is_escaped and not continues:
            self.open[-1].size += 1
            if self.open[-1].size == MOST_CHARS + 1:
                self._cross("object" if self._in_name else "string", self.open[: -1 - self._in_name])
        self._is_escaped = not self._is_escaped and byte == ord("\\")

    def _see_in_number(self, byte: int) -> None:
        if not self._number:
            self._begin_value()
            self.open.append(Open("number", self.size))
            self._digits, self._significant, self._phase = [0, 0, 0], 0, _WHOLE
        self._number.append(byte)
        if byte in _DIGITS:
            self._digits[self._phase] += 1
            self._significant += self._phase != _EXPONENT and (self._significant > 0 or byte != ord("0"))
            self.open[-1].size += 1
            self._measure()
        elif byte == ord("."):
            self._phase = _FRACTION
        elif byte in b"eE":
            self._phase = _EXPONENT

    def _measure(self) -> None:
        digits = self._digits[self._phase]
        if self._phase == _WHOLE and digits == MOST_DIGITS + 1:
            self._cross("number", self.open, negative=self._number.startswith(b"-"))
        elif self._phase == _FRACTION and digits == _MOST_AFTER and self._significant < _APART:
            self._cross("fraction", self.open)
        elif self._phase == _EXPONENT and digits == _MOST_AFTER:
            self._cross("exponent", self.open)

    def _end_number(self) -> None:
        if self._number:
            self._number.clear()
            self._phase = _WHOLE
            self.open.pop()

    def _see_outside(self, byte: int) -> None:
        holder = self.open[-1] if self.open else None
        if byte == ord('"'):
            self._in_string, self._is_escaped = True, False
            self._in_name = holder is not None and holder.what == "object" and holder.expects_name
            if not self._in_name:
                self._begin_value()
            self.open.append(Open("string", self.size))
        elif byte in b"{[":
            self._begin_value()
            self.open.append(Open("object" if byte == ord("{") else "array", self.size))
        elif byte in b"tfn":
            self._begin_value()
        elif byte in b"}]" and holder is not None:
            self.open.pop()
        elif byte == ord(",") and holder is not None:
            holder.expects_name, holder.name = True, None

    def _end_string(self) -> None:
        self._in_string = False
        self.open.pop()
        if not self._in_name:
            return
        name, holder = bytes(self._name), self.open[-1]
        self._name.clear()
        holder.name, holder.expects_name = _decoded(name), False
        if name in holder.names:
            self._cross("twice", self.open)
        holder.names.add(name)
        holder.size += 1
        if holder.size > MOST_ITEMS:
            self._cross("object", self.open[:-1], names=frozenset(holder.names))

    def _begin_value(self) -> None:
        holder = self.open[-1] if self.open else None
        if holder is not None and holder.what == "array":
            holder.size += 1
            if holder.size == MOST_ITEMS + 1:
                self._cross("array", self.open[:-1])

    def _cross(
        self, what: Grown, holders: Sequence[Open], *, negative: bool = False, names: frozenset[bytes] = frozenset()
    ) -> None:
        self.crossings.append(Crossing(what, path_of(holders), negative, names))


def path_of(holders: Sequence[Open]) -> tuple[str | int, ...]:
    """The path of the innermost of `holders`, each of which stands in the one before: names and numbers."""
    steps: list[str | int] = []
    for one in holders:
        if one.what == "array":
            steps.append(max(0, one.size - 1))
        elif one.what == "object" and one.name is not None:
            steps.append(one.name)
    return tuple(steps)


def _decoded(name: bytes) -> str:
    try:
        return str(json.loads(b'"' + name + b'"'))
    except ValueError:
        return name.decode(errors="replace")
