"""Fields → text, by a template without code: `{EXPRESSION}` is a JMESPath expression over the fields."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import Any, Final

from guideway.producers.events.unseen import UNSEEN
from guideway.producers.marshalling.expression import Budget, Expression
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint

_PIECE: Final = re.compile(r"(?P<open>\{\{)|(?P<close>\}\})|\{(?P<expression>[^{}]*)\}|(?P<lone>[{}])|(?P<text>[^{}]+)")
_EACH_CHARS: Final = 100
"""What each template counts for beside its text."""


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
                self._pieces.append(Expression(match["expression"], "template expression"))
        self.is_plain = all(isinstance(piece, str) or piece.is_path for piece in self._pieces)
        """Whether it only puts fields in. Its cost then grows with the length of the text alone."""

    def says_nothing(self, text: str) -> bool:
        """Whether a text of it has nothing of the event, or nothing that can be seen."""
        return not text.strip(UNSEEN) or (self.is_plain and text == self.bare)

    @property
    def bare(self) -> str:
        """What stands in each text of it."""
        return "".join(piece for piece in self._pieces if isinstance(piece, str))

    @property
    def expressions(self) -> list[Expression]:
        """Its expressions, in their order."""
        return [piece for piece in self._pieces if not isinstance(piece, str)]

    @property
    def fields(self) -> frozenset[str]:
        """The fields that its expressions read."""
        return frozenset[str]().union(*(one.fields for one in self.expressions))

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


class _Kept:
    """Templates, and why others are none, by their texts; those used longest ago leave first. For any thread.

    An expression takes up to 400 times as much memory as its text, and a third of a second for those that are none.
    """

    def __init__(self, most_chars: int) -> None:
        """most_chars: of all texts together."""
        self._left = most_chars
        self._found: OrderedDict[str, Template | ValueError] = OrderedDict()
        self._lock = Lock()

    def of(self, text: str) -> Template:
        with self._lock:
            if (found := self._found.get(text)) is not None:
                self._found.move_to_end(text)
        if found is None:
            try:
                found = Template(text)
            except ValueError as error:
                found = error
            self._keep(text, found)
        if isinstance(found, ValueError):
            raise found.with_traceback(None)
        return found

    def _keep(self, text: str, found: Template | ValueError) -> None:
        with self._lock:
            if text not in self._found:
                self._found[text] = found
                self._left -= len(text) + _EACH_CHARS
            while self._left < 0 and len(self._found) > 1:
                self._left += len(self._found.popitem(last=False)[0]) + _EACH_CHARS


_KEPT: Final = _Kept(4_000_000)


def parse(text: str) -> Template:
    """The template, parsed once. Raises as `Template`."""
    return _KEPT.of(text)


def template_of(endpoint: Endpoint) -> Template:
    """The endpoint's template. Raises Refusal(wrong_field) for one that is none, which `apply` would have refused."""
    try:
        return parse(endpoint.input.template)
    except ValueError as error:
        others = "the endpoint's template cannot be used: tell its owner"
        raise Refusal(FailureCode.WRONG_FIELD, f"input.template: {error}", to_others=others) from None
