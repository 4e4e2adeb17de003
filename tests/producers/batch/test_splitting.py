"""Rows of a file become pieces in the store, which batchers read again, whatever rows and answers hold."""

from __future__ import annotations

from pathlib import Path

import msgspec
from tests.producers.batch.stand_in import rows
from tests.producers.gateway.openai.made import reply

from guideway.producers.batch.folder import JobFolder
from guideway.producers.batch.joining import join
from guideway.producers.batch.splitting import split
from guideway.producers.batch.stored import MAX_PIECE_BYTES, Decision, Part
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
