"""Parquet files that are small and take gigabytes to read."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import pytest
from tests.producers.batch.files.made import good, rows_of

from guideway.producers.batch.files.parquet_pages import Held, Strange, held_of
from guideway.producers.batch.files.row import BadRow
from guideway.schemas.failures import Refusal

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def written(columns: dict[str, Any], **how: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, **{"compression": "zstd", "write_statistics": False} | how)
    return out.getvalue()


def chunks(data: bytes) -> list[Held]:
    """Of the columns of the first row group."""
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    found = []
    for column in (group.column(number) for number in range(group.num_columns)):
        begin = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
        found.append(held_of(io.BytesIO(data), begin, column.total_compressed_size, column.num_values, 1000))
    return found


@pytest.mark.parametrize("how", [{}, {"data_page_version": "2.0"}, {"write_page_checksum": True}])
def test_pages_are_as_large_as_they_are(how: dict[str, Any]) -> None:
    texts = [f"{number:>100}" for number in range(1000)]
    plain = {"use_dictionary": False, "compression": "none", "write_statistics": True}
    (one,) = chunks(written({"text": texts}, **plain, **how))
    assert 104_000 <= one.page <= 104_010
    assert one[1:] == (0, 0, 1)
    (several,) = chunks(written({"text": texts}, data_page_size=1000, write_batch_size=10, **plain, **how))
    assert several.pages == 100
    (same,) = chunks(written({"text": ["a" * 1000] * 50}, **how))
    encoding = {"text": "DELTA_BYTE_ARRAY"}
    (repeating,) = chunks(written({"text": ["a" * 1000] * 50}, use_dictionary=False, column_encoding=encoding, **how))
    assert same.dictionary == 1004
    assert same.repeating == 0
    assert 1000 < repeating.page == repeating.repeating < 3000


def test_what_is_no_page_is_told() -> None:
    for data in (b"", b"\xff" * 100, b"\x15\x00" * 8, b"\x1c" * 100, b"\x19\xff\xff\xff\xff\x0f" * 9):
        with pytest.raises(Strange):
            held_of(io.BytesIO(data), 0, 100, 1, 10)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    """Its footer may say anything."""
    bomb = {"endpoint": ["/shop/mood"], **{f"c{number}": ["a" * 2**25] for number in range(5)}}
    data = written(bomb, use_dictionary=False)
    assert len(data) < 50_000
    with pytest.raises(Refusal, match="row group 1: it has pages of more than 64 MiB, which are read at a time"):
        rows_of(data, "bomb.parquet")
    true = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(1).total_uncompressed_size
    lying = data.replace(_varint(2 * true), _varint(2 * (2**20 + 7)))
    assert lying != data
    with pytest.raises(Refusal, match="row group 1: it has pages of more than 64 MiB"):
        rows_of(lying, "bomb.parquet")


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def test_texts_that_repeat_the_one_before_are_read_a_few_at_a_time() -> None:
    data = written(
        {"endpoint": ["/shop/mood"] * 70, "text": ["a" * (2**23 - 100)] * 70},
        use_dictionary=False,
        column_encoding={"text": "DELTA_BYTE_ARRAY"},
    )
    script = (
        "import io, sys\n"
        "from guideway.producers.batch.files.form import file_form\n"
        "from guideway.producers.batch.files.reading import found_rows\n"
        "rows = sum(1 for _ in found_rows(io.BytesIO(sys.stdin.buffer.read()), file_form('rows.parquet')))\n"
        "print(rows, *(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    ran = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True, timeout=120, check=True)
    rows, most_kb = map(int, ran.stdout.split())
    assert rows == 70
    assert most_kb < 500_000


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_texts_in_deltas_are_read(encoding: str) -> None:
    texts = [f"good {number}" for number in range(200)]
    data = written(
        {"endpoint": ["/shop/mood"] * 200, "text": texts}, use_dictionary=False, column_encoding={"text": encoding}
    )
    assert [json.loads(row.content)["text"] for row in good(rows_of(data, "rows.parquet"))] == texts
    large = {"endpoint": ["/shop/mood"] * 3, "text": ["a" * (9 * 2**20), None, "b"]}
    data = written(large, use_dictionary=False, column_encoding={"text": encoding})
    assert [isinstance(row, BadRow) for row in rows_of(data, "rows.parquet")] == [True, True, False]


def test_a_footer_of_many_megabytes_is_refused() -> None:
    data = b"PAR1" + b"\0" * (17 * 2**20) + (17 * 2**20).to_bytes(4, "little") + b"PAR1"
    with pytest.raises(Refusal, match="has a footer of 17 MiB, at most 16 MiB are read"):
        rows_of(data, "rows.parquet")


def test_pages_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guideway.producers.batch.files.parquet_rows._MOST_PAGES", 10)
    rows = {"endpoint": ["/shop/mood"] * 100, "text": ["good"] * 100}
    data = written(rows, use_dictionary=False, data_page_size=1, write_batch_size=1)
    with pytest.raises(Refusal, match="it has more than 10 pages: write larger ones"):
        rows_of(data, "rows.parquet")
