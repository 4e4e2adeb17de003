"""The examples: what is read, what is kept apart, and what is refused with which words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.output import Boolean, Choice, Json, Number, OutputRule, Text
from guideway.training.data.class_weights import class_weights
from guideway.training.data.examples import read_examples
from guideway.training.runs.task import Task
from guideway.training.runs.task_data import Columns, Data

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
        data=Data(train=train, **({"folds": 0} | data if "eval" not in data else data)),
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


def test_each_label_has_its_share_of_every_list(write: Write, tmp_path: Path) -> None:
    skewed = [{"text": f"text {i}", "label": "bad" if i % 10 == 0 else "good"} for i in range(200)]
    examples = read_examples(task(write("a.jsonl", skewed)), tmp_path)
    for some in (examples.train, examples.validation, examples.eval):
        assert sum(row.answer == "bad" for row in some) == round(len(some) / 10)


def test_few_rows_are_all_reported_on_by_folds(write: Write, tmp_path: Path) -> None:
    made = task(write("a.jsonl", rows(60)), folds=None)
    examples = read_examples(made, tmp_path)
    everything = {row.number for row in examples.eval}
    assert everything == {row.number for row in (*examples.train, *examples.validation)} == {*range(1, 61)}
    assert len(examples.folds) == 5
    seen: set[int] = set()
    for fold in range(5):
        part = examples.of_fold(fold, made.data, seed=made.schedule.seed, rule=made.output)
        lists = [{row.number for row in some} for some in (part.train, part.validation, part.eval)]
        assert [len(some) for some in lists] == [43, 5, 12]
        assert set().union(*lists) == everything
        assert sum(row.answer == "good" for row in part.eval) == 6
        assert not part.folds
        seen |= lists[2]
    assert seen == everything


@pytest.mark.parametrize(
    ("count", "folds", "made"), [(199, None, 5), (200, None, 0), (60, 0, 0), (60, 3, 3), (400, 4, 4)]
)
def test_how_many_rows_are_few(write: Write, tmp_path: Path, count: int, folds: int | None, made: int) -> None:
    assert len(read_examples(task(write("a.jsonl", rows(count)), folds=folds), tmp_path).folds) == made


def test_rows_of_their_own_to_report_on_need_no_folds(write: Write, tmp_path: Path) -> None:
    made = task(write("a.jsonl", rows(20)), eval=write("b.jsonl", rows(9, start=30)))
    assert not read_examples(made, tmp_path).folds
    with pytest.raises(ValueError, match="set one of the two"):
        task("a.jsonl", eval="b.jsonl", folds=5)
    with pytest.raises(ValueError, match="folds is 1"):
        task("a.jsonl", folds=1)


def test_folds_that_leave_nothing_to_learn_are_refused(write: Write, tmp_path: Path) -> None:
    alone = [*rows(1), *({"text": f"other {i}", "label": "bad"} for i in range(30))]
    assert "without one fold there are no two answers" in refused(task(write("a.jsonl", alone), folds=None), tmp_path)


@pytest.mark.parametrize("folds", [0, None])
def test_groups_stay_together(write: Write, tmp_path: Path, folds: int | None) -> None:
    grouped = [{**row, "customer": i // 4} for i, row in enumerate(rows(80))]
    made = task(write("a.jsonl", grouped), group="customer", folds=folds)
    examples = read_examples(made, tmp_path)
    parts = (
        [examples] if folds == 0 else [examples.of_fold(fold, made.data, seed=1, rule=made.output) for fold in range(5)]
    )
    for part in parts:
        groups = [{row.group for row in some} for some in (part.train, part.validation, part.eval)]
        assert sum(map(len, groups)) == len(set().union(*groups)) == 20


def test_groups_that_leak_or_are_missing_are_refused(write: Write, tmp_path: Path) -> None:
    here = [{**row, "customer": "x"} for row in rows(20)]
    there = [{**row, "customer": "x" if i == 4 else "y"} for i, row in enumerate(rows(9, start=30))]
    made = task(write("a.jsonl", here), eval=write("b.jsonl", there), group="customer")
    assert "b.jsonl, row 5: its group is that of row 20 of" in refused(made, tmp_path)
    made = task(write("a.jsonl", [*here, *rows(2, start=50)]), group="customer")
    assert "2 rows (21, 22): its column 'customer' (data.group) is missing" in refused(made, tmp_path)


@pytest.mark.parametrize(
    ("counts", "setting", "weights"),
    [
        ((50, 50), "auto", {}),
        ((50, 20), "auto", {}),
        ((50, 20), "balanced", {"good": 0.7, "bad": 1.75}),
        ((90, 10), "auto", {"good": 100 / 180, "bad": 5.0}),
        ((90, 10), "none", {}),
        ((990, 10), "auto", {"good": 1000 / 1090, "bad": 10_000 / 1090}),
    ],
)
def test_labels_count_alike(counts: tuple[int, int], setting: str, weights: dict[str, float]) -> None:
    answers = ["good"] * counts[0] + ["bad"] * counts[1]
    found = class_weights(answers, setting)
    assert found == pytest.approx(weights)
    assert sum(found.get(answer, 1) for answer in answers) == pytest.approx(len(answers))


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
        ([*rows(9), {"text": "x", "label": "goood"}], "'goood' is none of good, bad: did you mean good?"),
        ([*rows(9), {"text": "x", "label": "so-so"}], "row 10: its label 'so-so' is none of good, bad: correct"),
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


@pytest.mark.parametrize(
    ("make", "text", "instruction"),
    [
        (lambda i: {"conversations": [{"from": "human", "value": f"t {i}"}, {"from": "gpt", "value": "?"}]}, "t 0", ""),
        (
            lambda i: {
                "conversations": [
                    {"from": "system", "value": "Judge."},
                    {"from": "user", "value": f"t {i}"},
                    {"from": "bot", "value": "?"},
                ],
                "tools": None,
            },
            "t 0",
            "Judge.",
        ),
        (lambda i: {"instruction": "Judge.", "input": f"t {i}", "output": "?"}, "t 0", "Judge."),
        (lambda i: {"instruction": f"Judge t {i}.", "input": "", "output": "?"}, "Judge t 0.", ""),
        (lambda i: {"instruction": f"Judge t {i}.", "output": "?"}, "Judge t 0.", ""),
        (lambda i: {"instruction": f"Judge {i % 3}.", "input": f"t {i}", "output": "?"}, "Judge 0.\n\nt 0", ""),
    ],
    ids=["ShareGPT", "ShareGPT with a system", "Alpaca", "Alpaca, no input", "Alpaca, no column", "Alpaca, many"],
)
def test_what_other_tools_write_is_read(
    write: Write, tmp_path: Path, make: Callable[[int], dict[str, Any]], text: str, instruction: str
) -> None:
    lines = [json.loads(json.dumps(make(i)).replace('"?"', json.dumps(LABELS.labels[i % 2]))) for i in range(20)]
    examples = read_examples(task(write("a.jsonl", lines)), tmp_path)
    [first] = [row for row in (*examples.train, *examples.validation, *examples.eval) if row.number == 1]
    assert (first.text, first.answer, examples.instruction) == (text, "good", instruction)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"conversations": "Soup?"}, "its conversations must be a list of objects with from and value"),
        ({"conversations": [{"from": "human", "value": "Soup?"}]}, "must be turns of the user and the assistant"),
        ({"instruction": 3, "input": "Soup?", "output": "good"}, "its instruction or its input is no text"),
        ({"instruction": "Judge.", "input": "Soup?", "output": "good", "score": 3}, "its columns are"),
    ],
)
def test_what_other_tools_write_wrongly_is_told(write: Write, tmp_path: Path, line: dict[str, Any], words: str) -> None:
    assert words in refused(task(write("a.jsonl", [line])), tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.parquet", "is a Parquet file, which is not read: write it as JSONL, CSV or TSV, with `datasets`"),
        ("a.xlsx", "is an Excel file, which is not read: write it as JSONL, CSV or TSV, with the program that made it"),
        ("a.jsonl.gz", "is compressed, which is not read: write it as JSONL, CSV or TSV, by unpacking it"),
        (
            "a.dataset",
            "may be JSONL, JSON, CSV or TSV, and its name does not say which: give it that ending",
        ),
    ],
)
def test_files_of_other_kinds_say_what_to_do(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1")
    assert words in refused(task(name), tmp_path)


def test_a_folder_that_a_library_saved_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    assert "is a folder: name a file in it; one that `datasets` saved becomes one by" in refused(
        task("saved"), tmp_path
    )


def test_all_leaks_are_told_at_once(write: Write, tmp_path: Path) -> None:
    made = task(write("a.jsonl", rows(20)), eval=write("b.jsonl", [*rows(5, start=30), *rows(3, start=7)]))
    said = refused(made, tmp_path)
    assert "b.jsonl: 3 findings" in said
    assert all(f"row {number}: its text is row {number + 2} of" in said for number in (6, 7, 8))


def test_rows_that_leak_into_the_evaluation_are_refused(write: Write, tmp_path: Path) -> None:
    made = task(write("a.jsonl", rows(20)), eval=write("b.jsonl", [*rows(5, start=30), *rows(1, start=7)]))
    assert "b.jsonl, row 6: its text is row 8 of" in refused(made, tmp_path)


def test_shares_that_leave_nothing_to_learn_from_are_refused(write: Write, tmp_path: Path) -> None:
    made = task(write("a.jsonl", rows(20)), eval_share=0.99)
    assert "leave 1 of 20 rows to learn from, 1 to validate on and 18 to report on: lower" in refused(made, tmp_path)


def test_an_evaluation_file_of_one_class_is_refused(write: Write, tmp_path: Path) -> None:
    good = [{"text": f"other {i}", "label": "good"} for i in range(9)]
    made = task(write("a.jsonl", rows(20)), eval=write("b.jsonl", good))
    assert "b.jsonl: all rows have one answer" in refused(made, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "x", "label": "good"}\n[1]\n', "row 2: it is no JSON object"),
        (
            "a.jsonl",
            b"\xff\xfd",
            "row 1: its byte 0xff is of another encoding: name its encoding in data.encoding",
        ),
        ("a.csv", b"text,label\nx\n", "row 1: it has more or fewer cells"),
        ("a.csv", b'text,label\n"x,good\n', "it is no CSV"),
        ("a.csv", b"text,label,label\nx,good,bad\n", "names 'label' twice in its head"),
        ("a.csv", b'text,label\nx, "good"\n', "row 1: a space stands before the quote of a cell"),
        ("a.csv", b'text,label\n"x,good\ny,bad\nz\n', "2 findings. In row 1: it is no CSV"),
        ("a.csv", b"text,label\ncaf\xe9,good\ny,bad\nth\xe9,bad\n", "2 rows (1, 3): its byte 0xe9 is of another"),
        ("a.rows", b"", "(in a task: data.format)"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert words in refused(task(name), tmp_path)


@pytest.mark.parametrize("head", ["sep=;\ntext;label;\n", ";text;label\n", "text ; label;\n"])
def test_a_table_as_spreadsheets_and_data_frames_write_it(tmp_path: Path, head: str) -> None:
    begin, end = (";", "") if head.startswith(";") else ("", ";")
    lines = [f"{begin}text {i} {'w' * 200_000 * (i == 1)};{LABELS.labels[i % 2]}{end}\n" for i in range(12)]
    (tmp_path / "a.csv").write_text(head + "".join(lines))
    examples = read_examples(task("a.csv"), tmp_path)
    assert {row.text.split()[1] for row in (*examples.train, *examples.validation, *examples.eval)} == {
        str(i) for i in range(12)
    }


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in refused(task("nowhere.jsonl"), tmp_path)


SCHEMA = {"type": "object", "properties": {"a": {"type": ["number", "null"]}}, "required": ["a"]}


def chat(i: int, *before: dict[str, Any], **last: Any) -> dict[str, Any]:
    answer = {"role": "assistant", "content": LABELS.labels[i % 2], **last}
    return {"messages": [*before, {"role": "user", "content": f"text {i}"}, answer]}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (lambda i: chat(i, {"role": "developer", "content": "Judge."}), "text 3"),
        (lambda i: chat(i, weight=1) | {"tools": []}, "text 3"),
        (
            lambda i: chat(i, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}),
            "User: hi\nAssistant: hello\nUser: text 3",
        ),
        (
            lambda i: {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "two"}, {"type": "text", "text": f"text {i}"}],
                    },
                    {"role": "assistant", "content": [{"type": "text", "text": LABELS.labels[i % 2]}]},
                ]
            },
            "two\ntext 3",
        ),
    ],
    ids=["developer", "weight and tools", "turns", "parts"],
)
def test_chat_files_of_every_kind(
    write: Write, tmp_path: Path, line: Callable[[int], dict[str, Any]], text: str
) -> None:
    examples = read_examples(task(write("a.jsonl", [line(i) for i in range(12)])), tmp_path)
    found = {row.number: row for row in (*examples.train, *examples.validation, *examples.eval)}
    assert (len(found), found[4].text, found[4].answer) == (12, text, "bad")


def test_an_answer_of_weight_nought_is_not_learnt(write: Write, tmp_path: Path) -> None:
    lines = [*(chat(i) for i in range(12)), chat(12, weight=0)]
    examples = read_examples(task(write("a.jsonl", lines)), tmp_path)
    assert len([*examples.train, *examples.validation, *examples.eval]) == 12


@pytest.mark.parametrize(
    ("labels", "values", "written"),
    [
        (["0", "1"], [0, 1], ["0", "1"]),
        (["0", "1"], [0.0, 1.0], ["0", "1"]),
        (["1.5", "2"], [1.5, 2], ["1.5", "2"]),
        (["true", "false"], [True, False], ["true", "false"]),
    ],
)
def test_a_number_or_a_boolean_is_a_label_where_its_text_is(
    write: Write, tmp_path: Path, labels: list[str], values: list[Any], written: list[str]
) -> None:
    lines = [{"text": f"text {i}", "label": values[i % 2]} for i in range(12)]
    examples = read_examples(task(write("a.jsonl", lines), output=Choice(labels=labels)), tmp_path)
    assert {row.answer for row in examples.train} == {*written}


@pytest.mark.parametrize(
    ("value", "output", "words"),
    [
        (7, LABELS, "its label is a number, labels are text: write one of good, bad"),
        (True, LABELS, "its label is a boolean, labels are text"),
        ("Good", LABELS, "its label is 'good' with other capital letters"),
        (None, LABELS, "its answer is empty or no text"),
        (5, Text(), "its answer is 5, and the task wants text: write it in quotes"),
        (2, Boolean(), "its answer is neither true nor false"),
        ("nan", Number(), "its answer is no finite number"),
    ],
)
def test_a_label_that_is_none_says_why(
    write: Write, tmp_path: Path, value: Any, output: OutputRule, words: str
) -> None:
    lines = [*rows(9), {"text": "x", "label": value}]
    if output is not LABELS:
        lines = [{"text": f"text {i}", "label": i % 2} for i in range(9)] + lines[9:]
    assert words in refused(task(write("a.jsonl", lines), output=output), tmp_path)


def test_all_findings_come_in_one_list_with_counts(write: Write, tmp_path: Path) -> None:
    lines: list[Any] = rows(30)
    for number in (2, 4, 6, 8, 10, 12, 14):
        lines[number - 1] = {"text": " ", "label": "good"}
    lines[19] = {"text": "x", "label": "so-so"}
    lines[20] = {"text": "text 2", "label": "good"}
    lines[21] = ["no object"]
    message = refused(task(write("a.jsonl", lines)), tmp_path)
    assert "a.jsonl: 10 findings. In 7 rows (2, 4, 6, 8, 10 and 2 more): its text is empty" in message
    for words in (
        "in row 20: its label 'so-so' is none",
        "in row 21: it repeats row 3",
        "in row 22: it is no JSON object",
    ):
        assert words in message


def test_duplicates_are_dropped_where_that_is_asked(write: Write, tmp_path: Path) -> None:
    name = write("a.jsonl", [*rows(20), *rows(5)])
    assert "data.duplicates: drop" in refused(task(name), tmp_path)
    examples = read_examples(task(name, duplicates="drop"), tmp_path)
    assert len([*examples.train, *examples.validation, *examples.eval]) == 20
    contradicting = write("b.jsonl", [*rows(20), {"text": "text 3", "label": "good"}])
    assert "has another answer" in refused(task(contradicting, duplicates="drop"), tmp_path)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_an_array_is_read_under_either_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(json.dumps(rows(12), indent=1), "utf-8")
    assert len(read_examples(task(name), tmp_path).eval) == 2


@pytest.mark.parametrize(
    ("name", "sign", "encoding"),
    [("a.csv", ";", "utf-8"), ("a.tsv", "\t", "utf-8"), ("a.csv", "|", "utf-8"), ("a.csv", ",", "cp1252")],
)
def test_tables_however_they_are_divided_and_encoded(tmp_path: Path, name: str, sign: str, encoding: str) -> None:
    lines = [f"text{sign}label", *(f"café {i}{sign}{LABELS.labels[i % 2]}" for i in range(12))]
    (tmp_path / name).write_bytes("\n".join(lines).encode(encoding))
    if encoding != "utf-8":
        assert "name its encoding in data.encoding" in refused(task(name), tmp_path)
    examples = read_examples(task(name, encoding=encoding), tmp_path)
    assert {row.text for row in examples.train} <= {f"café {i}" for i in range(12)}


def test_nan_is_no_answer(tmp_path: Path) -> None:
    lines = [f'{{"text": "t {i}", "label": {{"a": {i}}}}}' for i in range(12)]
    lines[3] = lines[3].replace('"a": 3', '"a": NaN')
    (tmp_path / "a.jsonl").write_text("\n".join(lines), "utf-8")
    assert "row 4: it holds NaN or Infinity" in refused(task("a.jsonl", output=Json(schema=SCHEMA)), tmp_path)


def test_columns_of_nothing_need_not_be_ignored(write: Write, tmp_path: Path) -> None:
    lines = [row | {"note": None, "tags": []} for row in rows(12)]
    assert len(read_examples(task(write("a.jsonl", lines)), tmp_path).eval) == 2
