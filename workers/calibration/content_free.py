"""Texts of several kinds that say nothing about any label.

They define the method `contextual`: with other texts it would be another method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_SIGNS: Final = ("N/A", "[MASK]", "?", "...", "-", "None")
_FREQUENT: Final = (
    "the of and a in to it is was for with on as be at by this from or an are not have but they which one you "
    "were all we when there can more if no man out other so what time up go about than into could state only new "
    "some take come these know see use get like then first any work now may such give over think most even find "
    "day also after way many must look before great back through long where much should well people down own just "
    "because good each those feel seem how high too place little world very still nation hand old life tell write "
    "become here show house both between need mean call develop under last right move thing general school never "
    "same another begin while number part turn"
)
"""Frequent English words, roughly the most frequent first."""
_WORDS: Final = _FREQUENT.split()
_LENGTHS: Final = (3, 5, 8, 12, 16, 24, 4, 6, 10, 14)
_STRIDE: Final = 37
"""Step through the words. It has no common divisor with their number, so all are reached; neighbours are unrelated."""


def kinds(labels: Sequence[str]) -> list[list[str]]:
    """Texts by kind: signs; words without order; the labels themselves; and each label in a sentence."""
    return [list(_SIGNS), _without_order(), list(labels), [f"It is about {label}." for label in labels]]


def _without_order() -> list[str]:
    texts, at = [], 0
    for length in _LENGTHS:
        texts.append(" ".join(_WORDS[(at + place) * _STRIDE % len(_WORDS)] for place in range(length)))
        at += length
    return texts
