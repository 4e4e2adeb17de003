"""Files in the store, without a gateway."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from guideway.producers.gateway.batches.file_store import About, FileStore


def test_a_file_that_is_being_written_is_not_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that were uploaded at the same moment, one had lost its content."""
    store = FileStore(str(tmp_path), most_files=10, most_bytes=1000)
    write, between = store._fs.pipe_file, list[About]()
    is_first = True

    def slowly(path: str, data: bytes, **more: Any) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            Path(path).write_bytes(b"")
            between.append(store.put("shop", io.BytesIO(b"second"), 6, "b.jsonl", None))
        write(path, data, **more)

    monkeypatch.setattr(store._fs, "pipe_file", slowly)
    kept = {"first": store.put("shop", io.BytesIO(b"first"), 5, "a.jsonl", None), "second": between[0]}
    assert {one.id for one in store.files("shop")} == {one.id for one in kept.values()}
    for content, about in kept.items():
        with store.open("shop", about) as file:
            assert file.read() == content.encode()
