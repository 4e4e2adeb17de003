"""Whether the form that a client expects is the one that the endpoint keeps. Pure."""

from __future__ import annotations

from typing import Any, Final

from guideway.producers.gateway.openai.parameters import Chat, Completion, ResponseFormat
from guideway.producers.gateway.openai.refused import Wrong
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Json, OutputRule, Text

_WORDS: Final = frozenset({"title", "description", "$schema", "$id", "$comment", "default", "examples"})
"""Keywords that allow and forbid nothing."""
_NAMED: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""The keys below these are names, not keywords."""
_VALUES: Final = frozenset({"const", "enum"})


def require_form(wanted: ResponseFormat | None, endpoint: Endpoint | None) -> None:
    """Raises Wrong where the endpoint's output rule promises something else than what the client expects."""
    if wanted is None or wanted.type == "text" or endpoint is None:
        # Whatever comes is a text.
        if wanted is not None and wanted.type != "text":
            raise Wrong("the router chooses the endpoint, and so the form: leave response_format out", _PARAMETER)
        return
    rule = endpoint.output
    if not isinstance(rule, Json):
        raise Wrong(
            f"this endpoint answers with {_kind(rule)}, and {wanted.type} is expected: leave response_format out, or "
            f"call an endpoint whose output is `type: json`",
            _PARAMETER,
        )
    if wanted.type == "json_object":
        if rule.schema.get("type") != "object":
            raise Wrong(
                "this endpoint's JSON need not be an object: leave response_format out, or give the endpoint's own "
                "schema as json_schema",
                _PARAMETER,
            )
        return
    if wanted.json_schema is None or wanted.json_schema.schema is None:
        raise Wrong("json_schema has no schema: give one, or leave response_format out", f"{_PARAMETER}.json_schema")
    if plain(wanted.json_schema.schema) != plain(rule.schema):
        raise Wrong(
            "the schema is not the endpoint's own, and a request cannot change that: leave response_format out, or "
            f"give the schema that GET /openapi.json shows of {endpoint.address}",
            f"{_PARAMETER}.json_schema.schema",
        )


def require_logprobs(asked: Chat | Completion, endpoint: Endpoint | None) -> None:
    """Raises Wrong where log-probabilities are wanted, and the endpoint tells none or not so many."""
    if asked.told is None:
        return
    rule = endpoint.output if endpoint is not None else None
    most = rule.logprobs if isinstance(rule, Text) else None
    address = endpoint.address if endpoint is not None else "the endpoint"
    if most is None:
        raise Wrong(
            f"this endpoint tells no log-probabilities: leave logprobs out, or have `logprobs: {asked.told}` written "
            f"under output in the manifest of {address}, if its output is text",
            "logprobs",
        )
    if asked.told > most:
        raise Wrong(
            f"this endpoint tells {most} likely tokens beside each, and {asked.told} are wanted: ask for fewer, or "
            f"have output.logprobs raised in the manifest of {address}",
            "top_logprobs" if isinstance(asked, Chat) else "logprobs",
        )


def plain(schema: Any) -> Any:
    """A JSON Schema without words for people, and without what holds here in any case.

    Objects are closed unless they say otherwise, so `additionalProperties: false` says nothing; the order of `required`
    says nothing either. Clients derive schemas from classes and add both.
    """
    if isinstance(schema, list):
        return [plain(one) for one in schema]
    if not isinstance(schema, dict):
        return _exact(schema)
    found = {}
    for keyword, value in schema.items():
        if keyword in _WORDS or (keyword == "additionalProperties" and value is False):
            continue
        if keyword in _VALUES:
            found[keyword] = _exact(value)
        elif keyword in _NAMED and isinstance(value, dict):
            found[keyword] = {name: plain(one) for name, one in value.items()}
        elif keyword == "required" and isinstance(value, list):
            found[keyword] = sorted(value, key=str)
        else:
            found[keyword] = plain(value)
    return found


def _exact(value: Any) -> Any:
    """A value that equals JSON's equal values only: in Python True equals 1."""
    if isinstance(value, list):
        return [_exact(one) for one in value]
    if isinstance(value, dict):
        return {name: _exact(one) for name, one in value.items()}
    return (value,) if isinstance(value, bool) else value


def _kind(rule: OutputRule) -> str:
    return f"`type: {type(rule).__struct_config__.tag}`"


_PARAMETER: Final = "response_format"
