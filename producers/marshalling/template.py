"""Fields → text, by a template without code: `{EXPRESSION}` is a JMESPath expression over the fields."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, Final

from guideway.producers.marshalling.expression import Budget, Expression

_PIECE: Final = re.compile(r"(?P<open>\{\{)|(?P<close>\}\})|\{(?P<expression>[^{}]*)\}|(?P<lone>[{}])|(?P<text>[^{}]+)")


class TextTooLong(ValueError):
    """The text has more characters than the endpoint takes."""


class Template:
    """A parsed template. Raises ValueError, with what to change, for one that cannot be parsed."""

    def __init__(self, text: str) -> None:
        self._pieces: list[str | Expression] = []
        for match in _PIECE.finditer(text):
            if match["lone"]:
                raise ValueError(
                    f"template has a single {match['lone']!r}: write {match['lone'] * 2!r} for the character"
                )
            if match["expression"] is None:
                self._pieces.append({"{{": "{", "}}": "}"}.get(match[0], match[0]))
            else:
                self._pieces.append(Expression(match["expression"]))

    @property
    def is_plain(self) -> bool:
        """Whether it only puts fields in. Its cost then grows with the length of the text alone."""
        return all(isinstance(piece, str) or piece.is_path for piece in self._pieces)

    @property
    def fields(self) -> frozenset[str]:
        """The fields that its expressions read."""
        return frozenset[str]().union(*(piece.fields for piece in self._pieces if not isinstance(piece, str)))

    def render(self, fields: Mapping[str, Any], *, max_chars: int) -> str:
        """The text. It costs no more than `max_chars` and `expression.BUDGET` allow, whatever the template says.

        Raises: TextTooLong; TooCostly; ValueError if an expression cannot be applied to these fields.
        """
        out: list[str] = []
        chars = 0
        budget = Budget()
        for piece in self._pieces:
            out.append(piece if isinstance(piece, str) else piece.shown(fields, budget))
            chars += len(out[-1])
            if chars > max_chars:
                raise TextTooLong(
                    f"the text has more than the {max_chars} characters that the endpoint takes: shorten it"
                )
        return "".join(out)


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> Template:
    """The template, parsed once."""
    return Template(text)
