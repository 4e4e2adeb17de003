"""Rows of a file become pieces in the store, which batchers read again, whatever rows and answers hold."""

from __future__ import annotations

from pathlib import Path

import msgspec
from tests.producers.batch.stand_in import rows
from tests.producers.gateway.openai.made import reply

from guideway.producers.batch.files.row import START, AnswerForm, BadRow
from guideway.producers.batch.folder import JobFolder
from guideway.producers.batch.joining import answers, join
from guideway.producers.batch.results.lines import line_of
from guideway.producers.batch.splitting import split
from guideway.producers.batch.stored import MAX_PIECE_BYTES, Decision, Part, failure
from guideway.schemas.failures import FailureCode
from guideway.schemas.reply import Failed
from guideway.schemas.services.batch import BatchJob, Counts
from guideway.schemas.wire import REPLY


def test_what_rows_ask_beside_their_text_counts_towards_the_size_of_a_piece(tmp_path: Path) -> None:
    """Each may bring a schema of its own; a piece that is too large to be read would fail the job."""
    asked = [
        msgspec.structs.replace(row, headers=(("generation", b"{" + b" " * 200_000 + b"}"),))
        for row in rows(["a"] * 200, "shop")
    ]
    folder = JobFolder(str(tmp_path), "shop", "batch-1")
    written = split(asked, folder)
    index = folder.index(written.index)
    assert sum(len(folder.rows(index, number)) for number in range(written.pieces)) == 200


def test_failed_rows_say_what_is_to_blame_and_what_to_do(tmp_path: Path) -> None:
    """As the gateway says it of a single request; and no caller of a batch has published anything under an id."""
    folder = JobFolder(str(tmp_path), "shop", "batch-1")
    chat, (plain, set_, bringing) = AnswerForm("chat", "shop/a", None, "max_completion_tokens"), rows(["a"] * 3, "shop")
    made = [
        msgspec.structs.replace(plain, answer=chat, content_type="text/plain"),
        msgspec.structs.replace(set_, answer=chat, headers=(("generation", b'{"max_tokens":9,"samples":2}'),)),
        msgspec.structs.replace(bringing, answer=chat, guidance=("shop/tone",)),
        BadRow(
            line=4,
            last_line=4,
            id="d",
            code=FailureCode.WRONG_FIELD,
            message="no",
            param="stop",
            answer=chat,
            next=START,
        ),
    ]
    written = split(made, folder)
    index = folder.index(written.index)
    said = [
        (FailureCode.CANCELLED, "publish it under another id"),
        (FailureCode.GENERATION_REFUSED, "max_tokens is 9, and a request may ask this endpoint for 5 at most"),
        (FailureCode.GUIDANCE_UNKNOWN, "there is none"),
    ]
    replies = {place: REPLY.encode(failure("1", *one)) for place, one in enumerate(said)}
    folder.put_part(
        0,
        Part(Counts(sent=4, completed=0), 4, replies | {3: REPLY.encode(failure("1", FailureCode.WRONG_FIELD, "no"))}),
    )
    job = BatchJob(id="batch-1", rows=4, pieces=1, index=written.index, secret="0" * 32, submitted_ms=1, deadline_ms=2)
    found = [*answers(folder, job, index, Decision("cancelled", 2))]
    assert [one.param for one in found] == [None, "max_completion_tokens", "guidance", "stop"]
    assert isinstance(found[0].reply, Failed)
    assert found[0].reply.message == "the job was cancelled before this row was answered: submit it again"
    told = [msgspec.json.decode(line_of(one, created_s=1)) for one in found]
    assert [one["response"]["body"]["error"]["param"] for one in told[1:]] == [one.param for one in found[1:]]


def test_long_answers_are_joined_as_short_ones_are(tmp_path: Path) -> None:
    """An answer with the probabilities of its words has a megabyte, and a piece has hundreds."""
    folder = JobFolder(str(tmp_path), "shop", "batch-1")
    written = split(rows(["a"] * 40, "shop"), folder)
    long = REPLY.encode(reply("x" * 2**20))
    answers = Part(Counts(sent=40, completed=40), 40, dict.fromkeys(range(40), long))
    assert 40 * len(long) > MAX_PIECE_BYTES
    folder.put_part(0, answers)
    job = BatchJob(
        id="batch-1",
        rows=40,
        pieces=written.pieces,
        index=written.index,
        secret="0" * 32,
        submitted_ms=1,
        deadline_ms=2,
    )
    joined = join(folder, job, folder.index(written.index), Decision("done", 2))
    assert joined.counts.completed == 40
