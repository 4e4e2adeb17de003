"""A JSON Schema as a grammar, and what the grammar library leaves open: exponents beyond a float of 64 bits."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import llguidance
import numpy as np

from guideway.schemas.json_schema import prepared
from guideway.schemas.output import GRAMMAR_OPTIONS, check_schema
from guideway.workers.engine.faults import unsatisfiable

_MOST: Final = 308
"""Every number below 10 to the power of this is a float."""
_OF_NUMBERS: Final = frozenset(b"0123456789+-.eE")
_IN_EXPONENT: Final = re.compile(rb"-?([0-9]+)(?:\.[0-9]+)?[eE]\+?([0-9]*)")
_DIGITS: Final = re.compile(rb"\+?([0-9]+)")


def json_source(schema: dict[str, Any]) -> str:
    """The schema in llguidance's grammar format. Raises Refusal `output_unsatisfiable` if llguidance cannot have it."""
    # The owner's settings of the grammar library could make it write what is not JSON, or not of the schema.
    schema = {key: content for key, content in schema.items() if key != GRAMMAR_OPTIONS}
    # Without flexible white space a small model cannot lose itself in it.
    options = {"whitespace_flexible": False}
    try:
        check_schema(schema)
        return str(llguidance.LLMatcher.grammar_from_json_schema(prepared(schema), overrides=options))
    except ValueError as error:
        raise unsatisfiable(str(error)) from None


class Exponents:
    """Which tokens would take an exponent too far; one for a vocabulary."""

    def __init__(self, bytes_of: Callable[[Sequence[int]], bytes], *, vocabulary: int) -> None:
        found = ((id_, _DIGITS.match(bytes_of([id_]))) for id_ in range(vocabulary))
        self._digits = [(id_, match[1]) for id_, match in found if match]
        self._vocabulary = vocabulary

    @functools.lru_cache(maxsize=64)  # noqa: B019 -- one lives as long as the engine
    def kept(self, begun: int, most: int) -> np.ndarray[Any, Any]:
        """int32 [⌈vocabulary / 32⌉]: bit t is 0 if token t would make an exponent that begins with `begun` more than
        `most`."""
        bits = np.ones((self._vocabulary + 31) // 32 * 32, dtype=np.uint8)
        too_far = [id_ for id_, digits in self._digits if int(b"%d%b" % (begun, digits[:9])) > most]
        bits[too_far] = 0
        return np.packbits(bits, bitorder="little").view(np.int32)


class JsonNumber:
    """The number that a text of JSON ends with, if it does."""

    def __init__(self) -> None:
        self._in_string = False
        self._is_escaped = False
        self._number = bytearray()

    def see(self, data: bytes) -> None:
        """The text goes on by `data`."""
        for byte in data:
            if self._in_string:
                self._in_string = self._is_escaped or byte != ord('"')
                self._is_escaped = not self._is_escaped and byte == ord("\\")
            elif byte in _OF_NUMBERS:
                self._number.append(byte)
            else:
                self._number.clear()
                self._in_string = byte == ord('"')

    @property
    def exponent(self) -> tuple[int, int] | None:
        """Where the text is in an exponent without a minus: what it is so far, and what it may be at most."""
        if not (match := _IN_EXPONENT.fullmatch(self._number)):
            return None
        # Digits may be as many as the text has tokens; zeros before the others count for nothing.
        return int(match[2].lstrip(b"0")[:9] or b"0"), max(0, _MOST - len(match[1]))
