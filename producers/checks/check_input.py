"""Checks an endpoint's input, fields and template, before it is applied. Pure."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from guideway.catalogue.protobuf.field_types import check_fields
from guideway.catalogue.protobuf.message_type import message_type
from guideway.producers.marshalling.expression import WHOLE, Budget, Expression, NoFunction, TooCostly
from guideway.producers.marshalling.template import Template, parse
from guideway.schemas.input import InputRule

_EXAMPLES: Final[dict[str, tuple[object, ...]]] = {
    "string": ("x", "1", "2024-01-01"),
    "integer": (1, 0, -12),
    "number": (1.5, 0.0, -3.0),
    "boolean": (True, False, True),
}
"""Values of the types that hold nothing inside."""


def check_input(rule: InputRule) -> None:
    """Raises ValueError, which says what to change, if no event can become a text, or all become the same text."""
    for name, field in rule.fields.items():
        if field.default is not None and not field.takes(field.default):
            raise ValueError(
                f"input.fields.{name} is of type {field.type}, its default is {field.default!r:.60}: make them agree"
            )
        if field.max_chars is not None and field.type != "string":
            raise ValueError(f"input.fields.{name} is of type {field.type}, which has no max_chars: leave it out")
        if field.max_chars is not None and isinstance(field.default, str) and len(field.default) > field.max_chars:
            raise ValueError(
                f"input.fields.{name} has a default of {len(field.default)} characters, and max_chars is "
                f"{field.max_chars}: make them agree"
            )
    if rule.format == "protobuf":
        try:
            kind = message_type(rule.descriptors, rule.message)
        except ValueError as error:
            raise ValueError(f"input.descriptors: {error}") from None
        check_fields(rule.fields, kind.descriptor)
    _check_quoted(rule)
    template = parse(rule.template)
    for name in sorted(template.fields - {WHOLE}):
        if name not in rule.fields:
            near = difflib.get_close_matches(name, rule.fields, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"declared are {', '.join(rule.fields)}"
            raise ValueError(f"input.template {_short(rule.template)!r} names {name!r}, which is no field: {meant}")
    _check_expressions(rule, template)
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


def _check_quoted(rule: InputRule) -> None:
    """Refuse the bare name of a field that JMESPath takes for something else, such as `first-name` or `größe`."""
    # Without the braces that stand for themselves.
    template = rule.template.replace("{{", "").replace("}}", "")
    for name in rule.fields:
        if f"{{{name}}}" in template and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(
                f"input.template {_short(rule.template)!r} names {name!r}, which has other signs than A to Z, digits "
                f'and _: write it in double quotes, {{"{name}"}}'
            )


def _check_expressions(rule: InputRule, template: Template) -> None:
    """Refuse expressions that are empty, or fail, whatever the fields hold."""
    plain = {name for name, field in rule.fields.items() if field.type in _EXAMPLES}
    for one in template.expressions:
        if (name := one.looks_inside(plain)) is not None:
            raise ValueError(
                f"input.template: expression {_short(str(one))!r} looks inside of {name!r}, of type "
                f"{rule.fields[name].type}, where there is nothing, so that it is always empty: write {{{name}}} "
                f"alone, or call a function, as in {{length({name})}}"
            )
        if one.fields <= plain:
            _check_applies(one, {name: _EXAMPLES[rule.fields[name].type] for name in one.fields})


def _check_applies(expression: Expression, examples: Mapping[str, Sequence[object]]) -> None:
    """Refuse an expression that can be applied to none of the examples: its functions take other types."""
    failed: ValueError | None = None
    for values in zip(*examples.values(), strict=True):
        try:
            expression.shown(dict(zip(examples, values, strict=True)), Budget())
        except (TooCostly, NoFunction):
            return  # told by what renders the whole template
        except ValueError as error:
            failed = error
        else:
            return
    if failed is not None:
        raise ValueError(f"input.template: {failed}")


def input_doubts(rule: InputRule, used_elsewhere: set[str]) -> Iterator[str]:
    """What is allowed but is probably a mistake. used_elsewhere: fields that retrieval or the output rule reads."""
    used = parse(rule.template).fields | used_elsewhere
    for name, field in rule.fields.items():
        # A message is of more than one program: that nothing reads some of its fields is usual.
        if name not in used and WHOLE not in used and rule.format == "json":
            written = f"{{{{{name}}}}}" in rule.template
            why = "the template has it in double braces, which stay as they are" if written else "nothing reads it"
            yield f"input.fields.{name} is not used: {why}"
        if field.required and field.default is not None:
            yield f"input.fields.{name} is required, so that its default is never used: add `required: false`"
    if rule.format == "protobuf":
        yield from _unheeded_defaults(rule)


def _unheeded_defaults(rule: InputRule) -> Iterator[str]:
    """Defaults for which a message cannot say that there is nothing."""
    fields = message_type(rule.descriptors, rule.message).descriptor.fields_by_name
    for name, given in rule.fields.items():
        field = fields[name]
        may_be_absent = field.has_presence or (field.type == field.TYPE_STRING and not field.is_repeated)
        if given.default is not None and not may_be_absent:
            yield (
                f"input.fields.{name} has a default, which no event in Protobuf gets: in message {rule.message} it is "
                "never absent, but 0, false, empty or an enum's first name; write `optional` before it in the .proto"
            )


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"
