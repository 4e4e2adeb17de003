"""Rows of archives and files, drawn by chance; and the folder that survives a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from guideway.catalogue.archive.archive import Archive
from guideway.catalogue.archive.rows import Row
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.input import Field, InputRule
from guideway.schemas.manifests import Endpoint
from guideway.schemas.output import Choice
from guideway.settings import Settings
from guideway.training.replays.answers import Asked, Given, Question
from guideway.usecases.replay.folder import Plan, ReplayFolder, add, folder_for, missing
from guideway.usecases.replay.inputs import Drawn, from_archive, from_file, since_ms
from guideway.usecases.replay.run import Order, _asked_for

MOOD = Endpoint(namespace="shop", name="mood", model_size="small", output=Choice(["glad", "sad"]))


def with_input(**fields: Any) -> Endpoint:
    return msgspec.structs.replace(MOOD, input=InputRule(**fields))


def archived(folder: Path, *texts: str | None) -> Settings:
    rows = [
        Row(row=f"r{n}", id=f"id{n}", text=text, value="sad", at_ms=n * 1000, endpoint_version=1)
        for n, text in enumerate(texts)
    ]
    Archive(str(folder / "store"), "shop", "mood").write(rows, "jsonl")
    return Settings(home=folder, store=str(folder / "store"))


def test_an_archives_texts_become_events_again(tmp_path: Path) -> None:
    settings = archived(tmp_path, "Message: a", None, "Message: b\n", "Other: c", "Message: early")
    endpoint = with_input(fields={"body": Field()}, template="Message: {body}", text_field=None)
    drawn = Drawn(10, 1)
    from_archive(settings, endpoint, 0, drawn)
    assert [(one.number, one.id, one.content) for one in drawn.rows()] == [
        (1, "id0", {"body": "a"}),
        (2, "id2", {"body": "b\n"}),
        (3, "id4", {"body": "early"}),
    ]
    assert drawn.left_out == {"without its text": 1, "of another template": 1}
    later = Drawn(10, 1)
    from_archive(settings, endpoint, 3000, later)
    assert [one.id for one in later.rows()] == ["id4"]


@pytest.mark.parametrize(
    "endpoint",
    [
        with_input(fields={"a": Field(), "b": Field()}, template="{a} {b}", text_field="a"),
        with_input(fields={"a": Field()}, template="{to_string(length(a))}", text_field="a"),
        with_input(fields={"a": Field()}, template="{a} and {a}", text_field="a"),
    ],
)
def test_a_text_off_which_fields_cannot_be_read_is_refused(tmp_path: Path, endpoint: Endpoint) -> None:
    with pytest.raises(Refusal, match="replay --from topic"):
        from_archive(archived(tmp_path, "a"), endpoint, 0, Drawn(10, 1))


def test_a_draw_is_repeatable_in_order_and_says_what_it_left_out() -> None:
    def draw(seed: int) -> list[str]:
        drawn = Drawn(10, seed)
        for n in range(200):
            drawn.add(Asked(number=0, id=str(n), content="x"))
        rows = drawn.rows()
        assert [one.number for one in rows] == list(range(1, 11))
        assert drawn.left_out == {"not drawn": 190}
        return [one.id for one in rows]

    assert draw(1) == draw(1) == sorted(draw(1), key=int)
    assert draw(1) != draw(2)


def test_rows_of_a_file_may_have_answers_and_all_faults_are_told(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a", "label": "glad", "more": 1}\n{"text": "b"}\n')
    drawn = Drawn(10, 1)
    from_file(file, MOOD, drawn, text="text", label="label")
    assert [(one.content, one.answer) for one in drawn.rows()] == [("a", "glad"), ("b", None)]
    file.write_text('{"text": "a", "label": "happy"}\n{"label": "sad"}\n')
    with pytest.raises(Refusal) as caught:
        from_file(file, MOOD, Drawn(10, 1), text="text", label="label")
    assert caught.value.code is FailureCode.INVALID_DATA
    assert "row 1" in caught.value.message
    assert "row 2: it has no column 'text': name the column of the text with --text" in caught.value.message


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        (None, 0),
        ("90m", 10**12 - 5_400_000),
        ("24h", 10**12 - 86_400_000),
        ("2026-01-01", 1_767_225_600_000),
        ("2026-01-01T01:00+01:00", 1_767_225_600_000),
    ],
)
def test_since(text: str | None, ms: int) -> None:
    assert since_ms(text, 1e9) == ms


@pytest.mark.parametrize("text", ["", "yesterday", "3 days", "-4h", "٣h"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(Refusal, match="is no time"):
        since_ms(text)


def plan(rows: int) -> Plan:
    asks = Question(address="/shop/mood", version=1, now=MOOD.output, new=MOOD.output, changes={"a": "b"}, source="x")
    return Plan(id="one", asked_for={"a": 1}, question=asks, now=MOOD, new=MOOD, rows=rows)


def test_a_line_that_a_kill_has_cut_is_asked_again_and_no_other(tmp_path: Path) -> None:
    folder = ReplayFolder(tmp_path / "one")
    assert folder.plan is None
    rows = [Asked(number=n, id=str(n), content="x\u2028\n") for n in (1, 2)]
    folder.begin(plan(2), rows)
    assert folder.path.stat().st_mode & 0o077 == 0, "it holds callers' texts"
    assert folder.rows() == rows
    with folder.writing() as stream:
        add(stream, Given(number=1, side="now", value="sad"))
        add(stream, Given(number=1, side="new", value="glad\u2028"))
    answers = folder.path / "answers.jsonl"
    answers.write_bytes(answers.read_bytes() + b'{"number":2,"side":"no')
    there = folder.answers()
    assert [(side, row.number) for side, row in missing(plan(2), rows, there)] == [("now", 2), ("new", 2)]
    with folder.writing() as stream:
        add(stream, Given(number=2, side="now", value="sad"))
    assert [*folder.answers()] == [("now", 1), ("new", 1), ("now", 2)]
    assert not folder.is_finished


def test_the_same_again_goes_on_until_it_is_finished_and_then_begins_anew(tmp_path: Path) -> None:
    first = folder_for(tmp_path, "shop-mood", {"a": 1})
    assert folder_for(tmp_path, "shop-mood", {"a": 2}).path != first.path
    first.begin(plan(0), [])
    assert folder_for(tmp_path, "shop-mood", {"a": 1}).path == first.path
    first.finish(b"{}", "<p>")
    assert folder_for(tmp_path, "shop-mood", {"a": 1}).path.name == first.path.name + "-2"


def test_a_file_that_has_changed_is_another_replay(tmp_path: Path) -> None:
    """Half-asked rows of the old file are not to be told as a comparison of the new one."""
    file = tmp_path / "rows.jsonl"
    order = Order(address="/shop/mood", source=str(file), changes={"guidance": "none"})
    with pytest.raises(Refusal, match=r"rows\.jsonl cannot be read"):
        _asked_for(order)
    file.write_text("old")
    before = _asked_for(order)
    assert _asked_for(order) == before
    file.write_text("new")
    assert _asked_for(order) != before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(Refusal, match="something else than a replay"):
        _ = ReplayFolder(tmp_path).plan
