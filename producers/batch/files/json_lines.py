"""JSONL → rows: one object a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from guideway.producers.batch.files.form import MAX_ROW_BYTES, FileForm
from guideway.producers.batch.files.found import Found, undecodable, unusable
from guideway.producers.batch.files.plain_text import Line, broken, lines
from guideway.producers.batch.files.row import Position
from guideway.producers.events.contents import from_json
from guideway.schemas.failures import FailureCode, Refusal

_MOST_BLANK: Final = 1_000_000


def json_rows(source: BinaryIO, form: FileForm, at: Position) -> Iterator[Found]:
    """The rows from `at` on; blank lines are none. Raises Refusal(invalid_data), as `pieces`."""
    last = at.line
    for line in lines(source, form, at):
        if not line.text.strip() and not line.is_too_long:
            require_rows_to_come(line.number - last, line.number, form)
            continue
        if last == 0:
            _require_rows(line.text.strip(), form)
        last = line.number
        yield Found(line.number, line.number, _cells(line, form), Position(line.number, line.end))


def _require_rows(first: bytes, form: FileForm) -> None:
    """first: the first line that is not blank. Raises Refusal(invalid_data) where it shows that lines are no rows."""
    if first[:1] == b"[":
        raise unusable(
            f"{form.name} begins with `[`, so it is one JSON array: write one object a line "
            "(`jq -c '.[]' FILE > FILE.jsonl`)"
        )
    if first == b"{":
        raise unusable(
            f"{form.name} has its first object on several lines: write one object a line (`jq -c . FILE > FILE.jsonl`)"
        )


def _cells(line: Line, form: FileForm) -> dict[str, Any] | Refusal:
    if line.is_too_long:
        return too_long()
    try:
        found = from_json(line.text)
    except Refusal as refusal:
        why = broken(line.text, form)
        said = refusal.message.replace("the value is not JSON", "the line is not JSON")
        return undecodable(why or said.replace("publish one event a record", "write one object a line"))
    if not isinstance(found, dict):
        return undecodable("the line is JSON, but no object: write one object a line")
    return found


def require_rows_to_come(blank: int, line: int, form: FileForm) -> None:
    """Raises Refusal(invalid_data) where so many lines are empty that nobody means them: packed, they cost nothing."""
    if blank > _MOST_BLANK:
        raise unusable(f"{form.name}, line {line}: {_MOST_BLANK} lines before it are empty: leave them out")


def too_long() -> Refusal:
    """Of a row that no event can hold."""
    return Refusal(FailureCode.TEXT_TOO_LONG, f"the row has more than {MAX_ROW_BYTES // 2**20} MiB: split its text")
