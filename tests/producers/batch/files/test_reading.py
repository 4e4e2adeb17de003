"""Rows of each format, and every way in which one is bad."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from tests.producers.batch.files.made import good, rows_of, told

from guideway.producers.batch.files.form import file_form
from guideway.producers.batch.files.reading import found_rows
from guideway.producers.batch.files.row import AnswerForm, BadRow, Position
from guideway.producers.batch.files.survey import survey
from guideway.schemas.failures import FailureCode, Refusal

OWN = (
    b'{"id": "a", "endpoint": "/shop/mood", "text": "Good"}\n'
    b'{"id": 7, "endpoint": "news/topic", "text": "Bad"}\r\n'
    b"\n"
    b'{"endpoint": "/shop/call", "text": "Whose?"}'
)


def openai_row(**more: Any) -> dict[str, Any]:
    body = {"model": "shop/mood", "messages": [{"role": "user", "content": "Good"}], "max_tokens": 9}
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body} | more


def parquet(columns: dict[str, list[Any]], **more: Any) -> bytes:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, **more)
    return out.getvalue()


@pytest.mark.parametrize(("begin", "words"), [(b"[", "one JSON array"), (b"{", "on several lines.*jq -c")])
def test_json_over_several_lines_is_no_file_of_rows(begin: bytes, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        rows_of(b"\n" + begin + b' \n  "text": "a"\n}\n', endpoint="/shop/mood")


def test_parquet_of_polars_is_read() -> None:
    pa = pytest.importorskip("pyarrow")
    if not hasattr(pa, "string_view"):
        pytest.skip("this pyarrow has no views")
    data = parquet({"id": pa.array(["a", "b"], pa.string_view()), "text": pa.array(["Good", "Bad"], pa.string_view())})
    rows = good(rows_of(data, "rows.parquet", endpoint="/shop/mood"))
    assert [(row.id, json.loads(row.content)) for row in rows] == [("a", {"text": "Good"}), ("b", {"text": "Bad"})]


def test_decimals_of_parquet_are_numbers_where_the_field_is_one() -> None:
    numbers = [Decimal("7"), Decimal("4.50")]
    data = parquet({"text": ["a", "b"], "stars": [Decimal("5"), None], "price": numbers})
    first, second = good(rows_of(data, "rows.parquet", endpoint="/shop/order"))
    assert json.loads(first.content) == {"text": "a", "stars": 5, "price": 7}
    assert json.loads(second.content) == {"text": "b", "price": 4.5}
    (text,) = good(rows_of(parquet({"text": [Decimal("4.50")]}), "rows.parquet", endpoint="/shop/mood"))
    assert json.loads(text.content) == {"text": "4.50"}


def test_own_form() -> None:
    first, second, third = good(rows_of(OWN))
    assert (first.line, first.id, first.endpoint, first.content) == (1, "a", "/shop/mood", b'{"text":"Good"}')
    assert (second.line, second.id, second.endpoint) == (2, "7", "/news/topic")
    assert (third.line, third.id, third.endpoint) == (4, "line-4", None)


def test_openai_form() -> None:
    whole = {"model": "shop/mood", "prompt": "Bad", "logprobs": None}
    other = openai_row(custom_id="b", url="/v1/completions", body=whole)
    first, second = good(rows_of(json.dumps(openai_row()).encode() + b"\n" + json.dumps(other).encode()))
    assert (first.id, first.endpoint, first.content, first.content_type[:10]) == (
        "a",
        "/shop/mood",
        b"Good",
        "text/plain",
    )
    assert first.headers == (("generation", b'{"max_tokens":9}'),)
    assert first.answer == AnswerForm("chat", "shop/mood")
    assert second.answer == AnswerForm("completion", "shop/mood")


def test_csv_has_the_types_of_the_endpoint() -> None:
    data = b'id,text,stars,open,price,tags\nx,"a, b\nc",5,TRUE,1.5,"[1]"\ny,d,,,,\n'
    first, second = good(rows_of(data, "rows.csv", endpoint="/shop/order"))
    assert json.loads(first.content) == {"text": "a, b\nc", "stars": 5, "open": True, "price": 1.5, "tags": [1]}
    assert (first.line, second.line) == (2, 4)
    assert json.loads(second.content) == {"text": "d"}


def test_what_is_no_value_of_the_type_stays_as_it_is_and_is_refused_by_the_endpoint() -> None:
    (row,) = good(rows_of(b"text,stars,open\na,5.0,yes\n", "rows.csv", endpoint="shop/order"))
    assert json.loads(row.content) == {"text": "a", "stars": "5.0", "open": "yes"}


@pytest.mark.parametrize("data", [
    b"nr;body\n1;a, b\n", b"nr\tbody\n1\ta, b\n", b"nr|body\n1|a, b\n", b"sep=;\nnr;body\n1;a, b\n",
    b"\xef\xbb\xbfnr;body\r\n1;a, b\r\n", "nr;body\n1;a, b\n".encode("utf-16"), b"nr;body\r1;a, b\r",
])  # fmt: skip
def test_csv_as_programs_write_it(data: bytes) -> None:
    (row,) = good(rows_of(data, "rows.csv", endpoint="shop/mood", columns={"text": "body"}, id_column="nr"))
    assert (row.id, row.content) == ("1", b'{"text":"a, b"}')


def test_parquet() -> None:
    rows: dict[str, list[Any]] = {
        "id": [1, 2, 3],
        "text": ["a", "b", None],
        "stars": [1, None, 2],
        "other": [b"x", b"y", b"z"],
    }
    data = parquet(rows, row_group_size=2)
    found = rows_of(data, "r.parquet", endpoint="shop/order", columns={"text": "text", "stars": "stars"})
    assert [json.loads(row.content) for row in good(found)] == [{"text": "a", "stars": 1}, {"text": "b"}, {"stars": 2}]
    assert [row.id for row in good(found)] == ["1", "2", "3"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=lambda one: one.__module__)
def test_compressed_files_are_read_whatever_they_are_called(pack: Callable[[bytes], bytes]) -> None:
    assert [row.line for row in good(rows_of(pack(OWN[:57]) + pack(OWN[57:])))] == [1, 2, 4]
    with pytest.raises(Refusal, match="is damaged or was not copied whole"):
        rows_of(pack(OWN)[:-9])


def test_zstd() -> None:
    pa = pytest.importorskip("pyarrow")
    packed = pa.compress(OWN, codec="zstd", asbytes=True)
    assert [row.line for row in good(rows_of(packed))] == [1, 2, 4]
    with pytest.raises(Refusal, match="it ends too early"):
        rows_of(packed[:-9])


def everything() -> dict[str, tuple[bytes, dict[str, Any]]]:
    lines = b"".join(b'{"id": "%d", "endpoint": "/shop/mood", "text": "T%d \xc3\xa9"}\n' % (n, n) for n in range(300))
    cells = b"id,text\n" + b"".join(b'%d,"T\n%d"\n' % (n, n) for n in range(300))
    at_mood = {"endpoint": "shop/mood"}
    return {
        "lines.jsonl": (lines, {}),
        "lines.jsonl.gz": (gzip.compress(lines), {}),
        "wide.jsonl": (b"\xff\xfe" + lines.decode().encode("utf-16-le"), {}),
        "cells.csv": (cells, at_mood),
        "marked.csv": (b"\xef\xbb\xbf" + cells.replace(b"\n", b"\r\n"), at_mood),
        "rows.parquet": (parquet({"text": [f"T{n}" for n in range(300)]}, row_group_size=100), at_mood),
    }


@pytest.mark.parametrize(
    "name", ["lines.jsonl", "lines.jsonl.gz", "wide.jsonl", "cells.csv", "marked.csv", "rows.parquet"]
)
def test_reading_goes_on_behind_any_row(name: str) -> None:
    data, more = everything()[name]
    whole = good(rows_of(data, name, **more))
    assert len(whole) == 300
    for place in (0, 1, 99, 100, 298, 299):
        assert rows_of(data, name, at=whole[place].next, **more) == whole[place + 1 :]


@pytest.mark.parametrize(("line", "why"), [
    (b"{", "the line is not JSON"),
    (b"[1]", "the line is JSON, but no object"),
    (b'{"text": "a", "text": "b"}', "names a member twice"),
    (b'{"text": NaN}', "NaN and Infinity are no JSON"),
    (b'{"text": "\xe9"}', r"its byte 11 \(0xe9\) is not of the file's encoding"),
    (b'{"text":\0"a"}', "it holds zero bytes: is it UTF-16"),
    (b'{"endpoint": "/shop/mood"}', "it has no fields"),
    (b'{"endpoint": "/shop/mood", "id": "", "text": "a"}', "its id is empty"),
    (b'{"endpoint": "/shop/mood", "id": null, "text": "a"}', "its id is no text, but null"),
    (b'{"endpoint": "/shop/mood", "id": 1.5, "text": "a"}', "its id is no text, but 1.5"),
    (b'{"endpoint": "/shop/mood", "id": "a\\nb", "text": "a"}', "holds line ends or control characters"),
    (b'{"endpoint": "/shop/mood", "id": "%s", "text": "a"}' % (b"a" * 201), "is too long"),
    (b'{"text": "a"}', "it names no endpoint"),
    (b'{"endpoint": "shop", "text": "a"}', "endpoint 'shop' is none"),
    (b'{"endpoint": "/shop/none", "text": "a"}', "no endpoint"),
    (b'{"endpoint": "/news/secret", "text": "a"}', "may not call /news/secret"),
    (b'{"endpoint": "/news/nothing", "text": "a"}', "may not call /news/nothing"),
    (json.dumps(openai_row(method="GET")).encode(), "method is not POST"),
    (json.dumps(openai_row(url="/v1/embeddings")).encode(), "is not served"),
    (json.dumps(openai_row(url=[])).encode(), r"url '\[\]' is not served"),
    (json.dumps(openai_row(url={"a": 1})).encode(), "is not served"),
    (json.dumps(openai_row(url=None)).encode(), "url is missing"),
    (json.dumps(openai_row(body="x")).encode(), "body is no object"),
    (json.dumps(openai_row(more=1)).encode(), "and no 'more'"),
    (json.dumps(openai_row(body={"model": "news/secret", "messages": []})).encode(), "does not exist, or"),
    (json.dumps(openai_row(body=openai_row()["body"] | {"stream": True})).encode(), "is not streamed"),
    (json.dumps(openai_row(body=openai_row()["body"] | {"tools": [1]})).encode(), "tools has no effect here"),
])  # fmt: skip
def test_a_bad_line_is_told_and_stops_nothing(line: bytes, why: str) -> None:
    first, bad, last = rows_of(OWN.splitlines()[0] + b"\n" + line + b"\n" + OWN.splitlines()[1])
    assert (good([first, last])[1].line, bad.line) == (3, 2)
    assert isinstance(bad, BadRow)
    assert pytest.approx(bad.message) == bad.message
    with pytest.raises(Refusal, match=why):
        raise Refusal(bad.code, bad.message)


def test_a_huge_line_is_skipped() -> None:
    long = b'{"endpoint": "/shop/mood", "text": "' + b"a" * (20 * 2**20) + b'"}\n'
    first, bad, last = rows_of(OWN.splitlines()[0] + b"\n" + long + OWN.splitlines()[1])
    assert told(bad) == "line 2 · text_too_long · the row has more than 8 MiB: split its text"
    assert good([first, last])[1].line == 3
    assert rows_of(OWN.splitlines()[0] + b"\n" + long + OWN.splitlines()[1], at=bad.next) == [last]


def test_doubled_ids() -> None:
    data = b"".join(b'{"id": "%d", "endpoint": "/shop/mood", "text": "a"}\n' % (n % 500) for n in range(1001))
    rows = rows_of(data, look=True)
    assert [row.line for row in rows if isinstance(row, BadRow)] == [*range(501, 1002)]
    assert told(rows[-1]) == "line 1001 · duplicate_id · an earlier row has the id '0': give each row its own"


def test_csv_rows_of_other_widths() -> None:
    rows = rows_of(b"id,text\n1,a\n2,a,b\n3\n\n4,d\n", "rows.csv", endpoint="shop/mood")
    assert [row.line for row in rows] == [2, 3, 4, 6]
    assert told(rows[1]) == (
        "line 3 · undecodable_event · it has 3 cells between commas, and the head has 2: make them agree, and put a "
        "text that holds such a sign in quotes"
    )
    assert isinstance(rows[2], BadRow)


def test_a_quote_that_does_not_close_costs_its_own_line() -> None:
    rows = rows_of(b'id,text\n1,"a\n2,b\n3,c\n', "rows.csv", endpoint="shop/mood")
    assert told(rows[0]) == (
        "line 2 · undecodable_event · it is no CSV: a quote in it is not closed until the file ends: close it"
    )
    assert [row.id for row in good(rows[1:])] == ["2", "3"]
    rows = rows_of(b'id,text\n1,"a\n2,"b"\n3,c\n', "rows.csv", endpoint="shop/mood")
    assert [(row.line, type(row) is BadRow) for row in rows] == [(2, True), (3, False), (4, False)]


def test_a_quote_that_does_not_close_for_megabytes() -> None:
    more = b"".join(b"%d,%s\n" % (n, b"b" * 400) for n in range(10, 40_000))
    rows = rows_of(b'id,text\n1,"a\n' + more, "rows.csv", endpoint="shop/mood", look=True)
    assert "does not close within 8 MiB" in told(rows[0])
    assert len(good(rows[1:])) == 40_000 - 10


@pytest.mark.parametrize(("name", "data", "why"), [
    ("rows.jsonl", b'[{"text": "a"}]', "is one JSON array"),
    ("rows.jsonl", b"PK\x03\x04....", "is a ZIP archive, as Excel files are"),
    ("rows.csv", b"id,text,id\n", "the head names 'id' twice"),
    ("rows.csv", b"\n1,2\n", "it has no head"),
    ("rows.csv", b"," * 20_000, "has 20001 columns, at most 10000 are read"),
    ("rows.jsonl", gzip.compress(b"{}" + b"\n" * 1_100_000), "1000000 lines before it are empty"),
    ("rows.csv", b'id,"text\n1,2\n', "the head is no CSV"),
    ("rows.parquet", b"id,text\n", "is no Parquet: it does not begin with PAR1"),
    ("rows.parquet", b"PAR1....PAR1", "is no whole Parquet file"),
])  # fmt: skip
def test_a_file_that_cannot_be_read(name: str, data: bytes, why: str) -> None:
    with pytest.raises(Refusal, match=why) as refused:
        rows_of(data, name)
    assert refused.value.code is FailureCode.INVALID_DATA


def test_a_file_that_is_too_large_once_it_is_unpacked() -> None:
    form = msgspec.structs.replace(file_form("rows.jsonl"), most_plain_bytes=2**20, most_rows=10)
    with pytest.raises(Refusal, match=r"has more than .* GiB when it is unpacked"):
        [*found_rows(io.BytesIO(gzip.compress(b" " * 2**21)), form)]
    with pytest.raises(Refusal, match="has more than 10 rows: split it"):
        survey(io.BytesIO(b"{}\n" * 11), form)


def test_a_truncated_parquet_file() -> None:
    data = parquet({"text": ["a" * 100] * 1000})
    with pytest.raises(Refusal, match="is no whole Parquet file"):
        rows_of(data[:-20], "rows.parquet", endpoint="shop/mood")
    with pytest.raises(Refusal, match="is no whole Parquet file"):
        rows_of(data[:4] + b"\xff" * 500 + data[504:], "rows.parquet", endpoint="shop/mood")


class Away(io.BytesIO):
    """A file that can be read so many times, and then not now."""

    def __init__(self, data: bytes, reads: int, error: Exception) -> None:
        super().__init__(data)
        self._reads, self._error = reads, error

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads -= 1
        if self._reads < 0:
            raise self._error
        return super().read(size)


@pytest.mark.parametrize("reads", [2, 3, 6], ids=["at its end", "what its columns are", "its rows"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), TimeoutError(), ConnectionResetError()])
def test_parquet_that_cannot_be_read_now_is_not_a_wrong_file(error: Exception, reads: int) -> None:
    data = parquet({"text": [f"{n}" * 50 for n in range(5000)]}, row_group_size=1000)
    form = file_form("rows.parquet", endpoint="/shop/mood")
    with pytest.raises(type(error)):
        [*found_rows(Away(data, reads, error), form)]


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionResetError()])
def test_a_packed_file_that_cannot_be_read_now_is_not_a_wrong_one(error: Exception) -> None:
    packed = gzip.compress(random.Random(1).randbytes(2**18))
    with pytest.raises(type(error)):
        [*found_rows(Away(packed, 3, error), file_form("rows.jsonl.gz"))]


@pytest.mark.parametrize("cell", [[1], {"a": 1}, b"x"], ids=["list", "struct", "bytes"])
def test_cells_of_parquet_are_single_values(cell: Any) -> None:
    data = parquet({"text": ["a"], "tags": [cell]})
    with pytest.raises(Refusal, match=r"column 'tags' is .*write it as text"):
        rows_of(data, "r.parquet", endpoint="shop/order")
    assert good(rows_of(data, "r.parquet", endpoint="shop/order", columns={"text": "text"}))


def test_cells_of_parquet_that_are_no_texts() -> None:
    pa = pytest.importorskip("pyarrow")
    columns: dict[str, Any] = {
        "id": pa.array(["x", "y"]).dictionary_encode(), "text": pa.array(["a", "b"]).dictionary_encode(),
        "tags": ["[1]", "{"], "stars": pa.array([7, 8]).dictionary_encode(), "price": [1.5, float("nan")],
    }  # fmt: skip
    first, second = rows_of(parquet(columns), "r.parquet", endpoint="shop/order")
    (row,) = good([first])
    assert (row.id, json.loads(row.content)) == ("x", {"text": "a", "tags": [1], "stars": 7, "price": 1.5})
    assert "holds nan, which JSON does not have" in told(second)


@pytest.mark.parametrize("kind", ["float", "halffloat", "double"])
def test_short_numbers_of_parquet_are_as_people_wrote_them(kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    kept = pa.array([0.1, -1.5, 2.0**-14]).cast(kind)
    columns = {"id": ["x", "y", "z"], "text": ["a", "b", "c"], "price": kept}
    rows = good(rows_of(parquet(columns), "r.parquet", endpoint="shop/order"))
    read = [json.loads(row.content)["price"] for row in rows]
    assert read[:2] == [0.1, -1.5]
    assert pa.array(read).cast(kind) == kept


def test_an_id_column_that_is_named_is_there() -> None:
    with pytest.raises(Refusal, match="has no column 'nr', which is to name its rows"):
        rows_of(b"id,text\n1,a\n", "rows.csv", endpoint="shop/mood", id_column="nr")
    (row,) = rows_of(b'{"text": "a"}', endpoint="shop/mood", id_column="nr")
    assert told(row) == "line 1 · missing_field · it has no 'nr', which is to be its id: add it"


def test_a_dictionary_of_parquet_that_is_large_in_each_row() -> None:
    data = parquet({"id": [*range(10)], "text": ["a" * (9 * 2**20)] * 5 + ["b"] * 5})
    rows = rows_of(data, "rows.parquet", endpoint="shop/mood")
    assert [row.line for row in rows if isinstance(row, BadRow)] == [1, 2, 3, 4, 5]


def test_a_position_is_small_and_can_be_stored() -> None:
    assert msgspec.json.encode(Position(7, 300)) == b"[7,300]"
    assert msgspec.json.decode(b"[7,300]", type=Position) == Position(7, 300)
