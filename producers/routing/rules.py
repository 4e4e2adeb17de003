"""A router's rules: JMESPath expressions over an event, the first that holds decides. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from guideway.producers.marshalling.expression import WHOLE, Budget, Expression, NoFunction, TooCostly
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.kinds.router import RoutingRule
from guideway.schemas.nearest import did_you_mean
from guideway.schemas.record import Record

NAMES: Final = ("fields", "headers", "text", "key")
"""What a rule may look at."""
TEXT: Final = "text"
"""The field that is an event's text, where its content is fields."""

Facts = Mapping[str, Any]
"""`NAMES` of one event: fields {} for plain text, headers by name, text, key or null."""


def facts_of(record: Record, content: Mapping[str, Any] | str) -> Facts:
    """What rules see of an event. content: as `events.contents` decodes the record's value.

    A header that is no UTF-8 text is left out; of one that is repeated, the last counts, as everywhere.
    """
    headers = {}
    for name, value in record.headers:
        text = _decoded(value)
        if text is not None:
            headers[name] = text
    fields = {} if isinstance(content, str) else content
    return {"fields": fields, "headers": headers, "text": text_of(content), "key": _decoded(record.key)}


def text_of(content: Mapping[str, Any] | str) -> str:
    """The text that routers look at: plain text, the field `text`, or else all fields that are strings, in lines."""
    if isinstance(content, str):
        return content
    if isinstance(text := content.get(TEXT), str):
        return text
    return "\n".join(value for value in content.values() if isinstance(value, str))


def ruled(rules: Sequence[RoutingRule], facts: Facts) -> int | None:
    """The number of the first rule that holds, from 0; None if none does.

    Raises: Refusal(no_route) if the rules cost more than one event may.
    """
    budget = Budget()
    for number, rule in enumerate(rules):
        try:
            if _parsed(rule.when).holds(facts, budget):
                return number
        except TooCostly as error:
            raise Refusal(
                FailureCode.NO_ROUTE,
                f"the router's rule {number + 1}: {error}; or call the endpoint itself (on Kafka: name it in the "
                "header `endpoint`)",
            ) from None
        except ValueError:
            continue  # it does not fit this event
    return None


def check_rule(rule: RoutingRule) -> None:
    """Raises ValueError, which says what to change, for a rule that can hold for no event."""
    expression = Expression(rule.when)
    for name in sorted(expression.fields - {WHOLE}):
        if name not in NAMES:
            near = did_you_mean(name, NAMES) or f"write `fields.{name}` for a field of the event; "
            raise ValueError(
                f"`when` looks at {name!r:.60}, which an event does not have: {near}it has {', '.join(NAMES)}"
            )
    try:
        holds = expression.holds({"fields": {}, "headers": {}, "text": "", "key": None}, Budget())
    except (TooCostly, NoFunction):
        raise
    except ValueError:
        # A function may need values of some type, which events have.
        return
    if not holds and not expression.fields:
        raise ValueError(
            "`when` looks at nothing of the event and never holds: use `text`, or `` `true` `` for all events"
        )


@functools.lru_cache(maxsize=4096)
def _parsed(when: str) -> Expression:
    return Expression(when)


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return None
