"""PEFT's patterns of module names, matched in linear time: whoever wrote one cannot make anybody wait.

PEFT reads them as regular expressions of Python: a pattern P stands for a module of name N where
`re.match(rf"(.*\\.)?({P})$", N)` finds something, that is, where P describes the whole of N, or what follows one of its
dots (`peft.utils.other.get_pattern_key`). Python's matcher goes back and tries again, for ages if the pattern is made
for it; so there is one of our own, which is in all places of the pattern at once (Thompson 1968, "Regular expression
search algorithm"; https://swtch.com/~rsc/regexp/regexp2.html). It knows what patterns of names are made of:

letters, digits and the like, `.`, `\\.`, `\\d`, `\\w`, `\\s` and their opposites, `[...]`, `(...)`, `(?:...)`, `|`,
`*`, `+`, `?`, `{m}`, `{m,n}`, `^` and `$`, with the meaning that they have in Python. All else is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

_MAX_CHARS: Final = 1_000
_MAX_STEPS: Final = 5_000
"""Of a pattern written out, repetitions included."""
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
    """A pattern that is not of the kind described above, or too costly, in a sentence."""


class Effort:
    """How much matching may still be done, in looks at a step of a pattern; about a million are made in a second."""

    def __init__(self, looks: int) -> None:
        self._left = looks

    def spend(self, looks: int) -> None:
        """Raises PatternRefused when there is no more."""
        self._left -= looks
        if self._left < 0:
            raise PatternRefused("its patterns take too long to match: write fewer, or plain names of modules")


@dataclass(frozen=True)
class _Char:
    test: Test


@dataclass(frozen=True)
class _Anchor:
    at_end: bool


@dataclass(frozen=True)
class _Sequence:
    parts: Sequence[_Node]


@dataclass(frozen=True)
class _Choice:
    branches: Sequence[_Node]


@dataclass(frozen=True)
class _Repeat:
    part: _Node
    least: int
    most: int | None


_Node = _Char | _Anchor | _Sequence | _Choice | _Repeat
_Step = Test | tuple[int, ...] | _Anchor
"""One character, then the next step; or go on at each of these steps; or only here. The step after the last: found."""


class ModulePattern:
    """One pattern."""

    def __init__(self, pattern: str, effort: Effort) -> None:
        """Raises PatternRefused."""
        effort.spend(len(pattern))
        if len(pattern) > _MAX_CHARS:
            raise PatternRefused(f"a pattern has {len(pattern)} characters, at most {_MAX_CHARS} are taken: shorten it")
        parsed = _Parser(pattern).parsed()
        self._plain = _plain(parsed)
        anything = _Repeat(_Char(lambda char: char != "\n"), 0, None)
        before = _Repeat(_Sequence([anything, _Char(".".__eq__)]), 0, 1)
        self._steps: list[_Step] = []
        if self._plain is None:
            _write(_Sequence([before, parsed]), self._steps)
        effort.spend(len(self._steps))

    def matches(self, name: str, effort: Effort) -> bool:
        """Whether it stands for the module of that name, in which there is no line break. Raises PatternRefused."""
        if self._plain is not None:
            tests, from_start = self._plain
            effort.spend(1)
            start = len(name) - len(tests)
            if start < 0 or (start > 0 and (from_start or name[start - 1] != ".")):
                return False
            return all(test(char) for test, char in zip(reversed(tests), reversed(name), strict=False))
        places = self._closure([0], effort, at_start=True, at_end=not name)
        for at, char in enumerate(name, 1):
            after = [place + 1 for place in places if _takes(self._steps, place, char)]
            places = self._closure(after, effort, at_start=False, at_end=at == len(name))
        return len(self._steps) in places

    def _closure(self, places: Sequence[int], effort: Effort, *, at_start: bool, at_end: bool) -> set[int]:
        """All places that these lead to without a character."""
        reached: set[int] = set()
        ahead = list(places)
        while ahead:
            place = ahead.pop()
            if place in reached:
                continue
            reached.add(place)
            if place == len(self._steps):
                continue
            match self._steps[place]:
                case tuple() as others:
                    ahead += others
                case _Anchor(at_end=ends):
                    ahead += [place + 1] if (at_end if ends else at_start) else []
        effort.spend(1 + len(reached))
        return reached


def _takes(steps: Sequence[_Step], place: int, char: str) -> bool:
    step = steps[place] if place < len(steps) else ()
    return callable(step) and step(char)


def _plain(node: _Node) -> tuple[list[Test], bool] | None:
    """The tests of a pattern of fixed length, one for each character, and whether it begins where the name begins."""
    parts = list(node.parts) if isinstance(node, _Sequence) else [node]
    from_start = bool(parts) and parts[0] == _Anchor(at_end=False)
    parts = parts[1:] if from_start else parts
    parts = parts[:-1] if parts and parts[-1] == _Anchor(at_end=True) else parts
    tests = [part.test for part in parts if isinstance(part, _Char)]
    return (tests, from_start) if len(tests) == len(parts) else None


def _write(node: _Node, steps: list[_Step]) -> None:
    """The node's steps, after those that are there."""
    if len(steps) > _MAX_STEPS:
        raise PatternRefused(
            "a pattern is too large when its repetitions are written out: write plain names of modules"
        )
    match node:
        case _Char():
            steps.append(node.test)
        case _Anchor():
            steps.append(node)
        case _Sequence():
            for part in node.parts:
                _write(part, steps)
            if not node.parts:
                steps.append((len(steps) + 1,))  # nothing is a step as well, or a million of them would cost nothing
        case _Choice():
            fork = len(steps)
            steps.append(())
            begins, ends = [], []
            for branch in node.branches:
                begins.append(len(steps))
                _write(branch, steps)
                ends.append(len(steps))
                steps.append(())
            steps[fork] = tuple(begins)
            for end in ends:
                steps[end] = (len(steps),)
        case _Repeat():
            _write_repeat(node, steps)
        case _:
            assert_never(node)


def _write_repeat(node: _Repeat, steps: list[_Step]) -> None:
    for _ in range(node.least):
        _write(node.part, steps)
    if node.most == 0:
        steps.append((len(steps) + 1,))
    if node.most is None:
        fork = len(steps)
        steps.append(())
        _write(node.part, steps)
        steps.append((fork,))
        steps[fork] = (fork + 1, len(steps))
        return
    forks = []
    for _ in range(node.most - node.least):
        forks.append(len(steps))
        steps.append(())
        _write(node.part, steps)
    for fork in forks:
        steps[fork] = (fork + 1, len(steps))


class _Parser:
    """Reads one pattern, from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def parsed(self) -> _Node:
        found = self._choice(0)
        if self._at < len(self._pattern):
            raise self._refused("has a `)` too many")
        return found

    def _choice(self, depth: int) -> _Node:
        if depth > _MAX_DEPTH:
            raise self._refused("is nested too deeply")
        branches = [self._sequence(depth)]
        while self._takes("|"):
            branches.append(self._sequence(depth))
        return branches[0] if len(branches) == 1 else _Choice(branches)

    def _sequence(self, depth: int) -> _Node:
        parts = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            part = self._one(depth)
            bounds = self._bounds()
            if bounds is not None:
                if isinstance(part, _Anchor):
                    raise self._refused("repeats `^` or `$`")
                part = _Repeat(part, *bounds)
                self._takes("?")  # the shortest first, which finds the same
                if self._at < len(self._pattern) and self._pattern[self._at] in "*+?{":
                    raise self._refused("repeats a repetition")
            parts.append(part)
        return parts[0] if len(parts) == 1 else _Sequence(parts)

    def _one(self, depth: int) -> _Node:
        char = self._next()
        match char:
            case "(":
                if self._takes("?") and not self._takes(":"):
                    raise self._refused("has a group of a special kind")
                inner = self._choice(depth + 1)
                if not self._takes(")"):
                    raise self._refused("lacks a `)`")
                # Kept apart: of `(^)*` the anchor is not what is repeated.
                return _Sequence([inner])
            case "[":
                return _Char(self._set())
            case ".":
                return _Char(lambda char: char != "\n")
            case "^" | "$":
                return _Anchor(at_end=char == "$")
            case "\\":
                return _Char(self._escaped())
            case _ if char in _SPECIAL:
                raise self._refused(f"has a `{char}` where none can be")
        return _Char(char.__eq__)

    def _bounds(self) -> tuple[int, int | None] | None:
        """Of a repetition, if one follows."""
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
        # Some of these are characters to Python, some may be signs one day.
        if char in "[]&~|" or (char == "-" and not self._ahead("]")):
            raise self._refused(f"has a `{char}` in `[...]`: write a backslash before it")
        return char

    def _escaped(self) -> Test:
        if self._at < len(self._pattern) and self._pattern[self._at] in _CLASSES:
            return _CLASSES[self._next()]
        return self._literal().__eq__

    def _literal(self) -> str:
        """The sign that follows a backslash and stands for itself."""
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


def first_match(patterns: Sequence[tuple[ModulePattern, float]], name: str, effort: Effort) -> float | None:
    """What the first pattern that stands for the module gives; None where none does. Raises PatternRefused."""
    return next((value for pattern, value in patterns if pattern.matches(name, effort)), None)
