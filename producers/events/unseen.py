"""Characters that nobody sees: spaces, controls, and what Unicode calls ignorable. Pure.

Of format characters some are seen, such as the number signs of Arabic (U+0600): these are none.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_SPACE: Final = " \t\n\r"
"""What JSON may have before a value."""
_RANGES: Final = (
    *((0x0B, 0x0C), (0x1C, 0x1F), (0x85, 0x85), (0xA0, 0xA0), (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C)),
    *((0x115F, 0x1160), (0x1680, 0x1680), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2000, 0x200F), (0x2028, 0x202F)),
    *((0x205F, 0x206F), (0x2800, 0x2800), (0x3000, 0x3000), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF)),
    *((0xFFA0, 0xFFA0), (0xFFF9, 0xFFFB), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0001, 0xE0001)),
    *((0xE0020, 0xE007F), (0xE0100, 0xE01EF)),
)
_UNSEEN: Final = "".join(chr(code) for first, last in _RANGES for code in range(first, last + 1))
"""Those that are no white space of JSON, such as U+00A0."""
UNSEEN: Final = _UNSEEN + "".join(map(chr, [*range(0x21), *range(0x7F, 0xA0)]))
"""A text of these alone says nothing."""
_OBJECT: Final = re.compile(rf"\{{[{_SPACE}{_UNSEEN}]*+[\"'\u201c}}]")
"""How JSON objects begin, and what people take for one."""


def seen(text: str) -> str:
    """The text from the first character on that people see."""
    return text.lstrip(_SPACE + _UNSEEN)


def before_object(text: str) -> str:
    """The first unseen character before what begins like a JSON object; empty where there is none."""
    if text[:1].isalnum() or not _OBJECT.match(rest := seen(text)):
        return ""
    return text[: len(text) - len(rest)].lstrip(_SPACE)[:1]


def is_unseen(char: str) -> bool:
    """Whether it is such a character."""
    return char != "" and char in _UNSEEN


def named(char: str) -> str:
    """`U+00A0 (NO-BREAK SPACE)`."""
    name = unicodedata.name(char, "")
    return f"U+{ord(char):04X}" + (f" ({name})" if name else "")
