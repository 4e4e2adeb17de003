"""Lines of `sasl.jaas.config`, as Java clients have them. Pure.

    org.apache.kafka.common.security.scram.ScramLoginModule required username="shop" password="a\\"b";

As `org.apache.kafka.common.security.JaasConfig` reads them, by Java's StreamTokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

_TOKENS: Final = re.compile(
    r"""\s+|//[^\n]*|/\*.*?\*/|(?P<word>[^\s"'=;/]+(?:/(?![/*])[^\s"'=;/]*)*)|(?P<sign>[=;])"""
    r"""|"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)'""",
    re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\([0-3]?[0-7]{1,2}|.)", re.DOTALL)
_LETTERS: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_FLAGS: Final = ("required", "requisite", "sufficient", "optional")


class Jaas(NamedTuple):
    """How to log in, in Java's words."""

    module: str
    """The last part of its name: `ScramLoginModule`."""
    options: Mapping[str, str]


class Malformed(ValueError):
    """No line of `sasl.jaas.config`. The message does not quote it: it holds a password."""


def read_jaas(text: str) -> Jaas:
    """The module and its options. Raises Malformed, also where there are several modules."""
    tokens = _tokens(text)
    if len(tokens) < 3 or tokens[1][1].lower() not in _FLAGS:
        raise Malformed('it is not of the form `MODULE required NAME="VALUE" …;`')
    options: dict[str, str] = {}
    at = 2
    while at < len(tokens) and tokens[at] != ("sign", ";"):
        name, equals, value = (*tokens[at : at + 3], *[("end", "")] * 3)[:3]
        if name[0] != "word" or equals != ("sign", "=") or value[0] not in ("word", "text"):
            raise Malformed(f'option {len(options) + 1} is not of the form NAME="VALUE", or the semicolon is missing')
        if name[1] in options:
            raise Malformed(f"it has the option {name[1][:40]} twice")
        options[name[1]] = value[1]
        at += 3
    if at == len(tokens):
        raise Malformed("the semicolon at its end is missing")
    if at + 1 < len(tokens):
        raise Malformed("something stands after its first semicolon: guideway takes one module")
    return Jaas(tokens[0][1].rpartition(".")[2], options)


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        match = _TOKENS.match(text, at)
        if match is None:
            raise Malformed("a quotation mark is opened and not closed, or a letter stands where none may")
        at = match.end()
        match match.lastgroup:
            case "word" | "sign" as kind:
                found.append((kind, match[kind]))
            case "double" | "single" as kind:
                found.append(("text", _ESCAPE.sub(_escaped, match[kind])))
    return found


def _escaped(match: re.Match[str]) -> str:
    code = match[1]
    return chr(int(code, 8)) if code[0] in "01234567" else _LETTERS.get(code, code)
