"""The paths of the Open Inference Protocol, for the OpenAPI document. Pure."""

from __future__ import annotations

from typing import Any, Final

from guideway.producers.gateway.inference.models import OUTPUTS, PLATFORM

TAG: Final = "v2"
"""No namespace has this name, so no endpoint's shapes have it."""
_STRING: Final = {"type": "string"}
_SHAPE: Final = {"type": "array", "items": {"type": "integer"}}
_DATATYPE: Final = {"enum": ["BYTES", "INT64", "FP64", "BOOL"]}
_IN_PATH: Final = [{"name": one, "in": "path", "required": True, "schema": _STRING} for one in ("namespace", "name")]


def inference_paths() -> dict[str, Any]:
    """`/v2` and what is below it: endpoints as models."""
    model = "/v2/models/{namespace}/{name}"
    return {
        "/v2": _get("server", "What this server is", "server", is_open=True),
        "/v2/health/live": _get("live", "Whether the process lives", "live", is_open=True),
        "/v2/health/ready": _get("ready", "Whether it can serve", "ready", is_open=True),
        model: _get("model", "An endpoint as a model: its inputs and outputs", "model"),
        f"{model}/ready": _get("model.ready", "Whether a model can be called", "ready"),
        f"{model}/infer": {
            "post": {
                "operationId": f"{TAG}.infer",
                "tags": [TAG],
                "summary": "Rows of tensors, each an event; answered when all rows are",
                "parameters": _IN_PATH,
                "requestBody": {"required": True, "content": _json("request")},
                "responses": _answers("response"),
            }
        },
    }


def _get(name: str, summary: str, schema: str, *, is_open: bool = False) -> dict[str, Any]:
    """is_open: nobody is asked who calls."""
    made = {"operationId": f"{TAG}.{name}", "tags": [TAG], "summary": summary, "responses": _answers(schema)}
    return {"get": made | ({"security": []} if is_open else {"parameters": _IN_PATH})}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{TAG}.{schema}"}}}


def _answers(schema: str) -> dict[str, Any]:
    return {
        "200": {"description": "The answer.", "content": _json(schema)},
        "default": {"description": "Why there is none.", "content": _json("error")},
    }


def _object(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TOLD: Final = _object("name datatype shape", name=_STRING, datatype=_DATATYPE, shape=_SHAPE)
_TENSOR: Final = _object(
    "name datatype shape",
    name=_STRING,
    datatype=_DATATYPE,
    shape=_SHAPE,
    data={"type": "array"},
    parameters={"type": "object"},
)
INFERENCE_SCHEMAS: Final[dict[str, Any]] = {
    f"{TAG}.server": _object(
        "name version extensions", name={"const": PLATFORM}, version=_STRING, extensions=_array(_STRING)
    ),
    f"{TAG}.live": _object("live", live={"type": "boolean"}),
    f"{TAG}.ready": _object("ready", name=_STRING, ready={"type": "boolean"}),
    f"{TAG}.model": _object(
        "name versions platform inputs outputs",
        name=_STRING,
        versions=_array(_STRING),
        platform={"const": PLATFORM},
        inputs=_array(_TOLD),
        outputs=_array(_TOLD),
    ),
    f"{TAG}.request": _object(
        "inputs",
        id=_STRING,
        parameters={"type": "object"},
        inputs=_array(_TENSOR),
        outputs=_array(_object("name", name={"enum": [*OUTPUTS]}, parameters={"type": "object"})),
    ),
    f"{TAG}.response": _object(
        "model_name model_version outputs",
        model_name=_STRING,
        model_version=_STRING,
        id=_STRING,
        outputs=_array(_TENSOR),
    ),
    f"{TAG}.error": _object("error code", error=_STRING, code=_STRING),
}
