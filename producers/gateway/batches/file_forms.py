"""How an uploaded file is read, by its name and by what a batch asks for. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from guideway.producers.batch.files.asked import COMPLETION_URL
from guideway.producers.batch.files.form import FORMATS, FileForm, file_form
from guideway.producers.gateway.batches.file_store import About
from guideway.producers.gateway.batches.objects import told_endpoint
from guideway.producers.gateway.openai.refused import Wrong
from guideway.schemas.failures import Refusal

_MOST_PLAIN_BYTES: Final = 8 * 2**30
_MOST_ROWS: Final = 5_000_000
"""Of a file, once it is unpacked. The command line takes more: there nobody else waits for this process."""


def form_of(about: About, asked_endpoint: str) -> FileForm:
    """By the file's name; a name that says nothing is JSONL, as OpenAI's is. Raises Wrong."""
    endpoint = told_endpoint(asked_endpoint)
    try:
        form = file_form(about.filename, endpoint=endpoint)
    except Refusal as refusal:
        if "--format" not in refusal.message:
            raise Wrong(refusal.message, "input_file_id") from None
        form = file_form(about.filename, endpoint=endpoint, format=FORMATS[0])
    most = {"most_plain_bytes": _MOST_PLAIN_BYTES, "most_rows": _MOST_ROWS}
    form = msgspec.structs.replace(form, is_uploaded=True, **most)
    if endpoint is not None:
        return form
    return msgspec.structs.replace(form, unread="completion" if asked_endpoint == COMPLETION_URL else "chat")
