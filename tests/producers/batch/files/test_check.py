"""What is known of a file before anything of it is sent."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from tests.producers.batch.files.made import catalogue

from guideway.producers.batch.files.check import Checked, check_file
from guideway.producers.batch.files.form import column_map, file_form
from guideway.producers.batch.files.opening import opened, seekable
from guideway.producers.batch.files.row import BadRow
from guideway.producers.batch.files.survey import survey
from guideway.producers.gateway.batches.file_forms import form_of
from guideway.producers.gateway.batches.file_store import About
from guideway.schemas.failures import Refusal


def checked(data: bytes, name: str = "rows.jsonl", **told: Any) -> Checked:
    return check_file(io.BytesIO(data), file_form(name, **told), catalogue=catalogue(), caller="shop")


GOOD = b'{"id": "a", "endpoint": "/shop/mood", "text": "Good"}\n'


def test_a_file_is_looked_at_as_the_endpoint_service_would() -> None:
    found = checked(GOOD * 3 + GOOD.replace(b"text", b"txet") + GOOD.replace(b"shop/mood", b"news/topic"))
    assert (found.rows, found.is_whole, found.endpoints) == (5, True, ["/news/topic", "/shop/mood"])
    assert [(row.line, row.code) for row in found.bad] == [(4, "unknown_field")]
    assert not checked(GOOD * 201).is_whole


@pytest.mark.parametrize(("data", "told", "why"), [
    (b"nr,body\n1,a\n", {"endpoint": "shop/mood"}, "unknown field 'nr'.*--map FIELD=COLUMN"),
    (b"1,a\n2,b\n", {"endpoint": "shop/mood"}, "unknown field '1'.*The head of the file is '1', 'a'"),
    (b"id,body\n1,a\n", {}, "does not say which endpoint its rows are for: add --endpoint"),
    (b"id,body\n1,a\n", {"endpoint": "shop/mood", "columns": {"text": "txt"}}, "has no column 'txt'.*'id', 'body'"),
    (b"id,text\n1,a\n", {"endpoint": "shop/moo"}, "the only row would fail, so nothing is sent. line 2: .*shop/moo"),
    (b"id,text\n1,a\n", {"endpoint": "news/secret"}, "may not call /news/secret"),
    (b"id,text\n", {"endpoint": "shop/mood"}, "has no rows"),
    (b"id,text\n1,\xe9\n", {"endpoint": "shop/mood"}, "0xe9. is not of the file's encoding"),
])  # fmt: skip
def test_a_file_of_which_no_row_can_succeed_is_refused(data: bytes, told: dict[str, Any], why: str) -> None:
    with pytest.raises(Refusal, match=why):
        checked(data, "rows.csv", **told)


def test_rows_of_openais_batches_name_their_endpoints_themselves() -> None:
    with pytest.raises(Refusal, match="leave the endpoint out"):
        checked(b'{"custom_id": "a", "body": {}}', endpoint="shop/mood")


@pytest.mark.parametrize(("name", "told", "why"), [
    ("rows.txt", {}, "its name does not say which: add --format"),
    ("rows", {}, "its name does not say which: add --format"),
    ("-", {}, "standard input has no name that says its format"),
    ("rows.xlsx", {}, "an Excel file: save it as CSV in UTF-8"),
    ("rows.json", {}, "write one object a line"),
    ("rows.csv.zip", {}, "unpack it"),
    ("rows.csv", {"format": "xml"}, "--format 'xml' is not known"),
    ("rows.csv", {"endpoint": "shop"}, "--endpoint 'shop' is no endpoint"),
    ("rows.csv", {"delimiter": "ab"}, "is not one sign"),
    ("rows.csv", {"encoding": "klingon"}, "is no text encoding"),
    ("rows.csv", {"encoding": "rot13"}, "is no text encoding"),
])  # fmt: skip
def test_what_is_told_of_a_file_is_checked(name: str, told: dict[str, Any], why: str) -> None:
    with pytest.raises(Refusal, match=why):
        file_form(name, **told)


def test_columns_are_mapped_by_name() -> None:
    assert column_map(["text=body", "lang=a=b"]) == {"text": "body", "lang": "a=b"}
    for given in (["text"], ["=a"], ["a="], ["a=b", "a=c"]):
        with pytest.raises(Refusal):
            column_map(given)


def test_names_say_formats() -> None:
    assert [file_form(name).format for name in ("a.JSONL", "s3://b/c.csv.gz", "x.ndjson", "y.parquet", "z.tsv")] == [
        "jsonl", "csv", "jsonl", "parquet", "tsv",
    ]  # fmt: skip


def test_a_file_is_opened_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, why in ((".", "is a folder"), ("none", "there is no file"), ("empty", "is empty: it has no rows")):
        with pytest.raises(Refusal, match=why):
            opened(str(tmp_path / name))
    with pytest.raises(Refusal, match="neither a file nor a pipe"):
        opened("/dev/zero")
    (tmp_path / "rows.jsonl").write_bytes(GOOD)
    for address in (str(tmp_path / "rows.jsonl"), f"file://{tmp_path}/rows.jsonl"):
        with opened(address) as found:
            assert found.read() == GOOD
    with seekable(io.BytesIO(GOOD), "-") as found:
        assert found.read() == GOOD
    with pytest.raises(Refusal, match="standard input is empty"):
        seekable(io.BytesIO(), "-")


def test_a_survey_can_be_stored() -> None:
    found = survey(io.BytesIO(GOOD * 3 + b"{\n"), file_form("rows.jsonl"))
    assert (found.rows, [*found.doubled_lines]) == (4, [2, 3])
    assert [line in found.doubled_lines for line in (1, 2, 3, 4, 5)] == [False, True, True, False, False]
    with pytest.raises(Refusal, match="has no rows"):
        survey(io.BytesIO(b"\n\n"), file_form("rows.jsonl"))


def test_a_bad_row_says_its_lines() -> None:
    (row,) = checked(GOOD + b"{").bad
    assert isinstance(row, BadRow)
    assert row.where == "line 2"


@pytest.mark.parametrize(("data", "name", "asked", "why"), [
    (b"nr,body\n1,a\n", "rows.csv", "/shop/mood", "unknown field 'nr'.*Leave out of the file what is no field"),
    (b"id,body\n1,a\n", "rows.csv", "/v1/chat/completions", "ask with the batch's `endpoint` /NAMESPACE/NAME, or"),
    (b"id,text\n1,\xe9\n", "rows.csv", "/shop/mood", "is not of the file's encoding: save it in UTF-8"),
    (b"i\0d\0\n", "rows.csv", "/shop/mood", "is it UTF-16. Save the file in UTF-8"),
    (b'{"text": "a"}\n', "rows.jsonl", "/v1/chat/completions", "ask with the batch's `endpoint`"),
    (b"no Parquet", "rows.parquet", "/shop/mood", "upload it under the ending of what it is"),
    (b'{"custom_id": "a", "body": {}}', "rows.jsonl", "/shop/mood", "ask with the batch's `endpoint` /v1/chat"),
])  # fmt: skip
def test_who_uploads_a_file_is_advised_no_options(data: bytes, name: str, asked: str, why: str) -> None:
    form = form_of(About(id="file-1", filename=name, bytes=len(data), created_s=0), asked)
    with pytest.raises(Refusal, match=why) as refused:
        check_file(io.BytesIO(data), form, catalogue=catalogue(), caller="shop")
    assert " --" not in refused.value.message
