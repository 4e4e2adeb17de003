"""The OpenAPI 3.1 document. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from guideway.producers.gateway.openapi.batches import BATCH_SCHEMAS, batch_paths
from guideway.producers.gateway.openapi.inference import INFERENCE_SCHEMAS, TAG, inference_paths
from guideway.producers.gateway.openapi.shapes import described, example_fields, fields_of, value_of
from guideway.producers.gateway.status import DoorCode
from guideway.producers.gateway.visible import Visible
from guideway.schemas.failures import FailureCode
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.addresses import CALL

MOST_ENDPOINTS: Final = 200
"""So many stand in one document; of the others one asks by namespace or by name."""
MOST_BYTES: Final = 4 * 2**20
"""Of their manifests together: a schema alone may have 256 KiB."""


class Selection:
    """The endpoints that one document or page tells of."""

    def __init__(
        self, visible: Visible, caller: str, *, namespace: str = "", endpoint: str = "", has_batches: bool = False
    ) -> None:
        """namespace, endpoint: of which to tell; empty: of all, those of the caller first.

        has_batches: whether this gateway takes files, and makes batches of them.
        """
        found = {
            name: one
            for name, (_, one) in visible.endpoints.items()
            if namespace in ("", one.namespace) and endpoint in ("", name)
        }
        mine = {name: one for name, one in found.items() if one.namespace == caller}
        every = list((mine | found).values())
        self.caller = caller
        self.endpoints = _bounded(every)
        self.left_out = len(every) - len(self.endpoints)
        self.has_batches = has_batches
        self.has_router = visible.has_router and not (namespace or endpoint)

    @property
    def note(self) -> str:
        """That there are more, and how to see them; empty where there are none."""
        if not self.left_out:
            return ""
        return (
            f"{self.left_out} more endpoints are not shown here: ask for those of one namespace (`?namespace=NAME`), "
            "or for one (`?endpoint=NAMESPACE/NAME`)."
        )


def _bounded(endpoints: list[Endpoint]) -> list[Endpoint]:
    """The first of them, at least one."""
    found, size = endpoints[:1], 0
    for one in endpoints[1:MOST_ENDPOINTS]:
        size += len(msgspec.json.encode(one))
        if size > MOST_BYTES:
            break
        found.append(one)
    return found


def document(selection: Selection) -> dict[str, Any]:
    """The document of these endpoints, with their own input fields and results."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = dict(_SHARED)
    for endpoint in selection.endpoints:
        name = f"{endpoint.namespace}.{endpoint.name}"
        # A component's name may hold dots; those of namespaces and endpoints cannot.
        schemas[f"{name}.value"] = value_of(endpoint.output, f"#/components/schemas/{name}.value")
        schemas[f"{name}.reply"] = _reply(f"#/components/schemas/{name}.value")
        paths[endpoint.address] = {"post": _operation(endpoint, name)}
    paths |= _openai(selection) | inference_paths()
    schemas |= INFERENCE_SCHEMAS
    if selection.has_batches:
        paths |= batch_paths()
        schemas |= BATCH_SCHEMAS
    note = f"\n\n{selection.note}" if selection.note else ""
    return {
        "openapi": "3.1.1",
        "info": {
            "title": f"guideway, as namespace {selection.caller}",
            "version": "1",
            "description": "The endpoints that this namespace may call. Each takes its own fields and gives a result "
            f"of its own type.{note}",
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "tags": [{"name": one} for one in _tags(selection.endpoints)],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key, or a JWT."}},
            "schemas": schemas,
            "responses": {"problem": _content("application/problem+json", "problem", "Why there is no result.")},
        },
    }


def _tags(endpoints: Iterable[Endpoint]) -> list[str]:
    return ["openai", TAG, *dict.fromkeys(one.namespace for one in endpoints)]


def _operation(endpoint: Endpoint, name: str) -> dict[str, Any]:
    taken: dict[str, Any] = {"application/json": {"schema": fields_of(endpoint), "example": example_fields(endpoint)}}
    if endpoint.input.text_field is not None:
        taken["text/plain"] = {"schema": {"type": "string", "minLength": 1}}
    reply = _content("application/json", f"{name}.reply", f"The result: {described(endpoint.output)}.")
    return {
        "operationId": name,
        "tags": [endpoint.namespace],
        "summary": endpoint.description.strip().partition("\n")[0][:120] or endpoint.address,
        **({"description": endpoint.description} if endpoint.description else {}),
        "requestBody": {"required": True, "content": taken},
        "responses": {"200": reply, "default": {"$ref": "#/components/responses/problem"}},
    }


def _content(media: str, schema: str, description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {media: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _reply(value: str) -> dict[str, Any]:
    """The shape of one endpoint's replies: what all have, with its own value."""
    sample = {
        "type": "object",
        "required": ["value", "text", "finish_reason"],
        "properties": {
            "value": {"$ref": value},
            "text": {"type": "string"},
            "finish_reason": {"enum": ["stop", "length"]},
        },
    }
    return {
        "allOf": [{"$ref": "#/components/schemas/reply"}],
        "properties": {"samples": {"type": "array", "minItems": 1, "items": sample}},
    }


def _openai(selection: Selection) -> dict[str, Any]:
    """The paths in OpenAI's form."""
    models = [f"{one.namespace}/{one.name}" for one in selection.endpoints]
    if selection.has_router:
        models.append(f"{selection.caller}/{CALL}")
    model = {"type": "string", **({"examples": models[:3]} if models else {}), "description": "NAMESPACE/NAME"}
    failed = {"default": _content("application/json", "openai.error", "Why there is no result.")}

    def asked(required: str, shape: dict[str, Any]) -> dict[str, Any]:
        schema = {
            "type": "object",
            "required": ["model", required],
            "properties": {"model": model, required: shape, **_PARAMETERS},
        }
        return {"required": True, "content": {"application/json": {"schema": schema}}}

    def answer(kind: str) -> dict[str, Any]:
        found = _content("application/json", kind, "The answer.")
        found["content"]["text/event-stream"] = {"schema": {"type": "string"}}
        return {"200": found, **failed}

    message = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"const": "user"}, "content": {"type": ["string", "array"]}},
    }
    return {
        "/v1/chat/completions": {
            "post": {
                "operationId": "openai.chat",
                "tags": ["openai"],
                "summary": "An endpoint as a chat model",
                "requestBody": asked("messages", {"type": "array", "maxItems": 1, "items": message}),
                "responses": answer("openai.completion"),
            }
        },
        "/v1/completions": {
            "post": {
                "operationId": "openai.completions",
                "tags": ["openai"],
                "summary": "An endpoint as a text model",
                "requestBody": asked("prompt", {"type": ["string", "array"]}),
                "responses": answer("openai.completion"),
            }
        },
        "/v1/models": {
            "get": {
                "operationId": "openai.models",
                "tags": ["openai"],
                "summary": "The endpoints that you may call, as models",
                "responses": {"200": _content("application/json", "openai.models", "The models."), **failed},
            }
        },
        "/v1/models/{namespace}/{name}": {
            "get": {
                "operationId": "openai.model",
                "tags": ["openai"],
                "summary": "One of them",
                "parameters": [
                    {"name": one, "in": "path", "required": True, "schema": {"type": "string"}}
                    for one in ("namespace", "name")
                ],
                "responses": {"200": _content("application/json", "openai.model", "The model."), **failed},
            }
        },
    }


def _struct(required: str, **properties: Any) -> dict[str, Any]:
    """required: names, with spaces."""
    return {"type": "object", "required": required.split(), "properties": properties}


_STRING: Final = {"type": "string"}
_INTEGER: Final = {"type": "integer"}
_STRINGS: Final = {"type": "array", "items": _STRING}
_CODES: Final = [*(code.value for code in FailureCode), *(code.value for code in DoorCode)]
_PARAMETERS: Final[dict[str, Any]] = {
    "n": {"type": "integer", "minimum": 1, "maximum": 16},
    "max_tokens": {"type": "integer", "minimum": 1},
    "max_completion_tokens": {"type": "integer", "minimum": 1, "description": "The same as max_tokens."},
    "temperature": {"type": "number", "minimum": 0},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "stop": {"type": ["string", "array"], "description": "One string, or up to 8."},
    "seed": {"type": "integer", "minimum": 0},
    "stream": {"type": "boolean"},
    "stream_options": _struct("", include_usage={"type": "boolean"}),
    "logprobs": {"type": ["boolean", "integer"], "description": "In a chat a boolean, in a completion a number."},
    "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
    "response_format": {"type": "object", "description": "The endpoint's own form."},
    "user": _STRING,
    "metadata": {"type": "object", "additionalProperties": _STRING, "description": "Input fields that are strings."},
    "fields": {"type": "object", "description": "Input fields of the endpoint beside its text."},
    "guidance": {**_STRINGS, "description": "Guidance that the request brings, where the endpoint allows it."},
}
_SHARED: Final[dict[str, Any]] = {
    "reply": _struct(
        "schema id namespace endpoint endpoint_version samples usage guidance model_fingerprint",
        schema={"const": "guideway.reply.completed.v1"},
        id=_STRING,
        namespace=_STRING,
        endpoint=_STRING,
        endpoint_version=_INTEGER,
        samples={"type": "array"},
        usage=_struct("prompt_tokens output_tokens", prompt_tokens=_INTEGER, output_tokens=_INTEGER),
        guidance=_STRINGS,
        model_fingerprint=_STRING,
        calibration=_STRING,
        citations={"type": "array", "items": {"type": "object"}},
        failed_samples={
            "type": "array",
            "items": _struct("sample code message", sample=_INTEGER, code={"enum": _CODES}, message=_STRING),
        },
    ),
    "problem": _struct(
        "type title status detail code retryable",
        type=_STRING,
        title=_STRING,
        status=_INTEGER,
        detail={"type": "string", "description": "What to change, for a person."},
        code={"enum": _CODES},
        retryable={"type": "boolean"},
    ),
    "openai.error": _struct(
        "error",
        error=_struct(
            "message type param code", message=_STRING, type=_STRING, param={"type": ["string", "null"]}, code=_STRING
        ),
    ),
    "openai.completion": _struct(
        "id object created model choices usage",
        id=_STRING,
        object=_STRING,
        created=_INTEGER,
        model=_STRING,
        choices={"type": "array", "items": {"type": "object"}},
        usage={"type": "object"},
        guideway={"$ref": "#/components/schemas/reply"},
    ),
    "openai.model": _struct(
        "id object created owned_by", id=_STRING, object={"const": "model"}, created=_INTEGER, owned_by=_STRING
    ),
    "openai.models": _struct(
        "object data",
        object={"const": "list"},
        data={"type": "array", "items": {"$ref": "#/components/schemas/openai.model"}},
    ),
}
"""What all endpoints share."""
