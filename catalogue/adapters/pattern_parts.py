"""The parser of patterns of module names. `module_patterns.py` says what a pattern is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

_MAX_DEPTH: Final = 50
_MAX_REPEAT: Final = 1_000
_SPECIAL: Final = frozenset("\\^$.|?*+()[]{}")

Test = Callable[[str], bool]
_CLASSES: Final[dict[str, Test]] = {
    "d": str.isdecimal,
    "w": lambda char: char.isalnum() or char == "_",
    "s": str.isspace,
    "D": lambda char: not char.isdecimal(),
    "W": lambda char: not (char.isalnum() or char == "_"),
    "S": lambda char: not char.isspace(),
}


class PatternRefused(Exception):
    """A pattern is of an unknown kind or too costly; the text says which."""


@dataclass(frozen=True)
class Char:
    """One character that passes the test."""

    test: Test


@dataclass(frozen=True)
class Anchor:
    """The beginning or the end of the name."""

    at_end: bool


@dataclass(frozen=True)
class Series:
    """One part after the other."""

    parts: Sequence[Node]


@dataclass(frozen=True)
class Alternation:
    """One of these."""

    branches: Sequence[Node]


@dataclass(frozen=True)
class Repeat:
    """The part from `least` to `most` times; `most` None: any number of times."""

    part: Node
    least: int
    most: int | None


Node = Char | Anchor | Series | Alternation | Repeat


class Parser:
    """Reads one pattern, from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def parsed(self) -> Node:
        """The whole pattern as a tree. Raises PatternRefused."""
        found = self._choice(0)
        if self._at < len(self._pattern):
            raise self._refused("has a `)` too many")
        return found

    def _choice(self, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise self._refused("is nested too deeply")
        branches = [self._sequence(depth)]
        while self._takes("|"):
            branches.append(self._sequence(depth))
        return branches[0] if len(branches) == 1 else Alternation(branches)

    def _sequence(self, depth: int) -> Node:
        parts = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            part = self._one(depth)
            bounds = self._bounds()
            if bounds is not None:
                if isinstance(part, Anchor):
                    raise self._refused("repeats `^` or `$`")
                part = Repeat(part, *bounds)
                self._takes("?")  # the shortest first, which finds the same
                if self._at < len(self._pattern) and self._pattern[self._at] in "*+?{":
                    raise self._refused("repeats a repetition")
            parts.append(part)
        return parts[0] if len(parts) == 1 else Series(parts)

    def _one(self, depth: int) -> Node:
        char = self._next()
        match char:
            case "(":
                if self._takes("?") and not self._takes(":"):
                    raise self._refused("has a group of a special kind")
                inner = self._choice(depth + 1)
                if not self._takes(")"):
                    raise self._refused("lacks a `)`")
                # Kept as a group: in `(^)*` the anchor itself is not repeated.
                return Series([inner])
            case "[":
                return Char(self._set())
            case ".":
                return Char(lambda char: char != "\n")
            case "^" | "$":
                return Anchor(at_end=char == "$")
            case "\\":
                return Char(self._escaped())
            case _ if char in _SPECIAL:
                raise self._refused(f"has a `{char}` where none can be")
        return Char(char.__eq__)

    def _bounds(self) -> tuple[int, int | None] | None:
        """(least, most) of a repetition, if one follows."""
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._takes(sign):
                return bounds
        if not self._takes("{"):
            return None
        least = self._number()
        most = (self._number() if self._takes(",") else least) if least is not None or self._ahead(",") else None
        exact = self._pattern[self._at - 1] != ","
        if not self._takes("}") or (least is None and most is None) or (most is not None and most < (least or 0)):
            raise self._refused("has a `{` that begins no `{m}` or `{m,n}`")
        return least or 0, most if exact else None

    def _number(self) -> int | None:
        begin = self._at
        while self._at < len(self._pattern) and self._pattern[self._at] in "0123456789":
            self._at += 1
        digits = self._pattern[begin : self._at]
        if len(digits) > 4 or (digits and int(digits) > _MAX_REPEAT):
            raise self._refused(f"repeats more than {_MAX_REPEAT} times")
        return int(digits) if digits else None

    def _set(self) -> Test:
        negated = self._takes("^")
        tests: list[Test] = []
        while not tests or not self._takes("]"):
            first = self._member()
            if not isinstance(first, str):
                tests.append(first)
            elif self._ahead("-") and not self._ahead("-]"):
                self._next()
                last = self._member()
                if not isinstance(last, str) or last < first:
                    raise self._refused("has a range in `[...]` that is none")
                tests.append(lambda char, first=first, last=last: first <= char <= last)  # type: ignore[misc]
            else:
                tests.append(first.__eq__)
        return lambda char: any(test(char) for test in tests) != negated

    def _member(self) -> str | Test:
        """A character of `[...]`, or a class of them."""
        char = self._next()
        if char == "\\":
            if self._at < len(self._pattern) and self._pattern[self._at] in _CLASSES:
                return _CLASSES[self._next()]
            return self._literal()
        # Python takes some of these for characters; others may get a meaning one day.
        if char in "[]&~|" or (char == "-" and not self._ahead("]")):
            raise self._refused(f"has a `{char}` in `[...]`: write a backslash before it")
        return char

    def _escaped(self) -> Test:
        if self._at < len(self._pattern) and self._pattern[self._at] in _CLASSES:
            return _CLASSES[self._next()]
        return self._literal().__eq__

    def _literal(self) -> str:
        """The character that follows a backslash and stands for itself."""
        char = self._next()
        if char.isalnum() or not char.isascii():
            raise self._refused(f"has `\\{char}`, which is not known here")
        return char

    def _ahead(self, text: str) -> bool:
        return self._pattern.startswith(text, self._at)

    def _takes(self, sign: str) -> bool:
        found = self._ahead(sign)
        self._at += len(sign) if found else 0
        return found

    def _next(self) -> str:
        if self._at >= len(self._pattern):
            raise self._refused("ends too early")
        self._at += 1
        return self._pattern[self._at - 1]

    def _refused(self, why: str) -> PatternRefused:
        shown = self._pattern if len(self._pattern) <= 60 else self._pattern[:60] + "…"
        return PatternRefused(f"its pattern {shown!r} {why}: write plain names of modules")
