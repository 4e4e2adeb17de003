"""PEFT's patterns of module names, matched in linear time, so that no pattern can block a worker.

PEFT reads them as regular expressions of Python. A pattern P matches a module of name N if
`re.match(rf"(.*\\.)?({P})$", N)` finds something: P describes the whole of N, or what follows one of its dots
(`peft.utils.other.get_pattern_key`). Python's matcher backtracks, and a hostile pattern can make it run for ages. So
this is a matcher of our own, which follows all places of the pattern at once (Thompson 1968, "Regular expression search
algorithm"; https://swtch.com/~rsc/regexp/regexp2.html). It knows what patterns of names consist of:

letters, digits and the like, `.`, `\\.`, `\\d`, `\\w`, `\\s` and their opposites, `[...]`, `(...)`, `(?:...)`, `|`,
`*`, `+`, `?`, `{m}`, `{m,n}`, `^` and `$`, with their meaning in Python. It refuses everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, assert_never

from guideway.catalogue.adapters.pattern_parts import (
    Alternation,
    Anchor,
    Char,
    Node,
    Parser,
    PatternRefused,
    Repeat,
    Series,
    Test,
)

__all__ = ["Effort", "ModulePattern", "PatternRefused", "first_match"]

_MAX_CHARS: Final = 1_000
_MAX_STEPS: Final = 5_000
"""The most steps of one pattern, with its repetitions written out."""


class Effort:
    """How many steps of patterns may still be compared; about a million take a second."""

    def __init__(self, looks: int) -> None:
        self._left = looks

    def spend(self, looks: int) -> None:
        """Use up so many. Raises PatternRefused if fewer are left."""
        self._left -= looks
        if self._left < 0:
            raise PatternRefused("its patterns take too long to match: write fewer, or plain names of modules")


_Step = Test | tuple[int, ...] | Anchor
"""One character, then the next step; or go on at each of these steps; or an anchor. After the last step: a match."""


class ModulePattern:
    """One pattern."""

    def __init__(self, pattern: str, effort: Effort) -> None:
        """Read the pattern. Raises PatternRefused."""
        effort.spend(len(pattern))
        if len(pattern) > _MAX_CHARS:
            raise PatternRefused(f"a pattern has {len(pattern)} characters, at most {_MAX_CHARS} are taken: shorten it")
        parsed = Parser(pattern).parsed()
        self._plain = _plain(parsed)
        anything = Repeat(Char(lambda char: char != "\n"), 0, None)
        before = Repeat(Series([anything, Char(".".__eq__)]), 0, 1)
        self._steps: list[_Step] = []
        if self._plain is None:
            _write(Series([before, parsed]), self._steps)
        effort.spend(len(self._steps))

    def matches(self, name: str, effort: Effort) -> bool:
        """Whether it matches the module of that name, which has no line break. Raises PatternRefused."""
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
        """All places that can be reached from these without a character."""
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
                case Anchor(at_end=ends):
                    ahead += [place + 1] if (at_end if ends else at_start) else []
        effort.spend(1 + len(reached))
        return reached


def _takes(steps: Sequence[_Step], place: int, char: str) -> bool:
    step = steps[place] if place < len(steps) else ()
    return callable(step) and step(char)


def _plain(node: Node) -> tuple[list[Test], bool] | None:
    """The tests of a pattern of fixed length, one for each character, and whether it is anchored at the beginning."""
    parts = list(node.parts) if isinstance(node, Series) else [node]
    from_start = bool(parts) and parts[0] == Anchor(at_end=False)
    parts = parts[1:] if from_start else parts
    parts = parts[:-1] if parts and parts[-1] == Anchor(at_end=True) else parts
    tests = [part.test for part in parts if isinstance(part, Char)]
    return (tests, from_start) if len(tests) == len(parts) else None


def _write(node: Node, steps: list[_Step]) -> None:
    """Add the node's steps to `steps`."""
    if len(steps) > _MAX_STEPS:
        raise PatternRefused(
            "a pattern is too large when its repetitions are written out: write plain names of modules"
        )
    match node:
        case Char():
            steps.append(node.test)
        case Anchor():
            steps.append(node)
        case Series():
            for part in node.parts:
                _write(part, steps)
            if not node.parts:
                steps.append((len(steps) + 1,))  # an empty part counts as a step: a million of them take time as well
        case Alternation():
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
        case Repeat():
            _write_repeat(node, steps)
        case _:
            assert_never(node)


def _write_repeat(node: Repeat, steps: list[_Step]) -> None:
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


def first_match(patterns: Sequence[tuple[ModulePattern, float]], name: str, effort: Effort) -> float | None:
    """The value of the first pattern that matches the module; None if none does. Raises PatternRefused."""
    return next((value for pattern, value in patterns if pattern.matches(name, effort)), None)
