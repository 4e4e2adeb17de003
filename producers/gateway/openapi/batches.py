"""Files and batches in the OpenAPI document. Pure."""

from __future__ import annotations

from typing import Any, Final

from guideway.producers.batch.files.asked import CHAT_URL, COMPLETION_URL

_STRING: Final = {"type": "string"}
_INTEGER: Final = {"type": "integer"}
_NULLABLE: Final = {"type": ["string", "null"]}
_METADATA: Final = {"type": ["object", "null"], "maxProperties": 16, "additionalProperties": _STRING}
_FILE: Final = "openai.file"
_BATCH: Final = "openai.batch"
_LIMIT: Final = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1}}
_AFTER: Final = {"name": "after", "in": "query", "schema": _STRING, "description": "The last id of the page before."}
_ID: Final = {"name": "id", "in": "path", "required": True, "schema": _STRING}


def batch_paths() -> dict[str, Any]:
    """The paths of files and batches."""
    form = {
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {
            "file": {"type": "string", "format": "binary", "description": "JSONL, CSV or Parquet, also compressed."},
            "purpose": {"const": "batch"},
            "expires_after[anchor]": {"const": "created_at"},
            "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
        },
    }
    asked = {
        "type": "object",
        "required": ["input_file_id", "endpoint", "completion_window"],
        "properties": {
            "input_file_id": _STRING,
            "endpoint": {
                **_STRING,
                "description": f"{CHAT_URL} or {COMPLETION_URL} for rows in OpenAI's form, which name their models; "
                "/NAMESPACE/NAME for rows of fields, which all go there.",
            },
            "completion_window": {**_STRING, "pattern": "^[1-9][0-9]*[mhd]$", "description": "At most 7 days."},
            "metadata": _METADATA,
        },
    }
    content = {"description": "The file.", "content": {"application/octet-stream": {"schema": {"type": "string"}}}}
    return {
        "/v1/files": {
            "get": _operation("openai.files", "The files that were uploaded", _listed(_FILE), [_LIMIT, _AFTER]),
            "post": _operation("openai.files.create", "Upload a file", _one(_FILE), body={"multipart/form-data": form}),
        },
        "/v1/files/{id}": {
            "get": _operation("openai.files.retrieve", "One file", _one(_FILE), [_ID]),
            "delete": _operation("openai.files.delete", "Delete a file", _schema({"type": "object"}), [_ID]),
        },
        "/v1/files/{id}/content": {
            "get": _operation("openai.files.content", "What is in a file", content, [_ID]),
        },
        "/v1/batches": {
            "get": _operation("openai.batches", "Batches, the latest first", _listed(_BATCH), [_LIMIT, _AFTER]),
            "post": _operation(
                "openai.batches.create", "Answer all rows of a file", _one(_BATCH), body={"application/json": asked}
            ),
        },
        "/v1/batches/{id}": {
            "get": _operation("openai.batches.retrieve", "How far a batch is", _one(_BATCH), [_ID]),
        },
        "/v1/batches/{id}/cancel": {
            "post": _operation("openai.batches.cancel", "End a batch with what it has", _one(_BATCH), [_ID]),
        },
    }


def _operation(
    id_: str,
    summary: str,
    answer: dict[str, Any],
    parameters: list[dict[str, Any]] | None = None,
    *,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    failed = {
        "description": "Why there is no result.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/openai.error"}}},
    }
    made: dict[str, Any] = {
        "operationId": id_,
        "tags": ["openai"],
        "summary": summary,
        "responses": {"200": answer, "default": failed},
    }
    if parameters:
        made["parameters"] = parameters
    if body is not None:
        made["requestBody"] = {
            "required": True,
            "content": {media: {"schema": schema} for media, schema in body.items()},
        }
    return made


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": "The answer.", "content": {"application/json": {"schema": schema}}}


def _one(name: str) -> dict[str, Any]:
    return _schema({"$ref": f"#/components/schemas/{name}"})


def _listed(name: str) -> dict[str, Any]:
    return _schema(
        {
            "type": "object",
            "required": ["object", "data", "has_more"],
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}},
                "first_id": _NULLABLE,
                "last_id": _NULLABLE,
                "has_more": {"type": "boolean"},
            },
        }
    )


BATCH_SCHEMAS: Final[dict[str, Any]] = {
    _FILE: {
        "type": "object",
        "required": ["id", "object", "bytes", "created_at", "filename", "purpose", "status"],
        "properties": {
            **dict.fromkeys(("id", "filename"), _STRING),
            **dict.fromkeys(("bytes", "created_at", "expires_at"), _INTEGER),
            "object": {"const": "file"},
            "purpose": {"enum": ["batch", "batch_output"]},
            "status": {"const": "processed"},
        },
    },
    _BATCH: {
        "type": "object",
        "required": ["id", "object", "endpoint", "input_file_id", "completion_window", "status", "created_at"],
        "properties": {
            **dict.fromkeys(("id", "endpoint", "input_file_id", "completion_window"), _STRING),
            "object": {"const": "batch"},
            "status": {
                "enum": [
                    *("validating", "failed", "in_progress", "finalizing", "completed"),
                    *("expired", "cancelling", "cancelled"),
                ]
            },
            "created_at": _INTEGER,
            "expires_at": _INTEGER,
            "output_file_id": _NULLABLE,
            "error_file_id": _NULLABLE,
            "request_counts": {
                "type": "object",
                "properties": dict.fromkeys(("total", "completed", "failed"), _INTEGER),
            },
            "errors": {"type": ["object", "null"]},
            "metadata": _METADATA,
        },
    },
}
"""What the paths answer with."""
