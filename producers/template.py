"""Fields → text by a template without code: `{EXPRESSION}` is a JMESPath expression over the fields."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any, Final

import jmespath
from jmespath.exceptions import JMESPathError

_PIECE: Final = re.compile(r"(?P<open>\{\{)|(?P<close>\}\})|\{(?P<expression>[^{}]*)\}|(?P<lone>[{}])|(?P<text>[^{}]+)")


class Template:
    """A parsed template. Raises ValueError, with what to change, for one that cannot be parsed."""

    def __init__(self, text: str) -> None:
        self._pieces: list[tuple[str, Any]] = []
        for match in _PIECE.finditer(text):
            if match["lone"]:
                raise ValueError(
                    f"template has a single {match['lone']!r}: write {match['lone'] * 2!r} for the character"
                )
            if match["expression"] is None:
                self._pieces.append(({"{{": "{", "}}": "}"}.get(match[0], match[0]), None))
                continue
            try:
                self._pieces.append((match["expression"], jmespath.compile(match["expression"])))
            except JMESPathError as error:
                reason = str(error).splitlines()[0]
                raise ValueError(f"template expression {match['expression']!r} is not JMESPath: {reason}") from None

    def render(self, fields: Mapping[str, Any]) -> str:
        """The text. Raises ValueError if an expression cannot be applied to these fields."""
        out = []
        for text, expression in self._pieces:
            if expression is None:
                out.append(text)
                continue
            try:
                out.append(_shown(expression.search(fields)))
            except (JMESPathError, ArithmeticError, RecursionError, TypeError, ValueError) as error:
                # Functions of numbers meet some that no float, or no text, can hold.
                raise ValueError(f"expression {text!r} does not fit the fields: {type(error).__name__}") from None
        return "".join(out)


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> Template:
    """The template, parsed once."""
    return Template(text)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
