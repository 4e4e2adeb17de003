"""The end of a job: its pieces become one file of results and one of failures, visible when both are whole."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import msgspec

from guideway.producers.batch.folder import JobFolder
from guideway.producers.batch.parts import PieceResults
from guideway.producers.batch.results.answer import Answer
from guideway.producers.batch.results.blame import to_blame
from guideway.producers.batch.results.writing import ResultFiles
from guideway.producers.batch.stored import (
    Damaged,
    Decision,
    Index,
    RefusedRow,
    RequestIds,
    SameRow,
    SentRow,
    failure,
)
from guideway.schemas.failures import FailureCode
from guideway.schemas.reply import Failed, Reply
from guideway.schemas.services.batch import BatchJob, Counts, Outcome
from guideway.schemas.wire import REPLY

CALLED_OFF: Final[Mapping[Outcome, tuple[FailureCode, str]]] = MappingProxyType(
    {
        "cancelled": (FailureCode.CANCELLED, "the job was cancelled before this row was answered: submit it again"),
        "expired": (
            FailureCode.DEADLINE_EXCEEDED,
            "the job's deadline came before this row was answered: submit it again, with more time",
        ),
    }
)
"""What becomes of the rows that have no answer when a job ends so."""
_MOST_OPEN: Final = 8
"""Pieces whose results are at hand, for rows that have the answers of others: up to 4 MiB in each part."""


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """What was written."""

    output: str
    errors: str
    counts: Counts


def join(folder: JobFolder, job: BatchJob, index: Index, decision: Decision) -> Joined:
    """Write the job's files. To write them again gives the same.

    Raises: Damaged where a row is missing or is there twice; Refusal(invalid_setting) for Parquet without pyarrow;
    OSError and what else the store has.
    """
    output, errors = f"output.{job.form}", "errors.jsonl"
    tally = _Tally()
    created_s = job.submitted_ms // 1000
    with (
        folder.writing(errors, output) as (failed, completed),
        ResultFiles(completed, failed, job.form, created_s=created_s) as files,
    ):
        for answer in answers(folder, job, index, decision):
            tally.add(answer)
            files.write(answer)
        if tally.rows != job.rows:
            raise Damaged(f"{tally.rows} of its {job.rows} rows are answered")
    return Joined(output=output, errors=errors, counts=tally.counts)


def answers(folder: JobFolder, job: BatchJob, index: Index, decision: Decision) -> Iterator[Answer]:
    """What came of each row, once each. Raises as `join`."""
    ids = RequestIds(job.id, job.secret)
    missing = _Missing(folder, index, ids, decision)
    with closing(_Results(folder, index, keeps=job.dedupe)) as results:
        for number in range(len(index.pieces)):
            rows, found = folder.rows(index, number), results.of(number)
            first = index.firsts[number]
            places = list(range(len(rows)))
            if job.order == "as-they-come":
                places = [*found.came, *(place for place in places if place not in found)]
            if len(places) != len(rows) or max(places) >= len(rows):
                raise Damaged(f"piece {number} of its results does not have each row once")
            for place in places:
                row = rows[place]
                owner = first + place
                if isinstance(row, SameRow):
                    if not 0 <= row.of < owner:
                        raise Damaged(f"row {owner} has the answer of a later one")
                    owner = row.of
                kept = results.reply(owner)
                reply = missing.reply(owner) if kept is None else _of_job(REPLY.decode(kept))
                yield Answer(
                    line=row.line,
                    id=row.id,
                    endpoint=row.endpoint if isinstance(row, SentRow) else None,
                    form=row.answer,
                    request_id=ids.of(first + place),
                    reply=reply,
                    param=to_blame(reply, row),
                )


def _of_job(reply: Reply) -> Reply:
    """What the row's caller is told: only the job's end cancels its requests, whose ids are none of the caller's."""
    if isinstance(reply, Failed) and reply.code is FailureCode.CANCELLED:
        return msgspec.structs.replace(reply, message=CALLED_OFF["cancelled"][1])
    return reply


class _Missing:
    """What rows are answered that have no result, because the job was called off."""

    def __init__(self, folder: JobFolder, index: Index, ids: RequestIds, decision: Decision) -> None:
        self._index, self._ids = index, ids
        self._called_off = CALLED_OFF.get(decision.outcome)
        self._rows = lru_cache(maxsize=4)(lambda number: folder.rows(index, number))

    def reply(self, number: int) -> Failed:
        """The reply to the row of this number. Raises Damaged."""
        if self._called_off is None:
            raise Damaged(f"the result of row {number} is gone")
        piece = self._index.piece_of(number)
        row = self._rows(piece)[number - self._index.firsts[piece]]
        if isinstance(row, RefusedRow):
            return failure(self._ids.of(number), row.code, row.message)
        endpoint = row.endpoint if isinstance(row, SentRow) else None
        return failure(self._ids.of(number), *self._called_off, endpoint)


class _Results:
    """The results of all pieces, of which the last few are open."""

    def __init__(self, folder: JobFolder, index: Index, *, keeps: bool) -> None:
        """keeps: rows may have the results of earlier ones."""
        self._folder, self._index = folder, index
        self._parts = folder.parts()
        self._open: OrderedDict[int, PieceResults] = OrderedDict()
        self._most = _MOST_OPEN if keeps else 1

    def of(self, number: int) -> PieceResults:
        """Of one piece."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        while len(self._open) >= self._most:
            self._open.popitem(last=False)[1].close()
        try:
            found = self._open[number] = self._folder.results_of(self._parts.get(number, ()))
        except FileNotFoundError:
            raise Damaged(f"piece {number} of its results is gone") from None
        return found

    def reply(self, row: int) -> bytes | None:
        """The reply to one row; None: there is none."""
        number = self._index.piece_of(row)
        results, place = self.of(number), row - self._index.firsts[number]
        return results.reply(place) if place in results else None

    def close(self) -> None:
        """Nothing is read any more."""
        for one in self._open.values():
            one.close()


class _Tally:
    """Counts what is written. A repeated row counts as a row, and its tokens count once."""

    def __init__(self) -> None:
        self.rows = self._completed = self._prompt_tokens = self._output_tokens = 0
        self._failures: Counter[str] = Counter()

    def add(self, answer: Answer) -> None:
        self.rows += 1
        reply = answer.reply
        if isinstance(reply, Failed):
            self._failures[reply.code.value] += 1
            return
        self._completed += 1
        if reply.id == answer.request_id:
            self._prompt_tokens += reply.usage.prompt_tokens
            self._output_tokens += reply.usage.output_tokens

    @property
    def counts(self) -> Counts:
        return Counts(
            sent=self.rows,
            completed=self._completed,
            failures=dict(sorted(self._failures.items())),
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
        )
