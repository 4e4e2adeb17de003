"""A namespace's endpoints as an AsyncAPI 3.0 document: topics, events, replies and their headers. Pure.

It is written from guideway's side, as AsyncAPI wants it of a service: guideway receives events and sends replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from guideway.producers.gateway.openapi.shapes import described, example_fields, fields_of, value_of
from guideway.schemas.failures import FailureCode
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names import header
from guideway.schemas.names.topics import event_topic, partial_topic, reply_topic
from guideway.schemas.partial import Partial
from guideway.schemas.reply import Completed, Failed

_SCHEMAS: Final = "#/components/schemas/"
_NAMED: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_LITERAL: Final = frozenset({"const", "enum", "default", "examples", "example"})
_TEXT: Final = {"type": "string"}
_CORRELATION: Final = {"location": f"$message.header#/{header.CORRELATION_ID}"}
_BINDING: Final = "0.5.0"


def document(
    namespace: str, endpoints: Sequence[Endpoint], *, brokers: str = "", secure: bool = False
) -> dict[str, Any]:
    """The document of these endpoints, all of this namespace. brokers: `HOST:PORT,…`; empty: left out."""
    _, shared = msgspec.json.schema_components([Completed, Failed, Partial], ref_template=f"{_SCHEMAS}{{name}}")
    made: dict[str, Any] = {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"guideway, namespace {namespace}",
            "version": "1",
            "description": "Each event is answered with exactly one reply. This is guideway's side: it receives events "
            "and sends replies. docs/wire.md says what topics and headers mean.",
        },
        "defaultContentType": "application/json",
        "channels": {},
        "operations": {},
        "components": {"messages": _replies(), "schemas": {name: _draft_7(one) for name, one in shared.items()}},
    }
    if brokers:
        made["servers"] = {"cluster": {"host": brokers, "protocol": "kafka-secure" if secure else "kafka"}}
    for endpoint in endpoints:
        _add(made, endpoint)
    return made


def _add(made: dict[str, Any], endpoint: Endpoint) -> None:
    name, messages, schemas = endpoint.name, made["components"]["messages"], made["components"]["schemas"]
    place = f"{_SCHEMAS}{name}.value"
    schemas[f"{name}.fields"] = _draft_7(fields_of(endpoint))
    schemas[f"{name}.value"] = _draft_7(value_of(endpoint.output, place))
    schemas[f"{name}.completed"] = {
        "allOf": [
            {"$ref": f"{_SCHEMAS}Completed"},
            {
                "properties": {
                    "namespace": {"const": endpoint.namespace},
                    "endpoint": {"const": name},
                    "samples": {"items": {"properties": {"value": {"$ref": place}}}},
                }
            },
        ]
    }
    events = {
        f"{name}.event": _event("application/json", {"$ref": f"{_SCHEMAS}{name}.fields"}, example_fields(endpoint))
    }
    if endpoint.input.text_field is not None:
        events[f"{name}.text"] = _event("text/plain", {"type": "string", "minLength": 1}, "Is the Earth round?")
    completed = {
        "title": f"The result: {described(endpoint.output)}",
        "headers": _reply_headers("completed"),
        "correlationId": _CORRELATION,
        "contentType": "application/json",
        "payload": {"$ref": f"{_SCHEMAS}{name}.completed"},
    }
    messages |= events | {f"{name}.completed": completed}
    told = {f"{name}.completed": f"{name}.completed", "failed": "failed"}
    channels, operations = made["channels"], made["operations"]
    own = reply_topic(endpoint.namespace, name)
    channels[f"{name}.in"] = _channel(
        event_topic(endpoint.namespace, name), dict.fromkeys(events), endpoint, endpoint.description
    )
    channels[f"{name}.out"] = _channel(own, told, endpoint, "Replies to events that name no other topic.")
    channels[f"{name}.reply"] = {
        "address": None,
        "messages": _refs(told),
        "description": f"Where the event's `{header.REPLY_TO}` says, gw.{endpoint.namespace}.NAME.out.v1; else {own}.",
    }
    operations[name] = {
        "action": "receive",
        "title": endpoint.address,
        "channel": {"$ref": f"#/channels/{name}.in"},
        "messages": [{"$ref": f"#/channels/{name}.in/messages/{one}"} for one in events],
        "reply": {
            "address": {"location": f"$message.header#/{header.REPLY_TO}"},
            "channel": {"$ref": f"#/channels/{name}.reply"},
            "messages": [{"$ref": f"#/channels/{name}.reply/messages/{one}"} for one in told],
        },
    }
    if endpoint.partial:
        topic = partial_topic(endpoint.namespace, name)
        channels[f"{name}.partial"] = _channel(topic, ["partial"], endpoint, "Pieces of texts while they are made.")
        operations[f"{name}.partial"] = {
            "action": "send",
            "title": f"Pieces of the texts of {endpoint.address}",
            "channel": {"$ref": f"#/channels/{name}.partial"},
            "messages": [{"$ref": f"#/channels/{name}.partial/messages/partial"}],
        }


def _channel(topic: str, messages: Any, endpoint: Endpoint, description: str) -> dict[str, Any]:
    binding = {"topic": topic, "partitions": endpoint.partitions, "bindingVersion": _BINDING}
    return {
        "address": topic,
        "messages": _refs(messages),
        **({"description": description} if description else {}),
        "bindings": {"kafka": binding},
    }


def _refs(messages: Any) -> dict[str, Any]:
    return {one: {"$ref": f"#/components/messages/{one}"} for one in messages}


def _event(media: str, payload: dict[str, Any], example: Any) -> dict[str, Any]:
    return {
        "contentType": media,
        "correlationId": _CORRELATION,
        "headers": {
            "type": "object",
            "properties": {
                header.CORRELATION_ID: {**_TEXT, "description": "Any bytes; comes back on the reply."},
                header.REPLY_TO: {**_TEXT, "description": "The topic of the reply."},
                header.CONTENT_TYPE: {**_TEXT, "examples": [media]},
                header.REQUEST_ID: {**_TEXT, "maxLength": 200, "description": "Names the work."},
                header.DEADLINE: {**_TEXT, "description": "Unix milliseconds, or RFC 3339 with an offset."},
                header.GUIDANCE: {**_TEXT, "description": "NAMESPACE/NAME[@VERSION], several with commas."},
                header.GENERATION: {**_TEXT, "description": "Generation parameters as JSON."},
                header.PARTIAL: {"enum": ["true", "false"], "description": "Whether pieces of the text are told."},
                header.TRACEPARENT: _TEXT,
                header.TRACESTATE: _TEXT,
            },
        },
        "payload": payload,
        "examples": [{"payload": example}],
        "bindings": {"kafka": {"key": {**_TEXT, "description": "Yours; comes back."}, "bindingVersion": _BINDING}},
    }


def _replies() -> dict[str, Any]:
    """The messages that all endpoints send alike."""
    alike = {"correlationId": _CORRELATION, "contentType": "application/json"}
    echoed = {"type": "object", "properties": {header.CORRELATION_ID: _TEXT, header.REQUEST_ID: _TEXT}}
    return {
        "failed": {
            "title": "Why there is no result",
            "headers": _reply_headers("failed"),
            **alike,
            "payload": {"$ref": f"{_SCHEMAS}Failed"},
        },
        "partial": {
            "title": "What came to a text since the piece before",
            "headers": echoed,
            **alike,
            "payload": {"$ref": f"{_SCHEMAS}Partial"},
        },
    }


def _reply_headers(status: str) -> dict[str, Any]:
    code = {header.FAILURE_CODE: {"enum": [one.value for one in FailureCode]}} if status == "failed" else {}
    return {
        "type": "object",
        "required": [header.REQUEST_ID, header.STATUS],
        "properties": {
            header.CORRELATION_ID: {**_TEXT, "description": "As the event's."},
            header.REQUEST_ID: _TEXT,
            header.STATUS: {"const": status},
            **code,
            "ce_specversion": {"const": "1.0"},
            "ce_id": _TEXT,
            header.CLOUD_EVENT_SOURCE: _TEXT,
            "ce_type": {"const": f"guideway.reply.{status}.v1"},
        },
    }


def _draft_7(schema: Any) -> Any:
    """In the words of JSON Schema draft 7, which AsyncAPI reads."""
    if isinstance(schema, list):
        return [_draft_7(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _LITERAL:
            found[keyword] = value
        elif keyword in _NAMED and isinstance(value, dict):
            found[keyword] = {name: _draft_7(one) for name, one in value.items()}
        else:
            found[keyword] = _draft_7(value)
    if "prefixItems" in found:
        rest = found.pop("items", True)
        found |= {"items": found.pop("prefixItems"), "additionalItems": rest}
    return found
