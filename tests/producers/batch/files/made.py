"""Files and endpoints that the tests of batch files read."""

from __future__ import annotations

import io
from typing import Any

from guideway.catalogue.entries import Catalogue
from guideway.catalogue.identity import Identity
from guideway.producers.batch.files.form import file_form
from guideway.producers.batch.files.reading import read_rows
from guideway.producers.batch.files.row import START, BadRow, BatchRow, Position
from guideway.producers.batch.files.survey import survey
from guideway.schemas.generation import Generation, RequestGeneration
from guideway.schemas.input import Field, InputRule
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Text
from guideway.schemas.wire import MANIFEST


def endpoint(namespace: str, name: str, **more: Any) -> Endpoint:
    more = {"generation": Generation(max_tokens=8), "request_generation": RequestGeneration(max_tokens=64)} | more
    return Endpoint(namespace=namespace, name=name, model_size="small", output=Text(), **more)


TYPED = InputRule(
    fields={
        "text": Field(),
        "stars": Field(type="integer", required=False),
        "open": Field(type="boolean", required=False),
        "price": Field(type="number", required=False),
        "tags": Field(type="array", required=False),
    }
)


def catalogue() -> Catalogue:
    made = Catalogue()
    for one in (
        endpoint("shop", "mood"),
        endpoint("shop", "order", input=TYPED),
        endpoint("news", "topic", access=["shop"]),
        endpoint("news", "secret"),
    ):
        made.absorb(Identity.of(one).topic, Identity.of(one).key(1), MANIFEST.encode(one))
    return made


def rows_of(
    data: bytes, name: str = "rows.jsonl", *, at: Position = START, look: bool = False, **told: Any
) -> list[BatchRow | BadRow]:
    """look: whether the file is surveyed first, for ids that are doubled."""
    form = file_form(name, **told)
    doubled = survey(io.BytesIO(data), form).doubled_lines if look else ()
    return [*read_rows(io.BytesIO(data), form, catalogue=catalogue(), caller="shop", at=at, doubled=doubled)]


def good(rows: list[BatchRow | BadRow]) -> list[BatchRow]:
    found = [row for row in rows if isinstance(row, BatchRow)]
    assert len(found) == len(rows), [row for row in rows if isinstance(row, BadRow)]
    return found


def told(row: BatchRow | BadRow) -> str:
    """`line 3 · code · message` of a bad row."""
    assert isinstance(row, BadRow), row
    return f"{row.where} · {row.code} · {row.message}"
