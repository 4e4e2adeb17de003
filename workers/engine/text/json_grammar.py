"""A JSON Schema as a grammar, and the bounds that the grammar library lacks: for numbers and texts without an end."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import llguidance
import numpy as np

from guideway.schemas.json_schema.keywords import prepared
from guideway.schemas.output import GRAMMAR_OPTIONS, check_schema
from guideway.workers.engine.faults import unsatisfiable
from guideway.workers.engine.text.incomplete import grown
from guideway.workers.engine.text.json_text import JsonText

_DIGITS: Final = re.compile(rb"\+?([0-9]+)")

Mask = np.ndarray[Any, Any]


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
    """Watches one row's JSON as it is written."""

    def __init__(self, digits: Digits, schema: Mapping[str, Any]) -> None:
        self._digits = digits
        self._schema = schema
        self._text = JsonText()

    def see(self, data: bytes) -> None:
        """Go on by `data`.

        Raises: Refusal `output_incomplete` or `output_unreadable` if a value in it grows without an end.
        """
        self._text.see(data)
        while self._text.crossings:
            if (refusal := grown(self._text.crossings.pop(0), self._schema)) is not None:
                raise refusal

    @property
    def kept(self) -> Mask | None:
        """int32 [⌈vocabulary / 32⌉]: bit t is 0 if token t would make a number that no float holds; None: no token."""
        if self._text.is_exact:
            return self._digits.none
        exponent = self._text.exponent
        return None if exponent is None else self._digits.kept(*exponent)
