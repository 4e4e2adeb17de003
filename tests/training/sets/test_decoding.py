"""Files of a job, which whoever may write its folder may exchange at any time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.training.sets.decoding import read_lines, read_only_within, whole_bytes, whole_text


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "shop"
    folder.mkdir()
    read_only_within(folder)
    yield folder
    read_only_within(None)


def test_what_leads_out_is_not_read_though_its_path_was_good(own: Path) -> None:
    (own / "rows.jsonl").write_text("ours")
    assert whole_bytes(own / "rows.jsonl", "rows.jsonl") == b"ours"
    assert [*read_lines(own / "rows.jsonl", "rows.jsonl", "utf-8")] == ["ours"]
    (own.parent / "rival").mkdir()
    (own.parent / "rival" / "rows.jsonl").write_text("theirs")
    (own / "rows.jsonl").unlink()
    (own / "rows.jsonl").symlink_to(own.parent / "rival" / "rows.jsonl")
    (own / "folder").symlink_to(own.parent / "rival")
    for file in (own / "rows.jsonl", own / "folder" / "rows.jsonl", own / ".." / "rival" / "rows.jsonl"):
        for read in (lambda one: whole_text(one, "it", "utf-8"), lambda one: [*read_lines(one, "it", "utf-8")]):
            with pytest.raises(Refusal, match="it does not lie in") as refused:
                read(file)
            assert refused.value.code is FailureCode.DOCUMENT_UNREADABLE
    read_only_within(None)
    assert whole_bytes(own / "rows.jsonl", "rows.jsonl") == b"theirs"


@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(own: Path) -> None:
    os.mkfifo(own / "rows.jsonl")
    with pytest.raises(Refusal, match="it is no plain file"):
        whole_bytes(own / "rows.jsonl", "rows.jsonl")
    with pytest.raises(Refusal, match="it is no plain file"):
        next(read_lines(own / "rows.jsonl", "rows.jsonl", "utf-8"))
