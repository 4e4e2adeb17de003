"""The known word that is nearest to a wrong one, for messages to people. Too slow for every event. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice
from typing import Final

_MOST: Final = 20_000
"""So many known words are compared at most; each takes some microseconds."""
_LONGEST: Final = 300
"""Longer words, in characters, are not compared."""


def nearest(wrong: str, known: Iterable[str], *, least: float = 0.6) -> str | None:
    """The nearest known word, or None. least: the least similarity, from 0 to 1 (the same word)."""
    near = difflib.get_close_matches(wrong[:_LONGEST], islice(known, _MOST), 1, least)
    return near[0] if near else None


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """`did you mean X? ` with a space after it if a word is near, else an empty text."""
    found = nearest(wrong, known)
    return f"did you mean {found}? " if found is not None else ""
