"""Java's properties files, as `java.util.Properties.load` reads them. Pure.

Source: https://docs.oracle.com/en/java/javase/21/docs/api/java.base/java/util/Properties.html. Two things differ: the
text is UTF-8, and a backslash before a letter that means nothing is refused. Java drops it without a word, librdkafka
keeps it, and a password is wrong in one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

_ESCAPES: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_PLAIN: Final = frozenset("\\:=#!\"' ;,")
"""What stands for itself after a backslash."""
_BLANKS: Final = " \t\f"
_LINE_ENDS: Final = re.compile(r"\r\n|\r|\n")


class Property(NamedTuple):
    """One entry."""

    key: str
    value: str
    line: int
    """Where it begins, from 1."""


class Malformed(ValueError):
    """A line that is no property. The message names the line, and not what stands there, which may be a secret."""


def read_properties(text: str) -> list[Property]:
    """All entries in order; a key may come twice. Raises Malformed."""
    return [_property(line, number) for line, number in _logical_lines(text.removeprefix("\ufeff"))]


def _logical_lines(text: str) -> Iterator[tuple[str, int]]:
    """Lines without comments and blank ones; those that end in an odd number of backslashes go on in the next."""
    held, began = "", 0
    for number, natural in enumerate(_LINE_ENDS.split(text), 1):
        line = natural.lstrip(_BLANKS)
        if not began and (not line or line[0] in "#!"):
            continue
        began = began or number
        if (len(line) - len(line.rstrip("\\"))) % 2:
            held += line[:-1]
            continue
        yield held + line, began
        held, began = "", 0
    if held:
        yield held, began


def _property(line: str, number: int) -> Property:
    end = 0
    while end < len(line) and line[end] not in f"=:{_BLANKS}":
        end += 2 if line[end] == "\\" else 1
    rest = line[end:].lstrip(_BLANKS)
    if rest[:1] in ("=", ":"):
        rest = rest[1:].lstrip(_BLANKS)
    return Property(_unescaped(line[:end], number), _unescaped(rest, number), number)


def _unescaped(text: str, number: int) -> str:
    found, at = [], 0
    while at < len(text):
        if text[at] != "\\":
            found.append(text[at])
            at += 1
            continue
        mark = text[at + 1 : at + 2]
        if mark == "u":
            digits = text[at + 2 : at + 6]
            if not re.fullmatch("[0-9A-Fa-f]{4}", digits):
                raise Malformed(f"line {number}: \\u stands before four hexadecimal digits; write \\\\ for a backslash")
            found.append(chr(int(digits, 16)))
            at += 6
            continue
        if mark not in _ESCAPES and mark not in _PLAIN:
            raise Malformed(f"line {number}: a backslash stands before {mark!r}: write \\\\ for a backslash")
        found.append(_ESCAPES.get(mark, mark))
        at += 2
    # Letters beyond the basic plane are written as two surrogates.
    try:
        return "".join(found).encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise Malformed(f"line {number}: half a letter (a lone surrogate): write the letter itself") from None
