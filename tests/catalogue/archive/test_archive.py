"""An archive in a folder: written whole, read once each, erased for good, swept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guideway.catalogue.archive import archive as module
from guideway.catalogue.archive.archive import Archive, archives
from guideway.catalogue.archive.rows import Form, Row, read, row_of, written
from guideway.schemas.record import Record
from guideway.schemas.reply import Completed, Sample, Usage
from guideway.schemas.services.leaving import Result

DAY_MS = 86_400_000
AT_MS = 1_767_225_600_000
"""2026-01-01"""
FORMS: tuple[Form, ...] = ("jsonl", "parquet")


def row(number: int, *, day: int = 0, **fields: Any) -> Row:
    plain = Row(
        row=f"r{number}",
        id=f"id{number}",
        at_ms=AT_MS + day * DAY_MS,
        endpoint_version=1,
        text="ä\u2028\n",
        value=number,
    )
    return msgspec.structs.replace(plain, **fields)


def archive(folder: Path) -> Archive:
    return Archive(str(folder), "shop", "mood")


def files(folder: Path) -> list[str]:
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())


@pytest.mark.parametrize("form", FORMS)
def test_rows_come_back_as_they_were(form: Form) -> None:
    rows = [
        row(1),
        row(2, value={"a": [1, None, "x"]}, samples=[{"value": 1, "probabilities": {"a": 0.5}}], guidance=["a/b@1"]),
    ]
    rows.append(row(3, text=None, value=None, omitted=True, calibration="contextual"))
    assert list(read(written(rows, form), form)) == rows


@pytest.mark.parametrize("form", FORMS)
def test_what_is_cut_is_damaged_and_not_shorter(form: Form) -> None:
    data = written([row(number) for number in range(100)], form)
    with pytest.raises(ValueError, match="damaged"):
        list(read(data[: len(data) // 2], form))


def test_a_row_is_that_of_its_result() -> None:
    record = Record(topic="gw.shop.results.v1", partition=0, offset=5, timestamp_ms=AT_MS, key=None, value=b"")
    reply = Completed(
        id="r", namespace="shop", endpoint="mood", endpoint_version=3, guidance=["a/b@1"], model_fingerprint="f",
        samples=[Sample(value=True, text="yes", finish_reason="stop")], usage=Usage(prompt_tokens=1, output_tokens=1),
    )  # fmt: skip
    result = Result(reply=reply, id="r", endpoint="mood", endpoint_version=3, completed=True, text="hello")
    found = row_of(result, record)
    assert found == row_of(result, record)
    assert (found.id, found.text, found.value, found.day) == ("r", "hello", True, "2026-01-01")
    assert found.row != row_of(result, msgspec.structs.replace(record, offset=6)).row
    assert row_of(msgspec.structs.replace(result, reply=None), record).omitted


def test_each_row_is_read_once_and_days_are_folders(tmp_path: Path) -> None:
    for _ in range(2):
        archive(tmp_path).write([row(1), row(2, day=1)], "jsonl")
    archive(tmp_path).write([row(3)], "parquet")
    found = [one.id for one in archive(tmp_path).rows()]
    assert (sorted(found[:2]), found[2:]) == (["id1", "id3"], ["id2"])
    assert [one.id for one in archive(tmp_path).rows("2026-01-02")] == ["id2"]
    assert {name.split("/")[3] for name in files(tmp_path)} == {"2026-01-01", "2026-01-02"}
    assert [(one.namespace, one.endpoint) for one in archives(str(tmp_path))] == [("shop", "mood")]
    assert archives(str(tmp_path), "desk") == archives(str(tmp_path / "none")) == []


def test_a_half_written_object_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(tmp_path).write([row(1)], "jsonl")
    one = archive(tmp_path)

    def dies(_from: str, _to: str) -> None:
        raise OSError("killed")

    monkeypatch.setattr(one._fs, "mv", dies)
    with pytest.raises(OSError, match="killed"):
        one.write([row(2)], "jsonl")
    assert [each.id for each in archive(tmp_path).rows()] == ["id1"]


@pytest.mark.parametrize("form", FORMS)
def test_what_is_erased_is_gone_and_does_not_come_back(tmp_path: Path, form: Form) -> None:
    archive(tmp_path).write([row(1), row(2)], form)
    archive(tmp_path).write([row(1)], form)
    archive(tmp_path).write([row(3, id="id1", day=1)], form)
    assert archive(tmp_path).erase("id1") == 3
    # A process that still had it in hand, and one that reads it from Kafka again.
    archive(tmp_path).write([row(1), row(4)], form)
    assert sorted(one.id for one in archive(tmp_path).rows()) == ["id2", "id4"]
    for one in archive(tmp_path).objects():
        assert "id1" not in {each.id for each in read(Path(one.path).read_bytes(), form)}
    assert not [name for name in files(tmp_path) if "id1" in name]
    assert archive(tmp_path).erase("id1") == archive(tmp_path).erase("never") == 0


def test_what_is_erased_while_it_is_written_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(rows: list[Row], form: Form) -> bytes:
        monkeypatch.setattr(module, "written", written)
        archive(tmp_path).erase("id1")
        return written(rows, form)

    monkeypatch.setattr(module, "written", meanwhile)
    archive(tmp_path).write([row(1), row(2)], "jsonl")
    (name,) = [one for one in files(tmp_path) if one.endswith(".gz")]
    assert [one.id for one in read((tmp_path / name).read_bytes(), "jsonl")] == ["id2"]


def test_days_that_are_over_are_swept_and_others_joined(tmp_path: Path) -> None:
    one = archive(tmp_path)
    one.keep_for(3)
    for day in range(6):
        for number in range(3):
            one.write([row(10 * day + number, day=day), row(10 * day, day=day)], "jsonl")
    now = datetime(2026, 1, 6, 12, tzinfo=UTC)
    one.sweep(now, None)
    by_day = {day: [each for each in one.objects() if each.day == day] for day in {each.day for each in one.objects()}}
    assert {day: len(found) for day, found in by_day.items()} == {
        "2026-01-03": 1, "2026-01-04": 1, "2026-01-05": 3, "2026-01-06": 3,
    }  # fmt: skip
    assert {each.row for each in one.rows()} == {f"r{10 * day + n}" for day in range(2, 6) for n in range(3)}
    assert len(list(one.rows())) == 12
    # What the endpoint says now goes before what was noted.
    one.sweep(now, 1)
    assert {each.day for each in one.objects()} == {"2026-01-05", "2026-01-06"}
    assert archive(tmp_path).retention_days == 3


def test_what_is_damaged_within_is_told_as_damaged() -> None:
    data = bytearray(written([row(number, text=str(number) * 50) for number in range(100)], "jsonl"))
    data[20:60] = bytes(one ^ 0xFF for one in data[20:60])
    with pytest.raises(ValueError, match="damaged"):
        list(read(bytes(data), "jsonl"))


def test_what_is_joined_is_bounded_by_its_texts_and_then_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_JOINED_CHARS", 10_000)
    one = archive(tmp_path)
    for number in range(7):
        one.write([row(number, text="a" * 4_000)], "jsonl")
    now = datetime(2026, 1, 6, 12, tzinfo=UTC)
    one.sweep(now, None)
    joined = files(tmp_path)
    assert len([name for name in joined if name.endswith(".gz")]) == 3
    one.sweep(now, None)
    assert files(tmp_path) == joined
    assert sorted(each.row for each in one.rows()) == [f"r{number}" for number in range(7)]


def test_what_a_killed_process_has_half_written_is_removed(tmp_path: Path) -> None:
    one = archive(tmp_path)
    one.write([row(1, day=1)], "jsonl")
    (left,) = {Path(each.path).parent for each in one.objects()}
    (left / ".half").write_bytes(b"a text")
    one.sweep(datetime.now(UTC), 3650)
    assert (left / ".half").exists()
    one.sweep(datetime.now(UTC) + timedelta(hours=2), 3650)
    assert not (left / ".half").exists()
    assert [each.id for each in one.rows()] == ["id1"]


def test_rows_that_are_joined_while_somebody_reads_are_read(tmp_path: Path) -> None:
    made = archive(tmp_path)
    for number in range(6):
        made.write([row(number)], "jsonl")
    reading = made.rows()
    first = next(reading)
    made.sweep(datetime.fromtimestamp(AT_MS / 1000, UTC) + timedelta(days=5), 90)
    assert len(made.objects()) == 1
    assert {first.row, *(one.row for one in reading)} == {f"r{number}" for number in range(6)}
    # A day that is over meanwhile is over.
    for day in range(3):
        made.write([row(10 + day, day=day)], "jsonl")
    reading = made.rows()
    assert next(reading).row
    made.sweep(datetime.fromtimestamp(AT_MS / 1000, UTC) + timedelta(days=5), 3)
    assert [one.row for one in reading][-1] == "r12"


def test_days_bound_what_is_read(tmp_path: Path) -> None:
    made = archive(tmp_path)
    made.write([row(day, day=day) for day in range(5)], "jsonl")
    assert [one.row for one in made.rows("2026-01-02", "2026-01-04")] == ["r1", "r2", "r3"]
    assert [one.row for one in made.rows("", "2026-01-01")] == ["r0"]
