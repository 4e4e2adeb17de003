"""Text that others wrote, as it may reach a terminal: as text, and never as a command to it."""

from __future__ import annotations

import json
import unicodedata
from typing import Final

_JOINERS: Final = frozenset("\u200c\u200d")
"""Invisible, and part of how Persian or an emoji is written."""


def printable(text: str) -> str:
    """The text with every character escaped that could move the cursor, reverse the writing or command the terminal.

    Line ends, tabs and the spaces of every script stay.
    """
    return text if text.isprintable() else "".join(one if one in "\n\t" else on_one_line(one) for one in text)


def on_one_line(text: str) -> str:
    """`printable`, with line ends and tabs escaped as well: the text cannot look like a further line.

    JSON stays the JSON that it was.
    """
    if text.isprintable():
        return text
    return "".join(one if _is_harmless(one) else json.dumps(one)[1:-1] for one in text)


def _is_harmless(one: str) -> bool:
    return one.isprintable() or one in _JOINERS or unicodedata.category(one) == "Zs"
