"""Checks an endpoint's input, fields and template, before it is applied. Pure."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator

from guideway.producers.marshalling.expression import WHOLE, NoFunction, TooCostly
from guideway.producers.marshalling.template import parse
from guideway.schemas.input import InputRule


def check_input(rule: InputRule) -> None:
    """Raises ValueError, which says what to change, if no event can become a text, or all become the same text."""
    for name, field in rule.fields.items():
        if field.default is not None and not field.takes(field.default):
            raise ValueError(
                f"input.fields.{name} is of type {field.type}, its default is {field.default!r:.60}: make them agree"
            )
    template = parse(rule.template)
    for name in sorted(template.fields - {WHOLE}):
        if name not in rule.fields:
            near = difflib.get_close_matches(name, rule.fields, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"declared are {', '.join(rule.fields)}"
            raise ValueError(f"input.template {_short(rule.template)!r} names {name!r}, which is no field: {meant}")
    try:
        template.render(dict.fromkeys(rule.fields), max_chars=sys.maxsize)
    except (TooCostly, NoFunction) as error:
        raise ValueError(f"input.template: {error}") from None
    except ValueError:
        # A function may need values of some type: events have them, nulls do not.
        pass
    if not template.fields:
        raise ValueError(
            f"input.template {_short(rule.template)!r} uses no field, so that all events become the same text: put one "
            f"in, for example {{{next(iter(rule.fields))}}}"
        )


def input_doubts(rule: InputRule, used_elsewhere: set[str]) -> Iterator[str]:
    """What is allowed but is probably a mistake. used_elsewhere: fields that retrieval or the output rule reads."""
    used = parse(rule.template).fields | used_elsewhere
    for name, field in rule.fields.items():
        if name not in used and WHOLE not in used:
            written = f"{{{{{name}}}}}" in rule.template
            why = "the template has it in double braces, which stay as they are" if written else "nothing reads it"
            yield f"input.fields.{name} is not used: {why}"
        if field.required and field.default is not None:
            yield f"input.fields.{name} is required, so that its default is never used: add `required: false`"


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"
