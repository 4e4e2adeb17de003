"""Which parameter of a row in OpenAI's form is to blame for its failure. Pure."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from guideway.producers.batch.files.row import AnswerForm
from guideway.producers.batch.stored import RefusedRow, SentRow, StoredRow
from guideway.schemas.failures import FailureCode
from guideway.schemas.names import header
from guideway.schemas.reply import Failed, Reply

_OPENAIS: Final = {"samples": "n"}
"""OpenAI's names of generation parameters, where they are others."""


def said_in(form: AnswerForm) -> str | None:
    """The parameter that holds the row's text; None for a row in our form."""
    return {"chat": "messages", "completion": "prompt"}.get(form.kind)


def to_blame(reply: Reply, row: StoredRow) -> str | None:
    """The parameter for which the row was refused, as far as what is stored of it tells that; else None."""
    if isinstance(row, RefusedRow):
        return row.param
    found = None
    if isinstance(reply, Failed) and isinstance(row, SentRow) and row.answer.kind != "own":
        match reply.code:
            case FailureCode.TEXT_TOO_LONG | FailureCode.UNDECODABLE_EVENT | FailureCode.OUTPUT_UNSATISFIABLE:
                found = said_in(row.answer)
            case FailureCode.MISSING_FIELD:
                found = "fields"
            case FailureCode.UNKNOWN_FIELD | FailureCode.WRONG_FIELD:
                # With fields beside it, it is not stored what was given how.
                found = said_in(row.answer) if row.content_type.startswith("text/") else None
            case FailureCode.GUIDANCE_FORBIDDEN | FailureCode.GUIDANCE_UNKNOWN | FailureCode.INVALID_HEADER:
                found = "guidance" if row.guidance else None
            case FailureCode.GENERATION_REFUSED:
                found = _parameter(reply.message, row)
    return found


def _parameter(message: str, row: SentRow) -> str | None:
    """The generation parameter of the row that the message names."""
    asked = msgspec.json.decode(dict(row.headers).get(header.GENERATION, b"{}"))
    names = [name for name, value in asked.items() if value is not None and re.search(rf"\b{name}\b", message)]
    found = _OPENAIS.get(names[0], names[0]) if names else None
    return row.answer.tokens if found == "max_tokens" else found
