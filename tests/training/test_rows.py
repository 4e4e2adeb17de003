"""The examples: what is read, what is kept apart, and what is refused with which words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import Choice, OutputRule, Text
from guideway.training.rows import read_examples
from guideway.training.task import Columns, Data, Task

LABELS = Choice(labels=["good", "bad"])
Write = Callable[[str, Sequence[dict[str, Any]]], str]


def rows(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"text {i}", "label": LABELS.labels[i % 2]} for i in range(start, start + count)]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, lines: Sequence[dict[str, Any]]) -> str:
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        return name

    return write


def task(train: str, *, output: OutputRule = LABELS, instruction: str = "", **data: Any) -> Task:
    return Task(
        namespace="shop",
        endpoint="mood",
        model_sizes=["small"],
        data=Data(train=train, **data),
        instruction=instruction,
        output=output,
    )


def refused(made: Task, folder: Path) -> str:
    with pytest.raises(Refusal) as caught:
        read_examples(made, folder)
    assert caught.value.code is FailureCode.INVALID_DATA
    return caught.value.message


def test_no_text_is_in_two_lists(write: Write, tmp_path: Path) -> None:
    examples = read_examples(task(write("a.jsonl", rows(100))), tmp_path)
    lists = (examples.train, examples.validation, examples.eval)
    assert [len(some) for some in lists] == [72, 8, 20]
    assert len({row.text for some in lists for row in some}) == 100


def test_what_is_kept_apart_depends_on_the_texts_and_not_on_their_order(write: Write, tmp_path: Path) -> None:
    first = read_examples(task(write("a.jsonl", rows(50))), tmp_path)
    second = read_examples(task(write("b.jsonl", rows(50)[::-1])), tmp_path)
    assert {row.text for row in first.eval} == {row.text for row in second.eval}
    assert (first.data_digest, first.eval_digest) == (second.data_digest, second.eval_digest)
    assert first.data_digest != first.eval_digest


def test_csv_and_other_names_of_columns(tmp_path: Path) -> None:
    lines = "\n".join(f'"text, {i}",{LABELS.labels[i % 2]},x' for i in range(10))
    (tmp_path / "a.csv").write_text(f"review,stars,source\n{lines}\n", "utf-8")
    made = task("a.csv", columns=Columns(text="review", answer="stars"), ignore_columns=["source"])
    examples = read_examples(made, tmp_path)
    assert {row.text for row in examples.train} <= {f"text, {i}" for i in range(10)}


def test_messages_and_their_system_message(write: Write, tmp_path: Path) -> None:
    turns = [
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": f"question {i}"},
                {"role": "assistant", "content": f"answer {i}"},
            ]
        }
        for i in range(10)
    ]
    name = write("a.jsonl", turns)
    assert read_examples(task(name, output=Text()), tmp_path).instruction == "Be kind."
    assert read_examples(task(name, output=Text(), instruction="Mine."), tmp_path).instruction == "Mine."


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "has no rows: add examples"),
        (rows(3), "has 3 rows, and 8 are the least"),
        ([*rows(9), {"text": "x", "label": "so-so"}], "row 10: its label is none of good, bad"),
        ([*rows(9), {"text": "x"}], "row 10: its columns are 'text', and text and label"),
        ([*rows(9), {"text": " ", "label": "good"}], "row 10: its text is empty"),
        ([*rows(9), {"text": "x", "label": ""}], "row 10: its answer is empty"),
        ([*rows(9), {"text": "x", "label": "good", "lang": "en"}], "row 10: column 'lang' is not known: list it in"),
        ([*rows(9), {"text": "Text  3", "label": "bad"}], "row 10: it repeats row 4: keep one"),
        ([*rows(9), {"text": "text 3", "label": "good"}], "row 10: it has another answer to the text of row 4"),
        ([*rows(9), {"text": "x \ud83d", "label": "good"}], "row 10: it holds half of a surrogate pair"),
        ([{"text": f"text {i}", "label": "good"} for i in range(20)], "all rows have one answer"),
    ],
)
def test_bad_rows_are_refused_with_their_number(
    write: Write, tmp_path: Path, lines: list[dict[str, Any]], words: str
) -> None:
    assert words in refused(task(write("a.jsonl", lines)), tmp_path)


def test_rows_that_leak_into_the_evaluation_are_refused(write: Write, tmp_path: Path) -> None:
    made = task(write("a.jsonl", rows(20)), eval=write("b.jsonl", [*rows(5, start=30), *rows(1, start=7)]))
    assert "b.jsonl, row 6: its text is row 8 of" in refused(made, tmp_path)


def test_shares_that_leave_nothing_to_learn_from_are_refused(write: Write, tmp_path: Path) -> None:
    made = task(write("a.jsonl", rows(20)), eval_share=0.99)
    assert "leave no row to learn from: lower them" in refused(made, tmp_path)


def test_an_evaluation_file_of_one_class_is_refused(write: Write, tmp_path: Path) -> None:
    good = [{"text": f"other {i}", "label": "good"} for i in range(9)]
    made = task(write("a.jsonl", rows(20)), eval=write("b.jsonl", good))
    assert "b.jsonl: all rows have one answer" in refused(made, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "x", "label": "good"}\n[1]\n', "row 2: it is no JSON object"),
        ("a.jsonl", b"\xff\xfe", "it is not UTF-8"),
        ("a.csv", b"text,label\nx\n", "row 1: it has not as many cells"),
        ("a.csv", b'text,label\n"x,good\n', "it is no CSV"),
        ("a.parquet", b"", "set data.format"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert words in refused(task(name), tmp_path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in refused(task("nowhere.jsonl"), tmp_path)
