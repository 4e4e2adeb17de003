"""Parquet → rows, a few at a time, whatever its row groups hold. Needs pyarrow."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO, Final, Literal

from guideway.producers.batch.files.csv_rows import require_columns
from guideway.producers.batch.files.form import MAX_ROW_BYTES, FileForm
from guideway.producers.batch.files.found import Found, undecodable, unusable
from guideway.producers.batch.files.json_lines import too_long
from guideway.producers.batch.files.opening import Borrowed, is_of_the_store
from guideway.producers.batch.files.parquet_pages import Strange, held_of
from guideway.producers.batch.files.row import Position
from guideway.producers.events.short_floats import short_float
from guideway.schemas.failures import FailureCode, Refusal

_ROWS: Final = 64
"""Made at a time, at most."""
_HELD_BYTES: Final = 64 * 2**20
"""Of the pages that a reader holds at a time, of all columns; in memory it is up to four times as much."""
_FOOTER_BYTES: Final = 16 * 2**20
"""What it describes takes many times as much in memory."""
_DELTAS: Final = frozenset({"DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"})
_MOST_PAGES: Final = 100_000
"""Of one row group: the headers of all are looked at."""


class ParquetFile:
    """Raises Refusal: invalid_data if it is none, or none that can be read; invalid_setting without pyarrow."""

    def __init__(self, source: BinaryIO, form: FileForm) -> None:
        try:
            import pyarrow as pa  # type: ignore[import-untyped]
            import pyarrow.parquet as pq  # type: ignore[import-untyped]
        except ImportError:
            what = form.advice("install guideway[batch]", "ask whoever runs the gateway to install guideway[batch]")
            raise Refusal(
                FailureCode.INVALID_SETTING,
                f"Parquet is read with pyarrow, which is not installed: {what}, or write the rows as CSV or JSONL",
            ) from None
        self._pa, self._name, self._form, self._source = pa, form.name, form, source
        source.seek(0)
        if source.read(4) != b"PAR1":
            what = form.advice("give it another --format", "upload it under the ending of what it is, such as .csv")
            raise unusable(f"{form.name} is no Parquet: it does not begin with PAR1, so {what}")
        _require_small_footer(source, form.name)
        source.seek(0)
        try:
            plain = pq.ParquetFile(Borrowed(source), buffer_size=2**20, pre_buffer=False)
            texts = {field.name for field in plain.schema_arrow if _is_text(pa.types, field.type)}
            # pyarrow makes no dictionaries of these.
            self._whole = texts & _in_deltas(plain.metadata)
            # A text that stands in a dictionary once may stand in a million rows.
            self._file = pq.ParquetFile(
                Borrowed(source), buffer_size=2**20, pre_buffer=False, read_dictionary=sorted(texts - self._whole)
            )
        except (pa.ArrowException, OSError, ValueError) as error:
            if is_of_the_store(error):
                raise
            raise self._damaged(error) from None
        names = list(self._file.schema_arrow.names)
        require_columns(names, form.name)
        self.columns: list[str] = names
        self.rows: int = self._file.metadata.num_rows
        forms: dict[str, Literal["f", "e"]] = {"float": "f", "halffloat": "e"}
        kinds = [(field.name, str(getattr(field.type, "value_type", field.type))) for field in plain.schema_arrow]
        self._short = {name: forms[kind] for name, kind in kinds if kind in forms}
        """Columns of numbers of less than 64 bits"""

    def found(self, at: Position, columns: Collection[str]) -> Iterator[Found]:
        """The rows from `at` on, with these of its columns. Raises Refusal(invalid_data) where it is damaged."""
        wanted = [name for name in self.columns if name in columns]
        self._require_cells(wanted)
        before = 0
        for group in range(self._file.num_row_groups):
            told = self._file.metadata.row_group(group)
            first, before = before, before + told.num_rows
            if before <= at.line:
                continue
            yield from self._group(group, first, wanted, at, self._rows_at_a_time(told, wanted, group))

    def _group(self, group: int, first: int, wanted: list[str], at: Position, rows: int) -> Iterator[Found]:
        number = first
        try:
            for batch in self._file.iter_batches(rows, row_groups=[group], columns=wanted):
                sizes = self._sizes(batch)
                for row in range(batch.num_rows):
                    number += 1
                    if number > at.line:
                        cells = too_long() if sizes[row] > MAX_ROW_BYTES else self._cells(batch.slice(row, 1))
                        yield Found(number, number, cells, Position(number))
        except (self._pa.ArrowException, OSError, ValueError, OverflowError) as error:
            if is_of_the_store(error):
                raise
            raise self._damaged(error, after=number) from None

    def _require_cells(self, columns: list[str]) -> None:
        """Raises Refusal(invalid_data) for columns whose cells are no single values: packed, one may be of any size."""
        types = self._pa.types
        for name in columns:
            kind = self._file.schema_arrow.field(name).type
            kind = kind.value_type if types.is_dictionary(kind) else kind
            is_plain = types.is_primitive(kind) and not types.is_duration(kind) and not types.is_interval(kind)
            if not (is_plain or _is_text(types, kind) or types.is_decimal(kind) or types.is_null(kind)):
                what = self._form.advice("leave it out with --map", "leave it out")
                raise unusable(
                    f"{self._name}: column {name!r:.80} is {str(kind)[:80]}, and a cell is a text, a number or a "
                    f"boolean: write it as text (JSON for arrays and objects), or {what}"
                )

    def _rows_at_a_time(self, told: Any, wanted: list[str], group: int) -> int:
        """As many rows of a row group as can be made at a time. Raises Refusal(invalid_data) where its pages are too
        large, or are none.
        """
        held = repeating = pages = 0
        for chunk in (told.column(number) for number in range(told.num_columns)):
            if chunk.path_in_schema not in wanted:
                continue
            begin = chunk.data_page_offset
            if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < begin:
                begin = chunk.dictionary_page_offset
            try:
                one = held_of(self._source, begin, chunk.total_compressed_size, chunk.num_values, _MOST_PAGES - pages)
            except Strange:
                raise self._damaged(ValueError(f"row group {group + 1}: its pages have no headers")) from None
            held += one.page + one.dictionary
            repeating += one.repeating
            if chunk.path_in_schema in self._whole:
                repeating += one.dictionary
            pages += one.pages
            if held > _HELD_BYTES or pages > _MOST_PAGES:
                what = (
                    f"pages of more than {_HELD_BYTES // 2**20} MiB, which are read at a time: write smaller pages, or "
                    "smaller row groups (`pq.write_table(…, row_group_size=10_000)`)"
                    if held > _HELD_BYTES
                    else f"more than {_MOST_PAGES} pages: write larger ones"
                )
                raise unusable(f"{self._name}, row group {group + 1}: it has {what}")
        return max(1, min(_ROWS, _HELD_BYTES // max(1, repeating)))

    def _sizes(self, batch: Any) -> list[int]:
        """About how many bytes the texts of each row have."""
        import pyarrow.compute as pc  # type: ignore[import-untyped]

        sizes = [0] * batch.num_rows
        for column in batch.columns:
            kind = column.type
            if self._pa.types.is_dictionary(kind) and _is_text(self._pa.types, kind.value_type):
                lengths = pc.take(pc.binary_length(column.dictionary), column.indices).to_pylist()
            elif _is_text(self._pa.types, kind):
                lengths = pc.binary_length(column).to_pylist()
            else:
                continue
            sizes = [size + (length or 0) for size, length in zip(sizes, lengths, strict=True)]
        return sizes

    def _cells(self, row: Any) -> dict[str, Any] | Refusal:
        try:
            cells = {name: value for name, value in row.to_pylist()[0].items() if value is not None}
        except (ValueError, OverflowError, self._pa.ArrowException) as error:
            return undecodable(f"a cell of it cannot be read ({str(error)[:100]}): write it as text")
        for name, value in cells.items():
            if isinstance(value, float) and not math.isfinite(value):
                return undecodable(f"column {name!r:.80} holds {value}, which JSON does not have: write null")
            if name in self._short:
                cells[name] = short_float(value, self._short[name])
        return cells

    def _damaged(self, error: Exception, after: int | None = None) -> Refusal:
        where = f", after row {after}" if after else ""
        return unusable(
            f"{self._name} is no whole Parquet file{where} ({str(error).splitlines()[0][:120]}): make it anew"
        )


def _require_small_footer(source: BinaryIO, name: str) -> None:
    """Raises Refusal(invalid_data)."""
    size = source.seek(0, 2)
    source.seek(max(0, size - 8))
    length = int.from_bytes(source.read(4), "little")
    if size >= 12 and _FOOTER_BYTES < length < size:
        raise unusable(
            f"{name} has a footer of {length // 2**20} MiB, at most {_FOOTER_BYTES // 2**20} MiB are read: write fewer "
            "columns, or larger row groups"
        )


def _in_deltas(told: Any) -> set[str]:
    """The columns of which some row group says that they are encoded as what changes from text to text."""
    groups = (told.row_group(number) for number in range(told.num_row_groups))
    chunks = (group.column(number) for group in groups for number in range(group.num_columns))
    return {chunk.path_in_schema for chunk in chunks if {*chunk.encodings} & _DELTAS}


def _is_text(types: Any, kind: Any) -> bool:
    """types: `pyarrow.types`."""
    is_view = getattr(types, "is_string_view", lambda _: False)  # as Polars writes them; older pyarrow has none
    return bool(types.is_string(kind) or types.is_large_string(kind) or is_view(kind))
