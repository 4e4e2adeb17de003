"""One archived result, and objects that hold many: JSONL under gzip, or Parquet. Pure."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, BinaryIO, Final, Literal

import msgspec

from guideway.schemas.record import Record
from guideway.schemas.reply import Completed
from guideway.schemas.services.leaving import Result

Form = Literal["jsonl", "parquet"]
SUFFIXES: Final[dict[Form, str]] = {"jsonl": "jsonl.gz", "parquet": "parquet"}


class Row(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An archived result. Readers take each `row` once: what was written twice, after a kill, has the same."""

    row: str
    """Which result it is."""
    id: str
    """The request's id, which its caller gave it."""
    at_ms: int
    """When the reply was published (Unix time in milliseconds)."""
    endpoint_version: int
    text: str | None = None
    """What the endpoint was asked; None: it is not archived, or was too large."""
    value: Any = None
    """The value of the first sample."""
    samples: list[Any] = []
    """All samples, as the reply has them, with probabilities where there are any."""
    guidance: list[str] = []
    model_fingerprint: str = ""
    calibration: str | None = None
    omitted: bool = False
    """The result was too large to be kept."""

    @property
    def chars(self) -> int:
        """How large it is, about, before it is compressed."""
        return len(self.text or "") + len(str(self.samples))

    @property
    def day(self) -> str:
        """`YYYY-MM-DD`, in UTC."""
        return datetime.fromtimestamp(self.at_ms / 1000, UTC).strftime("%Y-%m-%d")


def row_of(result: Result, record: Record) -> Row:
    """The row of a result that was read as `record`; the same whoever makes it, and however often."""
    place = f"{record.topic}/{record.partition}/{record.offset}/{record.timestamp_ms}"
    row = Row(
        row=hashlib.sha256(place.encode()).hexdigest()[:32],
        id=result.id,
        at_ms=record.timestamp_ms,
        endpoint_version=result.endpoint_version,
        text=result.text,
        omitted=True,
    )
    if not isinstance(reply := result.reply, Completed):
        return row
    return msgspec.structs.replace(
        row,
        value=reply.value,
        samples=msgspec.to_builtins(reply.samples),
        guidance=reply.guidance,
        model_fingerprint=reply.model_fingerprint,
        calibration=reply.calibration,
        omitted=False,
    )


def digest_of_id(request_id: str) -> str:
    """By this an erased id is known, without being kept itself."""
    return hashlib.sha256(request_id.encode("utf-8", "surrogatepass")).hexdigest()


def written(rows: Sequence[Row], form: Form) -> bytes:
    """An object. Raises ImportError for `parquet` where pyarrow is not installed."""
    if form == "parquet":
        return _as_parquet(rows)
    out = io.BytesIO()
    write_lines(rows, out)
    return gzip.compress(out.getvalue(), compresslevel=6, mtime=0)


def read(data: bytes, form: Form) -> Iterator[Row]:
    """The rows of an object. Raises ValueError if it is damaged, ImportError as `written`."""
    if form == "parquet":
        yield from _from_parquet(data)
        return
    try:
        with gzip.open(io.BytesIO(data)) as lines:
            for line in lines:
                yield msgspec.json.decode(line, type=Row)
    except (OSError, EOFError, zlib.error, msgspec.DecodeError) as error:
        raise ValueError(f"damaged: {type(error).__name__}") from None


# Values of any form have no type of Parquet's.
_AS_JSON: Final = ("value", "samples")
_GROUP_ROWS: Final = 4096
"""Rows in memory at a time, and in a group of a Parquet file."""


def _as_parquet(rows: Iterable[Row]) -> bytes:
    out = io.BytesIO()
    write_parquet(rows, out)
    return out.getvalue()


def write_parquet(rows: Iterable[Row], out: BinaryIO) -> int:
    """Write all rows as one Parquet file, some thousand at a time; returns how many. Raises ImportError, OSError."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    text = pa.string()
    schema = pa.schema(
        [
            *((name, text) for name in ("row", "id")),
            *((name, pa.int64()) for name in ("at_ms", "endpoint_version")),
            *((name, text) for name in ("text", *_AS_JSON)),
            ("guidance", pa.list_(text)),
            *((name, text) for name in ("model_fingerprint", "calibration")),
            ("omitted", pa.bool_()),
        ]
    )
    count = 0
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        left = iter(rows)
        while some := [_cells(row) for row in islice(left, _GROUP_ROWS)]:
            writer.write_table(pa.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count


def write_lines(rows: Iterable[Row], out: BinaryIO) -> int:
    """Write all rows as JSON lines; returns how many. Raises OSError."""
    count = 0
    for row in rows:
        out.write(msgspec.json.encode(row) + b"\n")
        count += 1
    return count


def _cells(row: Row) -> dict[str, Any]:
    cells = msgspec.structs.asdict(row)
    return cells | {name: msgspec.json.encode(cells[name]).decode() for name in _AS_JSON}


def _from_parquet(data: bytes) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_table(io.BytesIO(data)).to_pylist()
        for cells in found:
            told = cells | {name: msgspec.json.decode(cells[name]) for name in _AS_JSON}
            yield msgspec.convert(told, Row)
    except (pa.ArrowInvalid, OSError, KeyError, msgspec.MsgspecError) as error:
        raise ValueError(f"damaged: {type(error).__name__}") from None
