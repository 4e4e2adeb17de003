"""What can be said of a batch file before anything of it is sent: its first rows, its columns, its endpoints."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import BinaryIO, Final

import msgspec

from guideway.catalogue.access import OF_THE_EVENT, called_endpoint, told_to_others
from guideway.catalogue.entries import Catalogue
from guideway.producers.batch.files.form import FileForm
from guideway.producers.batch.files.found import unusable
from guideway.producers.batch.files.reading import head_of, read_rows
from guideway.producers.batch.files.row import BadRow, BatchRow
from guideway.producers.events.contents import content
from guideway.producers.marshalling.marshal import render
from guideway.schemas.event import Event
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.manifests import Endpoint

FIRST_ROWS: Final = 200
"""So many rows are looked at."""
_SHOWN: Final = 3


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What the first rows of a file are."""

    rows: int
    """How many were looked at, the bad ones too."""
    is_whole: bool
    """Whether these are all."""
    endpoints: list[str]
    """`/NAMESPACE/NAME`, those that they name, in order of their names."""
    bad: list[BadRow]
    """Those that would fail."""


def check_file(
    source: BinaryIO, form: FileForm, *, catalogue: Catalogue, caller: str, first_rows: int = FIRST_ROWS
) -> Checked:
    """Look at the first rows as the endpoint service would.

    Raises Refusal: invalid_data where the file cannot be read, has no rows, or all rows that were looked at would fail,
    with the first reasons; invalid_setting without pyarrow.
    """
    count, bad, endpoints = 0, list[BadRow](), set[str]()
    rows = read_rows(source, form, catalogue=catalogue, caller=caller)
    for row in islice(rows, first_rows):
        count += 1
        if isinstance(row, BatchRow):
            if row.endpoint is not None:
                endpoints.add(row.endpoint)
            try:
                check_row(row, catalogue, caller)
            except Refusal as refusal:
                bad.append(
                    BadRow(
                        line=row.line,
                        last_line=row.line,
                        id=row.id,
                        code=refusal.code,
                        message=refusal.message,
                        answer=row.answer,
                        next=row.next,
                    )
                )
        else:
            bad.append(row)
    if not count:
        raise unusable(f"{form.name} has no rows: write some, one for each request")
    if len(bad) == count:
        which = "the only row" if count == 1 else f"each of the first {count} rows"
        raise unusable(f"{form.name}: {which} would fail, so nothing is sent. {_told(bad)}{_hint(bad, form, source)}")
    return Checked(rows=count, is_whole=next(rows, None) is None, endpoints=sorted(endpoints), bad=bad)


def check_row(row: BatchRow, catalogue: Catalogue, caller: str) -> None:
    """Raises Refusal as the endpoint service would, as far as the row's own fields and text tell it."""
    if row.endpoint is None:
        return
    _, namespace, name = row.endpoint.split("/")
    endpoint: Endpoint = called_endpoint(catalogue, namespace, name, caller=caller)[1]
    try:
        render(Event(id=row.id, content=content(row.content, row.content_type, endpoint.input)), endpoint)
    except Refusal as refusal:
        if namespace == caller:
            raise
        raise told_to_others(refusal, namespace, verbatim=OF_THE_EVENT) from None


def _told(bad: Iterable[BadRow]) -> str:
    """The first reason of each kind."""
    kinds: dict[str, BadRow] = {}
    for row in bad:
        kinds.setdefault(f"{row.code} {row.message}", row)
    shown = [f"{row.where}: {row.message} ({row.code})" for row in islice(kinds.values(), _SHOWN)]
    return "; ".join(shown)


def _hint(bad: list[BadRow], form: FileForm, source: BinaryIO) -> str:
    if form.endpoint is not None and form.format == "jsonl" and any("'custom_id'" in row.message for row in bad):
        what = form.advice("leave the endpoint out", "ask with the batch's `endpoint` /v1/chat/completions")
        return f". Rows of OpenAI's batches name their endpoints themselves: {what}"
    if not form.columns and any(row.code == FailureCode.UNKNOWN_FIELD for row in bad):
        begins = ""
        if form.format in ("csv", "tsv"):
            # Of a file without a head, its first row is one.
            begins = f". The head of the file is {', '.join(map(repr, head_of(source, form).columns))[:200]}"
        named = "To send some columns only, name them: --map FIELD=COLUMN"
        return f"{begins}. {form.advice(named, 'Leave out of the file what is no field, and name columns as fields')}"
    return ""
