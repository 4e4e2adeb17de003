"""A JSON Schema as a grammar, and the bounds that the grammar library lacks: for numbers and texts without an end."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import llguidance
import numpy as np

from guideway.schemas.json_schema.keywords import prepared
from guideway.schemas.output import GRAMMAR_OPTIONS, check_schema
from guideway.workers.engine.faults import unsatisfiable
from guideway.workers.engine.text.incomplete import grown
from guideway.workers.engine.text.json_text import JsonText

_DIGITS: Final = re.compile(rb"\+?([0-9]+)")
_PUNCTUATION: Final = re.compile(rb'[][{}":,]{1,8}')

_FEW, _LONG, _PLACES, _PAST = 2, 16, 128, 64
"""What is known before anything was seen counts as so many texts. Values of more tokens are told apart no further. So
many places are known of a grammar, and what was seen there is halved after so many texts."""
_AT_FIRST: Final = 0.2
"""How probably a value ends at a place where nothing was seen yet."""

Mask = np.ndarray[Any, Any]


class Place(NamedTuple):
    """Where a value may end."""

    value: int
    """A hash of the names of the members in which it stands: names may be of a text, and no text is kept."""
    tokens: int
    """How many tokens of it there are."""


class End(NamedTuple):
    """How a value ends, and what then comes in any case."""

    data: bytes
    token_ids: Sequence[int]
    """Empty where the value may end in several ways."""


class Habits:
    """How the model writes the texts of one grammar, which all its rows share: how often values ended where they could,
    and which token it chose where only the division of characters was open. The model's `common` habits with
    punctuation are those of all grammars.
    """

    def __init__(self, common: dict[bytes, int] | None = None) -> None:
        self._seen: dict[Place, list[int]] = {}
        """At each place: how many values ended, and how many came there."""
        self._ends: dict[int, End] = {}
        self._own: dict[bytes, int] = {}
        self._common = {} if common is None else common

    def probability(self, place: Place) -> float:
        """How probably a value ends here."""
        ended, came = self._seen.get(place, (0, 0))
        return (ended + _FEW * _AT_FIRST) / (came + _FEW)

    def hear(self, place: Place, *, ended: bool) -> None:
        """Count a value that came there."""
        if place not in self._seen and len(self._seen) >= _PLACES:
            return
        counts = self._seen.setdefault(place, [0, 0])
        counts[0] += ended
        counts[1] += 1
        if counts[1] >= _PAST:
            counts[:] = [count // 2 for count in counts]

    def end(self, place: Place) -> End | None:
        """How the value there ended the last time that it was asked for. It may have been another value: in an array,
        or of another alternative.
        """
        return self._ends.get(place.value)

    def keep(self, place: Place, end: End) -> None:
        """Keep it for those that come there; until the model writes something else in another way."""
        if len(self._ends) < _PLACES:
            self._ends[place.value] = end

    def token(self, data: bytes) -> int | None:
        """The token that the model last began these bytes with; None if it never did, or they begin with a letter."""
        mark = _marks(data)
        return self._own.get(mark, self._common.get(mark))

    def wrote(self, data: bytes, token: int) -> None:
        """Note the token that it began these bytes with."""
        if mark := _marks(data):
            for known in (self._own, self._common):
                if known.get(mark) != token and (mark in known or len(known) < _PLACES):
                    known[mark] = token
                    self._ends.clear()


def _marks(data: bytes) -> bytes:
    found = _PUNCTUATION.match(data)
    return found[0] if found else b""


def json_source(schema: dict[str, Any]) -> str:
    """The schema in llguidance's grammar format. Raises: Refusal `output_unsatisfiable` if llguidance refuses it."""
    # The owner's settings of the grammar library could make it write what is not JSON, or not of the schema.
    schema = {key: content for key, content in schema.items() if key != GRAMMAR_OPTIONS}
    # Without flexible white space a small model cannot lose itself in it.
    options = {"whitespace_flexible": False}
    try:
        check_schema(schema)
        return str(llguidance.LLMatcher.grammar_from_json_schema(prepared(schema), overrides=options))
    except ValueError as error:
        raise unsatisfiable(str(error)) from None


class Digits:
    """Owner of the masks against tokens with too many digits; one for a vocabulary."""

    def __init__(self, bytes_of: Callable[[Sequence[int]], bytes], *, vocabulary: int) -> None:
        found = ((id_, _DIGITS.match(bytes_of([id_]))) for id_ in range(vocabulary))
        self._digits = [(id_, match[1]) for id_, match in found if match]
        self._vocabulary = vocabulary

    @functools.lru_cache(maxsize=64)  # noqa: B019 -- one lives as long as the engine
    def kept(self, begun: int, most: int) -> Mask:
        """int32 [⌈vocabulary / 32⌉]: bit t is 0 if token t would make an exponent that begins with `begun` more than
        `most`."""
        return self._without(id_ for id_, digits in self._digits if int(b"%d%b" % (begun, digits[:9])) > most)

    @functools.cached_property
    def none(self) -> Mask:
        """int32 [⌈vocabulary / 32⌉]: bit t is 0 if token t begins with a digit."""
        return self._without(id_ for id_, _ in self._digits)

    def _without(self, ids: Iterable[int]) -> Mask:
        bits = np.ones((self._vocabulary + 31) // 32 * 32, dtype=np.uint8)
        bits[[*ids]] = 0
        return np.packbits(bits, bitorder="little").view(np.int32)


class JsonWatch:
    """Watches one row's JSON as it is written, token by token."""

    def __init__(self, digits: Digits, schema: Mapping[str, Any]) -> None:
        self._digits = digits
        self._schema = schema
        self._text = JsonText()
        self._value, self._tokens = -1, 0

    def see(self, data: bytes) -> None:
        """Go on by `data`.

        Raises: Refusal `output_incomplete` or `output_unreadable` if a value in it grows without an end.
        """
        self._text.see(data)
        value = self._text.open[-1].start if self._text.open else -1
        self._value, self._tokens = value, self._tokens + 1 if value == self._value else 0
        while self._text.crossings:
            if (refusal := grown(self._text.crossings.pop(0), self._schema)) is not None:
                raise refusal

    def copy(self) -> JsonWatch:
        """Another watch, of the same text."""
        other = JsonWatch(self._digits, self._schema)
        other._text = self._text.copy()
        other._value, other._tokens = self._value, self._tokens
        return other

    @property
    def ends(self) -> bytes:
        """The bytes that may end the value that the text ends in, if that is a string or a number; else empty."""
        return self._text.ends

    @property
    def place(self) -> Place:
        """Where that value stands, and how long it is."""
        names = tuple(one for one in self._text.path if isinstance(one, str))
        return Place(hash(names), min(self._tokens, _LONG))

    @property
    def kept(self) -> Mask | None:
        """int32 [⌈vocabulary / 32⌉]: bit t is 0 if token t would make a number that no float holds; None: no token."""
        if self._text.is_exact:
            return self._digits.none
        exponent = self._text.exponent
        return None if exponent is None else self._digits.kept(*exponent)
