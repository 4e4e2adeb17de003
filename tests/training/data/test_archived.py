"""Archived rows as examples: which are taken, which are not and why, and that a draw does not depend on their order."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guideway.catalogue.archive.rows import Row
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import Boolean, Choice, Json, OutputRule, WordLabels
from guideway.training.data.archived import ArchivedExample, KeptRow, Reading, Version, again
from guideway.training.data.corrections import digest_of, read_corrections
from guideway.training.data.drawing import Drawing
from guideway.training.runs.task import read_task
from guideway.training.runs.task_data import ArchivedRows, Data

LABELS = Choice(labels=["good", "bad"])
AT_MS = 1_767_225_600_000
"""2026-01-01"""
DAY_MS = 86_400_000
PLAIN = Version(template="{text}", around=("", ""), output=LABELS)
FRAMED = Version(template="Say: {text}!", around=("Say: ", "!"), output=LABELS)


def row(number: int, **fields: Any) -> Row:
    plain = Row(
        row=f"r{number:04}",
        id=f"id{number}",
        at_ms=AT_MS + number * 1000,
        endpoint_version=1,
        text=f"text {number}",
        value=LABELS.labels[number % 2],
    )
    return msgspec.structs.replace(plain, **fields)


def reading(
    wanted: ArchivedRows,
    *,
    output: OutputRule = LABELS,
    versions: Mapping[int, Version] | None = None,
    corrections: Mapping[str, str] | None = None,
) -> Reading:
    return Reading(wanted, output, versions or {1: PLAIN}, corrections or {})


def wanted(**fields: Any) -> ArchivedRows:
    return ArchivedRows(endpoint="/shop/mood", **fields)


def drawn(rows: Iterable[Row], what: ArchivedRows, known: frozenset[str] = frozenset(), **given: Any) -> Drawing:
    drawing = Drawing(reading(what, **given), what, known)
    for one in rows:
        drawing.add(one)
    return drawing


def ids(drawing: Drawing) -> list[str]:
    return [one.kept.row for one in drawing.rows()]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, ""),
        ({"text": None}, "without their text"),
        ({"text": " "}, "without their text"),
        ({"value": None}, "without a value"),
        ({"value": "so-so"}, "with an answer that the task's output does not have"),
        ({"guidance": ["shop/tone@1"]}, "with guidance that an event brought"),
        ({"endpoint_version": 9}, "of versions that the catalogue no longer has"),
        ({"text": "x" * 100}, "longer than max_text_chars"),
        ({"samples": [{"text": "good", "probabilities": {"good": 0.5, "bad": 0.5}}]}, "below min_confidence"),
        ({"samples": [{"text": "good", "value": "good"}]}, "without a told probability"),
        ({"samples": []}, "without a told probability"),
    ],
)
def test_a_row_is_an_example_or_it_is_said_why_not(fields: dict[str, Any], why: str) -> None:
    sure = [{"text": "good", "value": "good", "probabilities": {"good": 0.9, "bad": 0.1}}]
    found = reading(wanted(min_confidence=0.8, max_text_chars=50)).example(row(2, **({"samples": sure} | fields)))
    assert (found if isinstance(found, str) else "") == why
    if isinstance(found, ArchivedExample):
        assert (found.text, found.answer, found.kept) == ("text 2", "good", KeptRow("r0002", "2026-01-01"))


def test_only_what_chosen_versions_answered() -> None:
    versions = {1: PLAIN, 2: PLAIN, 3: FRAMED}
    rows = [row(1), row(2, endpoint_version=2), row(3, endpoint_version=3, text="Say: three!")]
    assert ids(drawn(rows, wanted(versions=[2]), versions=versions)) == ["r0002"]
    # Of others, those that are like the newest: with another template they are other texts.
    all_ = drawn(rows, wanted(), versions=versions)
    assert ids(all_) == ["r0003"]
    assert all_.left_out == {"of another template": 2}
    with pytest.raises(Refusal, match="has none of these versions, only 1, 2, 3") as caught:
        drawn(rows, wanted(versions=[7]), versions=versions)
    assert caught.value.code is FailureCode.INVALID_DATA


def test_what_an_event_brought_made_another_answer() -> None:
    own = row(1, guidance=["shop/tone@1"])
    versions = {1: Version("{text}", ("", ""), LABELS, guidance=1)}
    brought = row(2, guidance=["shop/tone@1", "shop/extra@2"])
    assert ids(drawn([own, brought], wanted(), versions=versions)) == ["r0001"]


def test_the_field_of_a_template_alone() -> None:
    rows = [row(1, text="Say: one!"), row(2, text="Say:!"), row(3, text="Say: three")]
    whole, field = wanted(), wanted(text="field")
    assert [one.text for one in drawn(rows, whole, versions={1: FRAMED}).rows()] == ["Say: one!", "Say:!", "Say: three"]
    alone = drawn(rows, field, versions={1: FRAMED})
    assert [one.text for one in alone.rows()] == ["one"]
    assert reading(whole, versions={1: FRAMED}).template == FRAMED.template
    assert reading(field, versions={1: FRAMED}).template == "{text}"
    with pytest.raises(Refusal, match="text: whole"):
        reading(field, versions={1: Version("{a} {b}", None, LABELS)})


def test_values_of_every_kind_become_answers() -> None:
    true = reading(wanted(), output=Boolean("yes/no"), versions={1: Version("{text}", None, Boolean("yes/no"))})
    assert getattr(true.example(row(1, value=True)), "answer", "") == "yes"
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form, other = Json(schema), Json({"type": "object"})
    made = reading(
        wanted(), output=form, versions={1: Version("{text}", None, form), 2: Version("{text}", None, other)}
    )
    assert getattr(made.example(row(1, value={"a": 1})), "answer", "") == '{"a":1}'
    assert made.example(row(1, endpoint_version=2, value={"a": 1})) == "of another output"
    words = WordLabels(labels=["X", "Y"])
    tagged = reading(wanted(), output=words, versions={1: Version("{text}", None, words)})
    assert getattr(tagged.example(row(1, text="a  b", value=[["a", "X"], ["b", "Y"]])), "answer", "") == "a/X b/Y"
    assert tagged.example(row(1, text="so: a", value=[["a", "X"]])) == "with labels of other words than its text has"


def test_a_draw_does_not_depend_on_the_order() -> None:
    rows = [row(number) for number in range(300)]
    first = ids(drawn(rows, wanted(sample=40)))
    assert len(first) == 40
    assert first == sorted(first)
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        assert ids(drawn(rows, wanted(sample=40))) == first
    assert ids(drawn(rows, wanted(sample=40, seed=2))) != first
    # What a larger archive has besides takes the place of some, and leaves the others.
    more = ids(drawn([*rows, *(row(number) for number in range(300, 330))], wanted(sample=40)))
    assert len({*more} & {*first}) >= 30


def test_a_text_counts_once_with_its_last_answer() -> None:
    rows = [row(1, text="So  it is", value="good"), row(2, text="so it IS", value="bad"), row(3)]
    for order in (rows, rows[::-1]):
        drawing = drawn(order, wanted())
        assert [(one.kept.row, one.answer) for one in drawing.rows()] == [("r0002", "bad"), ("r0003", "bad")]
        taken = drawing.taken(drawing.rows())
        assert taken.left_out == {"of a text that another row has, or not drawn": 1}


def test_what_is_told_of_the_rows() -> None:
    rows = [row(number, at_ms=AT_MS + number * DAY_MS) for number in range(3)]
    drawing = drawn([*rows, row(9, text=None)], wanted(), frozenset({"text 1"}), corrections={"id2": "bad"})
    taken = drawing.taken(drawing.rows())
    assert taken.days == {"2026-01-01": 1, "2026-01-03": 1}
    assert (taken.rows, taken.corrected, taken.versions) == (2, 1, {1: 2})
    assert taken.left_out == {"in data.eval": 1, "without their text": 1}
    assert taken.told == (
        "2 rows of the archive of /shop/mood, of 2 days from 2026-01-01 to 2026-01-03, 1 of them corrected"
    )


def test_corrections_are_drawn_first_and_need_no_value() -> None:
    rows = [row(number, value=None if number == 7 else "good") for number in range(100)]
    rows.append(row(200, text="TEXT 7", value="good"))
    corrections = {f"id{number}": "bad" for number in (3, 7, 50)}
    drawing = drawn(rows, wanted(sample=10, min_confidence=None), corrections=corrections)
    found = {one.kept.row: one for one in drawing.rows()}
    assert len(found) == 10
    assert {name for name, one in found.items() if one.kept.corrected} == {"r0003", "r0007", "r0050"}
    assert {one.answer for one in found.values() if one.kept.corrected} == {"bad"}
    assert "r0200" not in found


def test_a_correction_of_a_request_id_that_several_texts_have_is_refused() -> None:
    """Its label would be learnt for texts that nobody has corrected."""
    with pytest.raises(Refusal, match="request id 'id1', which archived rows with different texts have") as caught:
        drawn([row(1), row(2, id="id1")], wanted(), corrections={"id1": "good"})
    assert caught.value.code is FailureCode.INVALID_DATA
    # An event that was read twice has one text.
    again = drawn([row(1), row(2, id="id1", text="Text  1")], wanted(), corrections={"id1": "good"})
    assert [one.answer for one in again.rows()] == ["good"]


def test_a_file_of_corrections(tmp_path: Path) -> None:
    data = Data(archive=wanted(corrections="c.jsonl"))
    file = tmp_path / "c.jsonl"
    # Lines of `archive export`, corrected in their place.
    lines = [msgspec.to_builtins(row(number)) | {"value": "bad"} for number in range(3)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_corrections(file, data, LABELS)
    assert found == {"id0": "bad", "id1": "bad", "id2": "bad"}
    (tmp_path / "c.csv").write_text("id,label,who\nid0,bad,me\nid1,bad,me\nid2,bad,you\n")
    assert digest_of(read_corrections(tmp_path / "c.csv", data, LABELS)) == digest_of(found)
    for text, why in (
        ('{"id": "a", "label": "so-so"}', "its label 'so-so' is none of"),
        ('{"label": "good"}', "its column 'id' is missing"),
        ('{"id": "a"}', "it has no label"),
        ('{"id": "a", "label": "good", "value": "bad"}', "it has both label and value"),
        ('{"id": "a", "label": "good"}\n{"id": "a", "label": "bad"}', "row 2: it gives another answer"),
        ("", "has no rows"),
    ):
        file.write_text(text)
        with pytest.raises(Refusal, match=r"c\.jsonl") as caught:
            read_corrections(file, data, LABELS)
        assert why in caught.value.message
        assert caught.value.code is FailureCode.INVALID_DATA


def test_the_same_rows_again() -> None:
    rows = [row(number) for number in range(20)]
    corrections = {"id4": "bad"}
    first = drawn(rows, wanted(sample=8), corrections=corrections).rows()
    kept = [one.kept for one in first]
    given: dict[str, Any] = {
        "around": ("", ""),
        "output": LABELS,
        "corrections": corrections,
    }
    more = [*rows[::-1], *(row(number) for number in range(20, 90))]
    assert again(more, kept, **given) == first
    gone = [one for one in more if one.row != kept[3].row]
    assert again(gone, kept, **given) == [*first[:3], *first[4:]]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "set one of the two"),
        ({"train": "a.jsonl", "archive": "/shop/mood"}, "set one of the two"),
        ({"archive": "/shop/mood", "group": "customer"}, "archived rows have none"),
    ],
)
def test_rows_are_of_a_file_or_of_an_archive(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Data(**fields)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"since": "2026-02-30"}, "since is '2026-02-30', which is no day"),
        ({"since": "2026-03-02", "until": "2026-03-01"}, "before since"),
    ],
)
def test_days_are_days(fields: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        wanted(**fields)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("data: {archive: shop/mood}", "data.archive: 'shop/mood' does not fit: write `/NAMESPACE/ENDPOINT`"),
        ("data: {archive: {endpoint: /shop/mood, sinse: 2026-01-01}}", "unknown field `sinse` in data.archive"),
        ("data: {archive: {since: 2026-01-01}}", "data.archive: missing required field `endpoint`"),
        ("data: {archive: /shop/mood}\nprompts: {few_shot: 8}", "prompts.few_shot puts rows into text prompts"),
    ],
)
def test_what_is_wrong_with_a_task_is_told_with_its_place(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "task.yaml"
    head = "kind: task/v1\nnamespace: shop\nendpoint: mood\nmodel_sizes: [small]\noutput: {type: text}\n"
    file.write_text(head + text)
    with pytest.raises(Refusal) as caught:
        read_task(file)
    assert caught.value.code is FailureCode.INVALID_MANIFEST
    assert why in caught.value.message
    assert "task.yaml:6" in caught.value.message or "prompts" in text
