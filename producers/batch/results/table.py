"""Completed answers as a Parquet file, a few thousand rows in memory at a time. Needs pyarrow."""

from __future__ import annotations

from typing import IO, Any, Final

import msgspec

from guideway.producers.batch.results.answer import Answer
from guideway.producers.gateway.openai.reply import content_of
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.reply import Completed

_ROWS: Final = 10_000
_BYTES: Final = 8 * 2**20
"""A row group has at most so many of each, about."""


class Table:
    """The columns: line, id, endpoint, endpoint_version, value (a text as it is, anything else as JSON), samples
    (JSON), prompt_tokens, output_tokens, guidance, model_fingerprint.
    """

    def __init__(self, sink: IO[bytes]) -> None:
        """Raises Refusal(invalid_setting) without pyarrow."""
        pa, pq = _pyarrow()
        text, number = pa.string(), pa.int64()
        self._schema = pa.schema(
            [
                *(("line", number), ("id", text), ("endpoint", text), ("endpoint_version", number)),
                *(("value", text), ("samples", text), ("prompt_tokens", number), ("output_tokens", number)),
                *(("guidance", pa.list_(text)), ("model_fingerprint", text)),
            ]
        )
        self._pa, self._writer = pa, pq.ParquetWriter(sink, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, answer: Answer) -> None:
        """A completed one."""
        reply = answer.reply
        assert isinstance(reply, Completed)
        samples = msgspec.json.encode(reply.samples).decode()
        self._rows.append(
            {
                "line": answer.line,
                "id": answer.id,
                "endpoint": f"/{reply.namespace}/{reply.endpoint}",
                "endpoint_version": reply.endpoint_version,
                "value": content_of(reply.samples[0]),
                "samples": samples,
                "prompt_tokens": reply.usage.prompt_tokens,
                "output_tokens": reply.usage.output_tokens,
                "guidance": reply.guidance,
                "model_fingerprint": reply.model_fingerprint,
            }
        )
        self._bytes += len(samples)
        if len(self._rows) >= _ROWS or self._bytes >= _BYTES:
            self._flush()

    def close(self) -> None:
        """Write what remains, and the end without which no reader takes the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows, self._bytes = [], 0


def require_parquet() -> None:
    """Raises Refusal(invalid_setting) where Parquet cannot be written here."""
    _pyarrow()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as pq  # type: ignore[import-untyped]
    except ImportError:
        raise Refusal(
            FailureCode.INVALID_SETTING,
            "Parquet is written with pyarrow, which is not installed: install guideway[batch], or ask for JSONL",
        ) from None
    return pa, pq
