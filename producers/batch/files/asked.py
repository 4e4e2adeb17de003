"""Rows of a file → what they ask for: in our form, or as OpenAI's batches do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

import msgspec

from guideway.catalogue.access import called_endpoint
from guideway.catalogue.entries import Catalogue
from guideway.producers.batch.files.form import ID_COLUMN, FileForm
from guideway.producers.batch.files.found import Found, undecodable
from guideway.producers.batch.files.row import OWN, AnswerForm, BadRow, BatchRow
from guideway.producers.events.contents import from_json
from guideway.producers.events.envelope import MAX_ID_CHARS, is_id
from guideway.producers.gateway.openai.event import prepared
from guideway.producers.gateway.openai.models import called_model
from guideway.producers.gateway.openai.parameters import Chat, Completion, chat_of, completion_of
from guideway.producers.gateway.openai.refused import UnknownModel, Wrong
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import Field
from guideway.schemas.manifests import Endpoint
from guideway.schemas.names.addresses import ADDRESS, CALL, endpoint_address

_JSON: Final = "application/json"
_CUSTOM: Final = "custom_id"
_OPENAI: Final = frozenset({_CUSTOM, "method", "url", "body"})
CHAT_URL: Final = "/v1/chat/completions"
COMPLETION_URL: Final = "/v1/completions"
_READ: Final[dict[str, Callable[[Any], Chat | Completion]]] = {CHAT_URL: chat_of, COMPLETION_URL: completion_of}
_WHOLE: Final = re.compile(r"[+-]?\d{1,30}")


class _Asked(NamedTuple):
    endpoint: str | None
    content: bytes
    content_type: str
    headers: tuple[tuple[str, bytes], ...] = ()
    guidance: tuple[str, ...] = ()


class Asking:
    """What rows of one file, of one caller, ask for."""

    def __init__(self, form: FileForm, catalogue: Catalogue, caller: str) -> None:
        self._form, self._catalogue, self._caller = form, catalogue, caller
        self._texts = form.format in ("csv", "tsv")

    def row(self, found: Found) -> BatchRow | BadRow:
        """The row. Whether its id is of an earlier row too is not looked at here."""
        cells, answer, id_ = found.cells, AnswerForm(self._form.unread), None
        try:
            if isinstance(cells, Refusal):
                raise cells
            is_openai = is_openai_row(cells, self._form)
            answer = AnswerForm(_kind(cells)) if is_openai else OWN
            id_ = row_id(cells, id_column_of(cells, self._form), found.line)
            if is_openai:
                answer, asked = self._openai(cells, answer)
            else:
                asked = self._own(cells)
        except Wrong as wrong:
            code = FailureCode.WRONG_FIELD if wrong.param else FailureCode.UNDECODABLE_EVENT
            return self._bad(found, id_, code, wrong.message, answer, wrong.param)
        except UnknownModel as unknown:
            return self._bad(found, id_, FailureCode.UNKNOWN_ENDPOINT, unknown.message, answer, "model")
        except Refusal as refusal:
            return self._bad(found, id_, refusal.code, refusal.message, answer, None)
        return BatchRow(line=found.line, id=id_, answer=answer, next=found.next, **asked._asdict())

    def _bad(
        self, found: Found, id_: str | None, code: FailureCode, message: str, answer: AnswerForm, param: str | None
    ) -> BadRow:
        return BadRow(
            line=found.line,
            last_line=found.last_line,
            id=id_,
            code=code,
            message=message,
            param=param,
            answer=answer,
            next=found.next,
        )

    # Ours ------------------------------------------------------------------------------------------------------------

    def _own(self, cells: Mapping[str, Any]) -> _Asked:
        address: str | None = self._form.endpoint or _address(cells, self._form)
        assert address is not None
        if address == endpoint_address(self._caller, CALL):
            endpoint, address = None, None
        else:
            endpoint = self._endpoint(address)
        fields = self._fields(cells)
        if endpoint is not None and self._form.format != "jsonl":
            typed = {name: self._typed(name, cell, endpoint) for name, cell in fields.items()}
            fields = {name: value for name, value in typed.items() if value is not None}
        if not fields:
            raise undecodable("it has no fields: give the endpoint's fields beside id and endpoint")
        return _Asked(address, msgspec.json.encode(fields), _JSON)

    def _endpoint(self, address: str) -> Endpoint:
        _, namespace, name = address.split("/")
        return called_endpoint(self._catalogue, namespace, name, caller=self._caller)[1]

    def _typed(self, name: str, cell: Any, endpoint: Endpoint) -> Any:
        """A cell of a table as its field's type; None: it is left out.

        What is no such value stays as it is, and is refused. In Parquet only arrays and objects are written as text.
        """
        field = endpoint.input.fields.get(name)
        if isinstance(cell, Decimal) and field is not None and field.type in ("number", "integer"):
            return int(cell) if cell == cell.to_integral_value() else float(cell)
        if field is None or not isinstance(cell, str):
            return cell
        if not self._texts:
            return _json_of(cell) if field.type in ("array", "object") else cell
        return _value_of(cell, field)

    def _fields(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        if not self._form.columns:
            own = {self._form.id_column} if self._form.endpoint else {self._form.id_column, "endpoint"}
            return {name: value for name, value in cells.items() if name not in own}
        return {field: cells[column] for field, column in self._form.columns.items() if column in cells}

    # OpenAI's --------------------------------------------------------------------------------------------------------

    def _openai(self, cells: Mapping[str, Any], answer: AnswerForm) -> tuple[AnswerForm, _Asked]:
        if unknown := [name for name in cells if name not in _OPENAI]:
            raise Wrong(
                f"a row has custom_id, method, url and body, and no {unknown[0][:60]!r}: leave it out", unknown[0][:60]
            )
        if cells.get("method") != "POST":
            raise Wrong("method is not POST: write that", "method")
        url, body = cells.get("url"), cells.get("body")
        # An array or an object can be looked up nowhere.
        read = _READ.get(url) if isinstance(url, str) else None
        if read is None:
            what = "is missing" if url is None else f"{str(url)[:80]!r} is not served"
            raise Wrong(f"url {what}: write {CHAT_URL} or {COMPLETION_URL}", "url")
        if not isinstance(body, dict):
            raise Wrong(f"body is no object: write what {url} takes", "body")
        asked = read(body)
        if asked.stream:
            raise Wrong("a row of a batch is not streamed: leave it out", "stream")
        endpoint = called_model(self._catalogue, asked.model, self._caller)
        event = prepared(asked, endpoint)
        answer = AnswerForm(answer.kind, asked.model, asked.told, asked.tokens[0])
        address = None if endpoint is None else endpoint.address
        return answer, _Asked(address, event.content, event.content_type, event.headers, event.guidance)


def is_openai_row(cells: Mapping[str, Any], form: FileForm) -> bool:
    """Whether the row is one of OpenAI's batches. Where an endpoint is told, all columns are its fields."""
    return (
        form.format == "jsonl" and form.endpoint is None and "endpoint" not in cells and not _OPENAI.isdisjoint(cells)
    )


def id_column_of(cells: Mapping[str, Any], form: FileForm) -> str:
    """The column that holds the row's id."""
    return _CUSTOM if is_openai_row(cells, form) else form.id_column


def row_id(cells: Mapping[str, Any], column: str, line: int) -> str:
    """The id of a row; `line-LINE` where it has none, and nobody says that it has.

    Raises Refusal: invalid_header; missing_field.
    """
    if column not in cells:
        if column not in (ID_COLUMN, _CUSTOM):
            raise Refusal(FailureCode.MISSING_FIELD, f"it has no {column!r:.80}, which is to be its id: add it")
        return f"line-{line}"
    id_ = cells[column]
    if isinstance(id_, int) and not isinstance(id_, bool):
        return str(id_)
    if not isinstance(id_, str) or not id_ or not is_id(id_):
        if not isinstance(id_, str):
            what = f"is no text, but {'null' if id_ is None else id_!s:.40}"
        elif not id_:
            what = "is empty"
        else:
            what = "is too long" if len(id_) > MAX_ID_CHARS else "holds line ends or control characters"
        raise Refusal(
            FailureCode.INVALID_HEADER,
            f"its {column} {what}: write 1 to {MAX_ID_CHARS} printable characters, or leave the column out",
        )
    return id_


def _kind(cells: Mapping[str, Any]) -> Any:
    return "completion" if cells.get("url") == COMPLETION_URL else "chat"


def _address(cells: Mapping[str, Any], form: FileForm) -> str:
    given = cells.get("endpoint")
    if given is None:
        what = form.advice("--endpoint /NAMESPACE/NAME", "ask with the batch's `endpoint` /NAMESPACE/NAME")
        raise Refusal(
            FailureCode.UNKNOWN_ENDPOINT, f"it names no endpoint: write `endpoint` into each row, or {what} for all"
        )
    address = f"/{given.removeprefix('/')}" if isinstance(given, str) else ""
    if not ADDRESS.fullmatch(address):
        raise Refusal(FailureCode.UNKNOWN_ENDPOINT, f"endpoint {str(given)[:80]!r} is none: write /NAMESPACE/NAME")
    return address


def _value_of(cell: str, field: Field) -> Any:
    plain = cell.strip()
    if field.type == "string":
        return cell if plain or field.required else None
    if not plain:
        return None
    if field.type == "boolean":
        return {"true": True, "false": False}.get(plain.lower(), cell)
    if field.type == "integer":
        return int(plain) if _WHOLE.fullmatch(plain) else cell
    return _json_of(cell)


def _json_of(cell: str) -> Any:
    try:
        return from_json(cell.encode())
    except Refusal:
        return cell
