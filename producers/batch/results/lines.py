"""Answers as lines of JSON: in our form, or as OpenAI's batches give them. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from guideway.producers.batch.files.row import AnswerForm
from guideway.producers.batch.results.answer import Answer
from guideway.producers.gateway.openai.parameters import Chat, Completion
from guideway.producers.gateway.openai.refused import envelope
from guideway.producers.gateway.openai.reply import completion
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.reply import Completed, Failed

_NEVER_ASKED: Final = {
    FailureCode.CANCELLED: "batch_cancelled",
    FailureCode.DEADLINE_EXCEEDED: "batch_expired",
}
"""OpenAI's codes for rows that were not answered at all."""


def line_of(answer: Answer, *, created_s: int) -> bytes:
    """One line, in the form that its row wants. created_s: when the job was submitted, Unix seconds."""
    told = _own(answer) if answer.form.kind == "own" else _openai(answer, created_s)
    return msgspec.json.encode(told) + b"\n"


def _own(answer: Answer) -> dict[str, Any]:
    """What a reply has, under the row's id and line."""
    reply = answer.reply
    told: dict[str, Any] = {"id": answer.id, "line": answer.line}
    # The router's choice is in the reply; of a row that was not sent, only the row says it.
    endpoint = f"/{reply.namespace}/{reply.endpoint}" if reply.endpoint else answer.endpoint
    if endpoint is not None:
        told["endpoint"] = endpoint
    if isinstance(reply, Completed):
        told["value"] = reply.value
    more = msgspec.to_builtins(reply)
    return told | {name: value for name, value in more.items() if name not in ("schema", "id", "namespace", "endpoint")}


def _openai(answer: Answer, created_s: int) -> dict[str, Any]:
    reply = answer.reply
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    if isinstance(reply, Failed) and reply.code in _NEVER_ASKED:
        error = {"code": _NEVER_ASKED[reply.code], "message": reply.message}
    else:
        status, body = _response(answer, created_s)
        response = {"status_code": status, "request_id": answer.request_id, "body": body}
    return {
        "id": f"batch_req_{answer.request_id}",
        "custom_id": answer.id,
        "line": answer.line,
        "response": response,
        "error": error,
    }


def _response(answer: Answer, created_s: int) -> tuple[int, dict[str, Any]]:
    reply = answer.reply
    if isinstance(reply, Completed):
        return 200, completion(reply, _asked(answer.form), created_s=created_s)
    status, body = envelope(Refusal(reply.code, reply.message), answer.param)
    return status.http, body


def _asked(form: AnswerForm) -> Chat | Completion:
    """As much of a request as its answer is written by."""
    if form.kind == "completion":
        return Completion(model=form.model, prompt="", logprobs=form.told)
    return Chat(model=form.model, messages=[], logprobs=True if form.told is not None else None, top_logprobs=form.told)
