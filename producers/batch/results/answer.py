"""What came of one row of a batch file."""

from __future__ import annotations

import msgspec

from guideway.producers.batch.files.row import AnswerForm
from guideway.schemas.reply import Reply


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one row of the file."""

    line: int
    id: str | None
    """As the file says; None: it says none that can be used."""
    endpoint: str | None
    """`/NAMESPACE/NAME`, as the row says; None: it names none, or the router."""
    form: AnswerForm
    request_id: str
    reply: Reply
    param: str | None = None
    """In OpenAI's form: the parameter that is to blame for its failure."""
